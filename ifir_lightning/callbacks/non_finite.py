"""NonFinite: a loss or gradient that is no number never reaches the weights, and its rows are written down."""

import json
import logging
import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from ifir_lightning import distributed, durable
from ifir_lightning.errors import InputError
from ifir_lightning.records import Batch

_log = logging.getLogger(__name__)
MOST_SKIPPED = 10
"""Steps in a row; more are no accident of the data."""


class NonFinite(Callback):
    """Looks at the gradients of every optimizer step, of all ranks, before they change a weight.

    That is one wait for the backward pass in a step: afterwards it would be too late.

    Where their norm is infinite or no number, ``<run folder>/non_finite/step-XXXXXXXX.json`` gets the rows of the
    table and the loss of every rank. Under ``16-mixed`` infinite gradients of a finite loss are left to Lightning's
    loss scaling, which lowers its factor.

    Args:
        action: ``stop`` the run, whose last checkpoint is sound; or ``skip`` the step and count it
            (``train/skipped_steps``), at most ``MOST_SKIPPED`` in a row.

    Raises:
        InputError: At such a step.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop") -> None:
        self.action = action
        self.skipped, self._in_a_row = 0, 0
        self._rows: list[torch.Tensor] = []  # on the device, where nobody waits for them
        self._losses: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._rows.append(batch.rows_Q)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        self._losses.append(loss.detach() * trainer.accumulate_grad_batches)

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        losses, rows = self._losses, self._rows
        self._losses, self._rows = [], []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(distributed.total_norm(gradients))  # the same on every rank
        if math.isfinite(norm):
            self._in_a_row = 0
            return
        own: dict[str, Any] = {
            "rank": distributed.rank(),
            "losses": [float(loss) for loss in losses],
            "rows": torch.cat(rows).tolist(),
        }
        by_rank = distributed.gather_objects(own)
        is_loss = not all(math.isfinite(loss) for each in by_rank for loss in each["losses"])
        if not is_loss and trainer.precision == "16-mixed":
            return
        self._report(trainer, "loss" if is_loss else "gradient", norm, by_rank)
        optimizer.zero_grad(set_to_none=True)  # parameters without a gradient stay as they are
        module.log("train/skipped_steps", float(self.skipped))

    def _report(self, trainer: Trainer, what: str, norm: float, by_rank: list[dict[str, Any]]) -> None:
        file = Path(trainer.default_root_dir) / "non_finite" / f"step-{trainer.global_step + 1:08d}.json"
        if trainer.is_global_zero:
            record = {"step": trainer.global_step + 1, "epoch": trainer.current_epoch, "gradient_norm": norm}
            durable.write_text(file, json.dumps(record | {"ranks": by_rank}, indent=1) + "\n")
        message = f"the {what} of step {trainer.global_step + 1} is not finite (rows and losses: {file})"
        if self.action == "stop":
            raise InputError(
                f"{message}; allowed are numbers: look at those rows, lower model.optimizer.learning_rate, raise the "
                "loss's temperature, or leave such steps out with --non_finite.action skip; the checkpoints are sound"
            )
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        if self._in_a_row > MOST_SKIPPED:
            raise InputError(
                f"{message}, and so were the {MOST_SKIPPED} before it; allowed are {MOST_SKIPPED} skipped steps in a "
                "row: lower model.optimizer.learning_rate; the checkpoints are sound"
            )
        if trainer.is_global_zero:
            _log.warning("%s: it is skipped", message)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
