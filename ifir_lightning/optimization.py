"""Which parameters learn how fast, and how that changes over the steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import Parameter

from ifir_lightning.errors import InputError


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
    """Warm-up, then a decay to zero at ``total_steps``.

    Args:
        decay: ``linear``, ``cosine`` or ``constant`` (no decay).
        warmup_steps: Optimizer steps over which the learning rate rises linearly from zero to its peak.
        total_steps: Optimizer steps until the learning rate is zero; by default the trainer's ``max_steps``.
            It is never derived from the length of the data, so that resuming cannot change it.
    """

    decay: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 0
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise InputError(f"model.schedule.warmup_steps is {self.warmup_steps}; allowed is 0 or more: set it to 0")

    def build(self, optimizer: torch.optim.Optimizer, max_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """The scheduler, stepped once per optimizer step.

        Raises:
            InputError: A decay without an end, or a warm-up longer than the training.
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
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at ``step`` (0 is the first), in [0, 1]."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        left = max(0.0, (total_steps - step) / max(1, total_steps - self.warmup_steps))
        return left if self.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
