"""Which parameters learn how fast, and how that changes over the steps."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import Parameter

from ifir_lightning.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdamW:
    """AdamW; weight decay applies to matrices only (no biases, no norms).

    Args:
        learning_rate: Peak learning rate.
        new_layers_learning_rate: Peak learning rate of the layers that pooling, scorer and loss bring along
            (projection, token weights); by default the same.
        weight_decay: Decoupled weight decay.
        betas: Decay of the running means of gradient and squared gradient.
    """

    learning_rate: float = 1e-4
    new_layers_learning_rate: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "new_layers_learning_rate"):
            if (rate := getattr(self, name)) is not None and not 0 <= rate < math.inf:
                raise InputError(f"model.optimizer.{name} is {rate}; allowed is 0 or more: set it to 1e-5 to 1e-2")
        if self.weight_decay < 0:
            raise InputError(f"model.optimizer.weight_decay is {self.weight_decay}; allowed is 0 or more: set it to 0")

        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"model.optimizer.betas is {self.betas}; allowed is 0 to below 1: set it to [0.9, 0.999]")

    def build(self, backbone: Iterable[Parameter], new_layers: Iterable[Parameter]) -> torch.optim.AdamW:
        """The optimizer, one group per learning rate and weight decay."""
        new_rate = self.learning_rate if self.new_layers_learning_rate is None else self.new_layers_learning_rate
        groups = [*self._groups(backbone, self.learning_rate), *self._groups(new_layers, new_rate)]
        return torch.optim.AdamW(groups, betas=self.betas)

    def _groups(self, parameters: Iterable[Parameter], rate: float) -> list[dict[str, Any]]:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "lr": rate, "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then a decay to zero at ``total_steps``; in between, if asked for, a stable part.

    With ``decay_steps`` it is warm-up-stable-decay (WSD; MiniCPM, Hu et al. 2024, section 4): until the decay begins,
    the learning rate does not depend on the length of the training. So one run with a constant rate, the trunk, is the
    beginning of trainings of every length, and each costs its ``decay_steps`` only: a fit that continues a checkpoint
    of the trunk and decays from there (``--ckpt_path``), bit for bit the training that decays at its end.

    Args:
        decay: ``linear``, ``cosine`` or ``constant`` (no decay).
        warmup_steps: Optimizer steps over which the learning rate rises linearly from zero to its peak.
        decay_steps: The decay takes the last so many steps; by default, all that follow the warm-up.
        total_steps: Optimizer steps until the learning rate is zero; by default the trainer's ``max_steps``.
            It is never derived from the length of the data, so that resuming cannot change it.
    """

    decay: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 0
    decay_steps: int | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise InputError(f"model.schedule.warmup_steps is {self.warmup_steps}; allowed is 0 or more: set it to 0")
        if self.decay_steps is not None and (self.decay_steps < 1 or self.decay == "constant"):
            raise InputError(
                f"model.schedule.decay_steps is {self.decay_steps} with decay {self.decay}; allowed is 1 or more with "
                "linear or cosine: correct it, or leave it out"
            )

    def build(self, optimizer: torch.optim.Optimizer, max_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """The scheduler, stepped once per optimizer step.

        Raises:
            InputError: A decay without an end, or a warm-up, alone or with the decay, longer than the training.
        """
        total_steps = self.total_steps if self.total_steps is not None else max_steps
        if self.decay != "constant" and total_steps <= 0:
            raise InputError(
                f"model.schedule.decay is {self.decay}, but neither model.schedule.total_steps nor "
                "trainer.max_steps says when it ends: set one of them, or decay to constant"
            )
        if 0 < total_steps < self.warmup_steps:
            raise InputError(
                f"model.schedule.warmup_steps is {self.warmup_steps}; allowed are 0 to {total_steps}, the number of "
                "training steps: lower it"
            )
        left = total_steps - self.warmup_steps
        if self.decay_steps is not None and self.decay_steps > left:
            raise InputError(
                f"model.schedule.decay_steps is {self.decay_steps}; allowed are 1 to {left}, "
                f"what the warm-up leaves of {total_steps} training steps: lower it"
            )
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at ``step`` (0 is the first), in [0, 1]."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        decay_steps = max(1, total_steps - self.warmup_steps) if self.decay_steps is None else self.decay_steps
        left = min(1.0, max(0.0, (total_steps - step) / decay_steps))
        return left if self.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))


Hyperparameters = list[dict[str, Any]]
"""Of every group of an optimizer: all but its parameters."""


def hyperparameters(optimizer: torch.optim.Optimizer) -> Hyperparameters:
    """Learning rate, weight decay and so on, as they are now."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def restate(scheduler: torch.optim.lr_scheduler.LambdaLR, built: Hyperparameters) -> None:
    """Let what the recipe says hold at the step that has been reached, not what stood in the checkpoint.

    A checkpoint holds the rate of its next step, as its own run would have had it, beside the moments.

    Args:
        scheduler: Of an optimizer whose state, like its own, was just loaded.
        built: ``hyperparameters`` of the optimizer before that.
    """
    groups = scheduler.optimizer.param_groups
    before = [group["lr"] for group in groups]
    for group, own, factor in zip(groups, built, scheduler.lr_lambdas, strict=True):
        group.update(own | {"lr": own["initial_lr"] * factor(scheduler.last_epoch)})
    scheduler.base_lrs = [own["initial_lr"] for own in built]
    for was, group in zip(before, groups, strict=True):
        if not math.isclose(was, group["lr"], rel_tol=1e-6):
            _log.info(
                "the learning rate goes on at %.3g, where the checkpoint's run had %.3g: optimizer, schedule and "
                "trainer.max_steps of the recipe say so",
                group["lr"],
                was,
            )
            break
