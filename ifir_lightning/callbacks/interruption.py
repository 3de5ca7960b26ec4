"""Interruption: a signal to any rank ends the run after a whole step, with a checkpoint, to be continued."""

import logging
import os
import re
import signal
import subprocess
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from ifir_lightning import distributed
from ifir_lightning.callbacks.checkpoints import Checkpoints, validation_is_due

_log = logging.getLogger(__name__)
EXIT_STATUS = {
    signal.SIGINT: 128 + signal.SIGINT,
    signal.SIGUSR1: 128 + signal.SIGTERM,
    signal.SIGTERM: 128 + signal.SIGTERM,
}
"""Of a run that a signal ended: not 0, so that torchrun and schedulers know that there is more to do."""
_ORDER = (0, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Of several signals the last of these counts: SLURM sends SIGTERM after SIGUSR1 if the run is not out in time."""
_HEARD = b"\nCtrl-C: the run ends after this step, with a checkpoint; once more ends it at once\n"


class Interruption(Callback):
    """SIGTERM, SIGUSR1 or Ctrl-C, to one rank or to all: every rank ends its step, a checkpoint is written, all leave.

    The handler only sets a flag; after each step the ranks tell each other theirs. A validation that is due or under
    way is finished first; a second Ctrl-C waits for nothing. Under SLURM, SIGUSR1 (``#SBATCH --signal=USR1@120``) also
    puts the job back into the queue. It replaces Lightning's handlers, which broadcast from inside a signal and end
    with status 0.
    """

    def __init__(self) -> None:
        self._received, self._is_impatient = 0, False
        self._before: dict[int, Any] = {}
        self._step_before = 0
        self._leaves = 0

    def listen(self) -> None:
        """Remember a SIGUSR1 from now on, which would kill a process that still starts: its run ends after a step."""
        signal.signal(signal.SIGUSR1, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage == "fit":
            # Lightning has no other way to keep its handlers out
            trainer._signal_connector.register_signal_handlers = self._install  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._leaves:  # the row of the last step is in the log by now
            if self._leaves == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ and trainer.is_global_zero:
                _requeue()
            raise SystemExit(EXIT_STATUS[signal.Signals(self._leaves)])
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._step_before and not validation_is_due(trainer) and self._is_asked(trainer):
            for saver in _savers(trainer):
                saver.save_if_new(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """``Checkpoints`` writes one at this moment anyway, with its score."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step > self._step_before:
            self._is_asked(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._uninstall()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._uninstall()

    def _install(self) -> None:
        self._before = {each: signal.signal(each, self._receive) for each in EXIT_STATUS}

    def _uninstall(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._is_impatient:
                raise KeyboardInterrupt
            self._is_impatient = True
            os.write(2, _HEARD)  # a handler must not log: it may have interrupted a logger
        self._received = max(self._received, _ORDER.index(number))

    def _is_asked(self, trainer: Trainer) -> bool:
        """Whether a signal has reached any rank; all ranks ask together, until one has."""
        if self._leaves:
            return False
        self._leaves = _ORDER[distributed.all_reduce_max(self._received)]
        if self._leaves and trainer.is_global_zero:
            name, step, kept = signal.Signals(self._leaves).name, trainer.global_step, bool(_savers(trainer))
            then = "start it again and it continues" if kept else "without a checkpoint: Checkpoints is no callback"
            _log.warning("%s: the run ends after step %d; %s", name, step, then)
        return self._leaves > 0


def _savers(trainer: Trainer) -> list[Checkpoints]:
    return [each for each in trainer.callbacks if isinstance(each, Checkpoints)]  # type: ignore[attr-defined]


def _requeue() -> None:
    """Put this job of SLURM back into the queue; an array's task goes by its own number."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    assert re.fullmatch(r"[0-9_]+", job), job
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        message = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        message = str(error)
    if message:
        _log.error("scontrol requeue %s failed (%s): submit the job again, it continues", job, message)
    else:
        _log.warning("job %s is in the queue again", job)
