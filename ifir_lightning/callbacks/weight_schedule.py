"""WeightSchedule: weights of the kinds of negatives that change during training."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from lightning import Callback, LightningModule, Trainer

from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Batch, Kind

Points = Sequence[tuple[int, float]]


class WeightSchedule(Callback):
    """Sets the weights of every ``InfoNCE`` of the loss, by the step alone: a resumed run goes on with the same ones.

    A schedule is a list of [optimizer step, weight]: the weight is the first one's until its step, changes evenly from
    point to point, and stays the last one's. [[0, 0], [500, 0], [1000, 4]] leaves a kind out for 500 steps and has it
    at 4 from step 1000 on. Logged as ``train/weight_<kind>``.

    Args:
        instruction_negative: Of ``InfoNCE``'s ``instruction_negative_weight``; by default the loss's own weight stays.
        hard_negative: Of its ``hard_negative_weight``.
        in_batch: Of its ``in_batch_weight``.
    """

    def __init__(
        self,
        instruction_negative: Points | None = None,
        hard_negative: Points | None = None,
        in_batch: Points | None = None,
    ) -> None:
        schedules = {
            Kind.INSTRUCTION_NEGATIVE: instruction_negative,
            Kind.HARD_NEGATIVE: hard_negative,
            Kind.IN_BATCH: in_batch,
        }
        self.schedules = {kind: points for kind, points in schedules.items() if points is not None}
        for kind, points in self.schedules.items():
            _check(kind, points)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """See that there is a loss to set.

        Raises:
            InputError: No ``InfoNCE``.
        """
        assert isinstance(module, RetrieverModule)
        if stage == "fit" and not any(isinstance(part, InfoNCE) for part in module.loss.modules()):
            raise InputError(
                f"WeightSchedule sets weights of InfoNCE, but model.loss is {type(module.loss).__name__}; allowed is "
                "InfoNCE, or a WeightedSum with one: leave the callback out, or change the loss"
            )

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        assert isinstance(module, RetrieverModule)
        for kind, points in self.schedules.items():
            steps, weights = zip(*points, strict=True)
            weight = float(np.interp(trainer.global_step, steps, weights))
            for part in module.loss.modules():
                if isinstance(part, InfoNCE):
                    part.weigh(kind, weight)
            module.log(f"train/weight_{kind.name.lower()}", weight)


def _check(kind: Kind, points: Points) -> None:
    steps, weights = ([point[place] for point in points if len(point) == 2] for place in (0, 1))
    rising = len(steps) == len(points) > 0 and all(first < second for first, second in pairwise(steps))
    if not rising or not all(weight >= 0 and math.isfinite(weight) for weight in weights):
        raise InputError(
            f"WeightSchedule of {kind.name.lower()} is {points}; allowed are [step, weight] with rising steps and "
            "finite weights from 0, e.g. [[0, 0], [1000, 4]]: correct it"
        )
