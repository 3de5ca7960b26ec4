"""Gradient norms before clipping, by hand and against the update that clipping leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from small import HEADS, Head, Recorder, retriever, synthetic_data, trainer

from ifir_lightning.callbacks import gradients
from ifir_lightning.callbacks.gradients import GradientNorm

NORM, BACKBONE, NEW = (f"train/gradient_norm{part}" for part in ("", "_backbone", "_new_layers"))


class Gradients(Callback):
    """Norms of what the optimizer gets, clipped, and of the whole before, by a slow loop."""

    def __init__(self) -> None:
        self.before: list[dict[str, float]] = []
        self.after: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        squares = {NORM: 0.0, BACKBONE: 0.0, NEW: 0.0}
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                square = sum(value * value for value in parameter.grad.double().flatten().tolist())
                for part in (NORM, BACKBONE if ".backbone." in name else NEW):
                    squares[part] += square
        self.before.append({name: square**0.5 for name, square in squares.items()})

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        self.after.append(torch.cat(grads).norm().item())


def fit(folder: Path, backbone: Path, head: Head = "maxsim", **settings: Any) -> tuple[Gradients, Recorder]:
    seen, recorder = Gradients(), Recorder()
    fit_trainer = trainer(folder, GradientNorm(), seen, recorder, max_steps=4, **settings)
    fit_trainer.fit(retriever(backbone, head), synthetic_data())
    return seen, recorder


@pytest.mark.parametrize("head", HEADS)
def test_norms_equal_a_slow_loop(head: Head, modernbert: Path, tmp_path: Path) -> None:
    seen, recorder = fit(tmp_path, modernbert, head, gradient_clip_val=0.01)
    for expected, found in zip(seen.before, recorder.metrics, strict=True):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert (expected[NEW] > 0) == (head != "bi-encoder")
    assert seen.after == pytest.approx([0.01] * 4, rel=1e-3)  # what is logged is what was before the clip


def test_the_norm_of_no_gradients_lies_where_the_others_do() -> None:
    """As of a bi-encoder's new layers, on a GPU."""
    assert gradients._norm([], torch.device("meta")).device.type == "meta"


def test_the_share_of_clipped_steps(modernbert: Path, tmp_path: Path) -> None:
    """With the limit between the norms of the first four steps, half of them are clipped."""
    norms = sorted(each[NORM] for each in fit(tmp_path, modernbert, gradient_clip_val=1e9)[0].before)
    for limit, share in ((norms[0] / 2, 1.0), (norms[-1] * 2, 0.0)):
        _, recorder = fit(tmp_path, modernbert, gradient_clip_val=limit, log_every_n_steps=4)
        assert recorder.metrics[3]["train/clipped_steps"] == share
        assert "train/clipped_steps" not in recorder.metrics[2]
    seen, recorder = fit(tmp_path, modernbert, gradient_clip_val=sum(norms[1:3]) / 2, log_every_n_steps=2)
    limit = sum(norms[1:3]) / 2
    for last in (1, 3):
        over = [each[NORM] > limit for each in seen.before[last - 1 : last + 1]]
        assert recorder.metrics[last]["train/clipped_steps"] == sum(over) / 2


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_clip_val": -1.0}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}]
)
def test_without_a_limit_for_the_norm_no_step_is_said_to_be_clipped(
    settings: dict[str, Any], modernbert: Path, tmp_path: Path
) -> None:
    _, recorder = fit(tmp_path, modernbert, **settings)
    assert NORM in recorder.metrics[0]
    assert not any("train/clipped_steps" in metrics for metrics in recorder.metrics)
