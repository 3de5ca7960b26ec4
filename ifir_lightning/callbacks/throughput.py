"""Texts and tokens per second of training, over all ranks."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from ifir_lightning import distributed
from ifir_lightning.records import Batch


class Throughput(Callback):
    """Logs ``train/texts_per_second`` and ``train/tokens_per_second`` (real tokens; nothing is padded).

    Counted from one logged step to the next, validation and checkpoints left out.
    """

    def __init__(self) -> None:
        self._texts = self._tokens = 0
        self._seconds = 0.0
        self._mark = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self._mark == 0.0:
            self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._texts += len(batch.queries) + len(batch.passages)
        self._tokens += int(batch.queries.lengths_B.sum() + batch.passages.lengths_B.sum())
        now = time.perf_counter()
        self._seconds, self._mark = self._seconds + now - self._mark, now
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step and trainer.global_step % every == 0:
            self._log(module)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._mark = 0.0

    def _log(self, module: LightningModule) -> None:
        per_second = distributed.world_size() / self._seconds
        module.log_dict(
            {
                "train/texts_per_second": self._texts * per_second,
                "train/tokens_per_second": self._tokens * per_second,
            }
        )
        self._texts = self._tokens = 0
        self._seconds = 0.0
