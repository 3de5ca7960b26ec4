"""What looks on while FollowIRValidation works."""

from pathlib import Path

from lightning import Callback, Trainer

from ifir_lightning.data.evalset import Task
from ifir_lightning.module import RetrieverModule
from ifir_lightning.reranking import Encoded


class ValidationObserver(Callback):
    """A callback that ``FollowIRValidation`` calls, on every rank, so that nothing is encoded twice.

    Per validation: for every FollowIR task ``begin_task``, ``observe`` for each chunk of passages, ``end_task``; then
    ``finish``. All run in the trainer's precision, in evaluation mode.
    """

    def begin_task(self, task: Task, module: RetrieverModule) -> None:
        """Before a task is re-ranked."""

    def observe(self, encoded: Encoded) -> None:
        """A chunk of passages was encoded."""

    def end_task(self) -> None:
        """The task is done."""

    def finish(self, trainer: Trainer, module: RetrieverModule, folder: Path) -> dict[str, float]:
        """What to log, under full names, equal on every rank; files go into ``folder``, from the first rank."""
        return {}
