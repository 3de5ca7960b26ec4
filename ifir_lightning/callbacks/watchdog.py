"""Watchdog: a rank that died, stopped, hangs or was cut off ends the run, with its name, within seconds."""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from ifir_lightning import distributed
from ifir_lightning.errors import InputError, reason
from ifir_lightning.watchdog import RankWatch

_STARTING = 2
"""Batches that belong to the start."""


class Watchdog(Callback):
    """Watches all ranks (see ``watchdog.RankWatch``) and tells where each one is: its phase and its step.

    Args:
        silent_seconds: How long a rank may be silent before every rank ends and names it.
        hang_seconds: How long all ranks together may stand still before they end and name who is waited for; ten times
            as long while they start (until two batches are done: kernels of a GPU are compiled), write a checkpoint, or
            compute on a CPU. 0 switches both off.
        meet_seconds: How long ranks that have joined the process group wait for one another at the start; to join it
            has torch's own limits.

    Raises:
        InputError: A limit that is no number above 0, or ranks that did not come.
    """

    def __init__(self, silent_seconds: float = 8.0, hang_seconds: float = 50.0, meet_seconds: float = 600.0) -> None:
        limits = {"silent_seconds": silent_seconds, "hang_seconds": hang_seconds, "meet_seconds": meet_seconds}
        for name, value in limits.items():
            if not (0 < value < math.inf or (name == "hang_seconds" and value == 0)):
                off = ", or 0 to switch the watch off" if name == "hang_seconds" else ""
                raise InputError(f"watchdog.{name} is {value}; allowed are seconds above 0{off}: set it to 60, for one")
        self.silent_seconds, self.hang_seconds, self.meet_seconds = silent_seconds, hang_seconds, meet_seconds
        self.watch: RankWatch | None = None
        self._batches_done = 0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Begin to watch once all ranks are there."""
        if self.watch is not None or self.hang_seconds == 0:
            return
        store = None
        if distributed.world_size() > 1:
            try:
                distributed.check_in(self.meet_seconds)
            except TimeoutError as error:
                raise InputError(
                    f"not all {distributed.world_size()} ranks came within watchdog.meet_seconds {self.meet_seconds:g} "
                    f"({reason(error)}); allowed is a start of all of them: see the log of those, or raise it"
                ) from error
            store = distributed.open_store(self.silent_seconds)
        on_cpu = trainer.strategy.root_device.type == "cpu"
        self.watch = RankWatch(store, self.silent_seconds, self.hang_seconds, on_cpu)
        self.watch.start()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """The others learn why this rank fails; if it fails because another is gone, which one that is."""
        if self.watch is None:
            return
        if not isinstance(exception, Exception):  # interrupted: all ranks leave together
            self._stop()
        elif distributed.is_lost_peer(exception):
            self.watch.await_verdict()
        else:
            self.watch.fail(f"{type(exception).__name__}: {reason(exception)}")

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._enter("forward pass", trainer)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Any) -> None:
        self._enter("backward pass", trainer)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self._enter("optimizer step", trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches_done += 1
        self._enter("between two steps", trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._enter("validation", trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._enter("after a validation", trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._enter("saving a checkpoint", trainer, patient=True)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._enter("after training", trainer, patient=True)

    def _enter(self, phase: str, trainer: Trainer, patient: bool = False) -> None:
        if self.watch is not None:
            self.watch.enter(phase, trainer.global_step, patient or self._batches_done < _STARTING)

    def _stop(self) -> None:
        if self.watch is not None:
            self.watch.stop()
            self.watch = None
