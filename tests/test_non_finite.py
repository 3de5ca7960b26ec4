"""A step that is not finite never reaches the weights: the run stops and names its rows, or the step is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from small import Recorder, retriever, synthetic_data, trainer

from ifir_lightning import distributed
from ifir_lightning.callbacks import non_finite
from ifir_lightning.callbacks.non_finite import NonFinite
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE, Loss


class Poisoned(Loss):
    """InfoNCE; from the n-th call on this rank, for so many calls, times infinity or no number."""

    def __init__(self, first: int, factor: float = float("nan"), rank: int = 0, times: int = 1) -> None:
        super().__init__()
        self.loss, self.calls, self.factor = InfoNCE(0.1), 0, factor
        self.bad = range(first, first + times) if distributed.rank() == rank else range(0)

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        self.calls += 1
        return self.loss(*args, **options) * (self.factor if self.calls in self.bad else 1.0)


class PoisonedGradient(Loss):
    """A finite loss whose gradient is none: sqrt at 0."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, scores_QP: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return 1 + (scores_QP * 0).sum().sqrt()


def fit(folder: Path, backbone: Path, loss: Loss, watch: NonFinite, **settings: Any) -> tuple[Recorder, dict[str, Any]]:
    recorder, module = Recorder(), retriever(backbone, loss=loss)
    fitting = trainer(folder, recorder, watch, limit_val_batches=0, **{"max_steps": 4, **settings})
    fitting.fit(module, synthetic_data())
    return recorder, module.state_dict()


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_the_run_stops_and_names_the_rows(factor: float, modernbert: Path, tmp_path: Path) -> None:
    expected, _ = fit(tmp_path / "sound", modernbert, InfoNCE(0.1), NonFinite())
    file = tmp_path / "non_finite" / "step-00000003.json"
    with pytest.raises(InputError, match=rf"the loss of step 3 is not finite \(rows and losses: {file}\); allowed"):
        fit(tmp_path, modernbert, Poisoned(3, factor), NonFinite())
    record = json.loads(file.read_text())
    assert (record["step"], record["epoch"]) == (3, 0)
    (rank,) = record["ranks"]
    assert rank["rows"] == expected.rows[2][1]
    assert str(rank["losses"]) == str([factor])


def test_the_weights_are_those_before_the_step(modernbert: Path, tmp_path: Path) -> None:
    """Constant learning rate, so that a step that is left out leaves nothing."""
    recorder, skipped = fit(tmp_path / "a", modernbert, Poisoned(3), NonFinite("skip"), max_steps=3)
    _, two = fit(tmp_path / "b", modernbert, InfoNCE(0.1), NonFinite(), max_steps=2)
    assert all(torch.equal(two[name], skipped[name]) for name in two)
    assert recorder.metrics[-1]["train/skipped_steps"] == 1
    _, three = fit(tmp_path / "c", modernbert, InfoNCE(0.1), NonFinite(), max_steps=3)
    assert not all(torch.equal(two[name], three[name]) for name in two)


def test_a_gradient_that_is_no_number_is_found_under_a_finite_loss(modernbert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the gradient of step 1 is not finite"):
        fit(tmp_path, modernbert, PoisonedGradient(), NonFinite())


def test_all_batches_of_a_step_are_named(modernbert: Path, tmp_path: Path) -> None:
    expected, _ = fit(tmp_path / "sound", modernbert, InfoNCE(0.1), NonFinite(), accumulate_grad_batches=2)
    with pytest.raises(InputError, match="the loss of step 2 is not finite"):
        fit(tmp_path, modernbert, Poisoned(3), NonFinite(), accumulate_grad_batches=2)
    (rank,) = json.loads((tmp_path / "non_finite" / "step-00000002.json").read_text())["ranks"]
    assert rank["rows"] == expected.rows[2][1] + expected.rows[3][1]
    assert str(rank["losses"][0]) == "nan"
    assert rank["losses"][1] == pytest.approx(expected.metrics[3]["train/loss"], rel=1e-6)


def test_steps_are_not_left_out_for_ever(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_finite, "MOST_SKIPPED", 2)
    with pytest.raises(InputError, match=r"step 4 is not finite .* and so were the 2 before it; allowed are 2 skipped"):
        fit(tmp_path, modernbert, Poisoned(2, times=9), NonFinite("skip"), max_steps=9)


def on_a_rank(folder: Path, backbone: Path) -> tuple[list[float], dict[str, Any]]:
    recorder, weights = fit(folder, backbone, Poisoned(2, rank=1), NonFinite("skip"))
    return [each.get("train/skipped_steps", 0) for each in recorder.metrics], weights


def test_two_ranks_leave_out_the_same_step(modernbert: Path, tmp_path: Path) -> None:
    (first, weights), (second, others) = on_ranks(2, on_a_rank, tmp_path, modernbert)
    assert first == second == [0, 1, 1, 1]
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    by_rank = json.loads((tmp_path / "non_finite" / "step-00000002.json").read_text())["ranks"]
    assert [each["rank"] for each in by_rank] == [0, 1]
    assert [str(each["losses"][0]) == "nan" for each in by_rank] == [False, True]
    assert not set(by_rank[0]["rows"]) & set(by_rank[1]["rows"])
