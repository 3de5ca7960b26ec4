"""Weights of negatives over the steps, against literals and against losses of constant weights."""

from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from small import Recorder, retriever, synthetic_data, trainer
from torch import Tensor

from ifir_lightning.callbacks.weight_schedule import WeightSchedule
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE, Loss, WeightedSum
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Kind


class Frozen(Callback):
    """Keeps the weights of the model, so that losses of steps can be compared."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.0


def losses(folder: Path, backbone: Path, *callbacks: Callback, loss: InfoNCE | None = None, steps: int = 4) -> Recorder:
    module, recorder = retriever(backbone), Recorder()
    module.loss = loss or InfoNCE(0.05)
    trainer(folder, recorder, Frozen(), *callbacks, max_steps=steps).fit(module, synthetic_data())
    return recorder


def test_each_step_has_the_loss_of_its_weight(modernbert: Path, tmp_path: Path) -> None:
    schedule = WeightSchedule(instruction_negative=[[1, 0.0], [3, 4.0]], in_batch=[[0, 2.0]])
    found = losses(tmp_path / "schedule", modernbert, schedule)
    assert [each["train/weight_instruction_negative"] for each in found.metrics] == [0, 0, 2, 4]
    assert [each["train/weight_in_batch"] for each in found.metrics] == [2] * 4
    for step, weight in enumerate([0.0, 0.0, 2.0, 4.0]):
        constant = InfoNCE(0.05, instruction_negative_weight=weight, in_batch_weight=2.0)
        expected = losses(tmp_path / f"constant-{step}", modernbert, loss=constant)
        assert found.metrics[step]["train/loss"] == pytest.approx(expected.metrics[step]["train/loss"], rel=1e-6)
    values = [each["train/loss"] for each in found.metrics]
    plain = [each["train/loss"] for each in losses(tmp_path / "plain", modernbert).metrics]
    assert all(one != other for one, other in zip(values, plain, strict=True))


def test_after_the_last_point_the_weight_stays_and_parts_of_a_sum_are_set(modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert)
    module.loss = WeightedSum([InfoNCE(0.05), InfoNCE(0.1)])
    schedule = WeightSchedule(hard_negative=[[0, 1.0], [2, 3.0]])
    trainer(tmp_path, schedule, max_steps=4).fit(module, synthetic_data())
    for part in module.loss.losses:
        assert part.log_weights[Kind.HARD_NEGATIVE].exp().item() == pytest.approx(3.0)
        assert part.log_weights[Kind.INSTRUCTION_NEGATIVE] == 0


@pytest.mark.parametrize("points", [[], [[0, -1.0]], [[5, 1.0], [5, 2.0]], [[0, float("nan")]], [[0, 1.0, 2.0]]])
def test_a_schedule_that_cannot_be_is_refused(points: Any) -> None:
    with pytest.raises(InputError, match=r"WeightSchedule of in_batch is .*; allowed are \[step, weight\] with rising"):
        WeightSchedule(in_batch=points)


class Plain(Loss):
    def forward(self, scores_QP: Tensor, *_: Any, **__: Any) -> Tensor:
        return scores_QP.mean()


def test_a_loss_without_weights_is_refused(modernbert: Path, tmp_path: Path) -> None:
    module: RetrieverModule = retriever(modernbert)
    module.loss = Plain()
    with pytest.raises(InputError, match=r"but model.loss is Plain; allowed is InfoNCE, or a WeightedSum"):
        trainer(tmp_path, WeightSchedule(), max_steps=1).fit(module, synthetic_data())
