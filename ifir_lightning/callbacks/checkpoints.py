"""Checkpoints: which moments of a run are written, and which of them are kept."""

from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from ifir_lightning import manifests
from ifir_lightning.errors import InputError

Monitor = Literal["followir/p_mrr", "followir/score_b"]


class Checkpoints(Checkpoint):
    """Writes ``<run folder>/checkpoints/step-XXXXXXXX.ckpt`` and its manifest, never over another.

    After each validation, with its score; at the end of each epoch and of the run; and, if asked for, every so many
    optimizer steps. Always between two optimizer steps: half a step's gradients are in no checkpoint. The best and the
    last ones are kept; which is which stands in the manifests, so the callback remembers nothing.

    Args:
        monitor: The metric of the best, higher is better.
        keep_last: How many of the newest are kept beside the best; two, so that a damaged one has a predecessor.
        every_n_steps: Also write one every so many optimizer steps; by default only as above.
        keep_steps: Also write one after each of these optimizer steps, and keep it for good: shorter trainings branch
            off there (``optimization.Schedule``).

    Raises:
        InputError: A number of steps or checkpoints below 1; a second callback of this kind, before training begins.
    """

    def __init__(
        self,
        monitor: Monitor = "followir/p_mrr",
        keep_last: int = 2,
        every_n_steps: int | None = None,
        keep_steps: list[int] | None = None,
    ) -> None:
        kept = [("keep_steps", step) for step in keep_steps or ()]
        for name, value in (("keep_last", keep_last), ("every_n_steps", every_n_steps), *kept):
            if value is not None and value < 1:
                raise InputError(f"Checkpoints: {name} is {value}; allowed is 1 or more: raise it")
        self.monitor, self.keep_last, self.every_n_steps = monitor, keep_last, every_n_steps
        self.keep_steps = frozenset(keep_steps or ())
        self._score: tuple[str, float] | None = None
        self._step_before = 0
        self._due, self._saved = False, -1

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if (number := sum(isinstance(each, Checkpoints) for each in callbacks)) > 1:
            raise InputError(
                f"trainer.callbacks names Checkpoints {number} times; allowed is once, since each removes what the "
                "others keep: leave one out"
            )
        seconds = getattr(trainer, "_val_check_time_interval", None)
        if stage == "fit" and seconds is not None and trainer.world_size > 1:
            raise InputError(
                f"trainer.val_check_interval is a time of {seconds:g} s on {trainer.world_size} ranks, whose clocks "
                "differ, so that some would validate and others train on; allowed is a number of batches there: set it "
                "to e.g. 500"
            )

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step_before:  # gradients of the next step are being accumulated
            return
        self._due |= (
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
            or trainer.should_stop
            or trainer.global_step == trainer.max_steps
            or (self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0)
            or trainer.global_step in self.keep_steps
        )
        if self._due and not validation_is_due(trainer):
            self.save_if_new(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if trainer.global_step == self._step_before:
            self._due = True
            rank_zero_warn(
                f"Checkpoints: the validation at step {trainer.global_step} fell between the batches of one step, so "
                "the next step is written, without a score: make trainer.val_check_interval a multiple of "
                "trainer.accumulate_grad_batches"
            )
            return
        self._score = self._scored(trainer)
        self.save(trainer)

    def _scored(self, trainer: Trainer) -> tuple[str, float] | None:
        """The name says of which tasks it is the mean: scores of others are not compared (``manifests.ranked``)."""
        metrics, (benchmark, key) = trainer.callback_metrics, self.monitor.split("/")
        if self.monitor not in metrics:
            return None
        of_tasks = [name.split("/") for name in metrics if name.startswith(f"{benchmark}/") and name.count("/") == 2]
        tasks = sorted(task for _, task, each in of_tasks if each == key)
        return f"{self.monitor} of {', '.join(tasks)}", float(metrics[self.monitor])

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[manifests.SCORE] = self._score

    def save_if_new(self, trainer: Trainer) -> None:
        """At the end of a step that has not been written: its row of the log, then the checkpoint.

        Lightning logs a step once all callbacks have seen it; a run that died in between would lack the row for ever.
        """
        if self._saved == trainer.global_step:
            return
        logs = trainer._logger_connector
        if logs.should_update_logs:
            logs.log_metrics(logs.metrics["log"])
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of this step, then remove what is not kept; called by all ranks."""
        folder = Path(trainer.default_root_dir) / "checkpoints"
        trainer.save_checkpoint(folder / f"step-{trainer.global_step:08d}.ckpt", weights_only=False)
        self._score, self._due, self._saved = None, False, trainer.global_step
        if trainer.is_global_zero:
            manifests.prune(folder, self.keep_last, self.keep_steps)


def never_validates(trainer: Trainer) -> str | None:
    """That a training ends before its first validation, where it is to have any; called when it starts."""
    every, between = trainer.check_val_every_n_epoch, trainer.val_check_batch
    done, num_batches = (steps * trainer.accumulate_grad_batches for steps in (trainer.global_step, trainer.max_steps))
    if not trainer.enable_validation or num_batches < 1 or between is None:
        return None
    first = (every - 1) * trainer.num_training_batches + between if every else between * (done // between + 1)
    if num_batches >= first:
        return None
    return (
        f"there will be no validation: the first would come after batch {first:g}, and trainer.max_steps ends the "
        f"training after {num_batches}; --trainer.check_val_every_n_epoch null --trainer.val_check_interval "
        f"{num_batches} validates at its end"
    )


def validation_is_due(trainer: Trainer) -> bool:
    """Whether Lightning will validate after this batch: a run that continues from here would skip that validation."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
