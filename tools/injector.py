"""A callback that does harm: one fault, at one moment of a run, on one rank (see ``faults.py``)."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule, Trainer

from ifir_lightning import distributed, durable
from ifir_lightning.callbacks.observer import ValidationObserver
from ifir_lightning.module import RetrieverModule
from ifir_lightning.reranking import Encoded

Fault = Literal["kill", "term", "stop", "hang", "exception", "nan", "full disk"]
Moment = Literal["start", "mid-epoch", "epoch end", "save", "validation"]
STEPS: dict[Moment, int] = {"start": 3, "mid-epoch": 14, "epoch end": 12, "save": 15, "validation": 16}
"""The step of each moment, in a run that saves every 5 steps, validates every 8, and whose epochs have 12."""


class Injector(ValidationObserver):
    """One fault.

    Args:
        fault: What happens; ``stop`` is SIGSTOP, ``hang`` sleeps, ``nan`` poisons the loss.
        moment: ``start`` (before the first checkpoint) and ``mid-epoch`` strike between forward and backward pass,
            ``epoch end`` after an epoch's last step, before it is saved, ``save`` in the middle of writing.
        ranks: Whom it strikes.
        mark: A file that says when it struck.
    """

    def __init__(self, fault: Fault, moment: Moment, ranks: list[int], mark: str) -> None:
        assert fault in get_args(Fault), fault
        assert moment in get_args(Moment), moment
        self.fault, self.moment, self.ranks, self.mark = fault, moment, ranks, Path(mark)
        self._step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, RetrieverModule)
        if self.fault == "nan":
            module.loss.register_forward_hook(self._poison)
        if self.moment == "save" and distributed.rank() == 0:
            write = durable.HashedFile.write

            def write_and_fail(file: durable.HashedFile, data: Any) -> int:
                written = write(file, data)
                if self._is_time("save") and file._size > 0:
                    if self.fault == "full disk":
                        self._strike_once()
                        file._error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    else:
                        self._strike()
                return written

            durable.HashedFile.write = write_and_fail  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step + 1

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        if self.fault != "nan" and (self._is_time("start") or self._is_time("mid-epoch")):
            self._strike()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.fault != "nan" and self._is_time("epoch end"):
            self._strike()

    def observe(self, encoded: Encoded) -> None:
        if self._is_time("validation"):
            self._strike()

    def _is_time(self, moment: Moment) -> bool:
        return self.moment == moment and self._step == STEPS[moment] and distributed.rank() in self.ranks

    def _poison(self, loss: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not self._is_time(self.moment):
            return output
        self._strike_once()
        return output * float("nan")

    def _strike(self) -> None:
        if not self._strike_once():
            return
        if self.fault == "exception":
            raise RuntimeError("injected")
        if self.fault == "hang":
            while True:
                time.sleep(3600)
        signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
        os.kill(os.getpid(), signals[self.fault])

    def _strike_once(self) -> bool:
        """Leave the mark; whether this rank had none there."""
        mark = self.mark.with_name(f"{self.mark.name}-{distributed.rank()}")
        first = not mark.exists()
        mark.touch()
        return first
