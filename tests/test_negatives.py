"""Negatives by kind: counts, accuracy, margins and shares of the gradient, by hand, by a loop, on two ranks."""

import math
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from small import Recorder, retriever, synthetic_data, trainer
from torch import Tensor

from ifir_lightning.callbacks.negatives import TypedNegatives
from ifir_lightning.losses import InfoNCE
from ifir_lightning.negatives import NAMES, count_negatives, negative_figures
from ifir_lightning.records import Kind

P, I, H, B, X = Kind.POSITIVE, Kind.INSTRUCTION_NEGATIVE, Kind.HARD_NEGATIVE, Kind.IN_BATCH, Kind.EXCLUDED


def test_two_queries_by_hand() -> None:
    """The second of two ranks: its 4 passages begin at column 2, the first 2 columns are another rank's."""
    kinds_QP = torch.tensor([[B, B, P, I, B, B], [X, B, B, B, P, H]])
    scores_QP = torch.tensor([[1.0, 3.0, 2.0, 1.5, 0.0, 1.0], [9.0, 0.0, 1.0, 1.0, 1.0, 3.0]])
    gradients_QP = torch.tensor([[0.1, 0.2, -1.0, 0.4, 0.0, 0.3], [0.0, -0.1, 0.1, 0.2, -2.0, 0.6]])
    sums = count_negatives(scores_QP, torch.tensor([2, 4]), kinds_QP, gradients_QP, num_own=4)
    assert negative_figures(sums, num_queries=2) == pytest.approx(
        {
            "instruction/count": 0.5,
            "instruction/accuracy": 1.0,
            "instruction/margin": 0.5,
            "instruction/gradient_share": 0.4 / 2,
            "hard/count": 0.5,
            "hard/accuracy": 0.0,
            "hard/margin": -2.0,
            "hard/gradient_share": 0.6 / 2,
            "in_batch/count": 2.0,
            "in_batch/accuracy": 0.5,  # the second query's positive only ties
            "in_batch/margin": (2.0 + 1.0 + 0.0 + 0.0) / 4,
            "in_batch/gradient_share": 0.6 / 2,
            "cross_rank/count": 1.5,
            "cross_rank/accuracy": 0.5,
            "cross_rank/margin": (1.0 - 1.0 + 1.0) / 3,
            "cross_rank/gradient_share": 0.4 / 2,
        },
        abs=1e-6,
    )


def test_a_kind_that_does_not_occur_has_no_accuracy_and_no_margin() -> None:
    sums = count_negatives(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[P, H]]), torch.zeros(1, 2), 2)
    figures = negative_figures(sums, 1)
    assert {name for name, value in figures.items() if math.isnan(value)} == {
        f"{kind}/{figure}" for kind in ("instruction", "in_batch", "cross_rank") for figure in ("accuracy", "margin")
    }
    assert figures["hard/gradient_share"] == 0.0  # no gradient at all is no share


def test_no_step_is_logged_with_what_an_earlier_one_had(modernbert: Path, tmp_path: Path) -> None:
    """A query a step: some have no instruction, and so no instruction negative."""
    recorder, prefix = Recorder(), "train/negatives/instruction"
    data = synthetic_data(batch=1)
    trainer(tmp_path, TypedNegatives(), recorder, max_steps=8).fit(retriever(modernbert), data)
    counts = [step[f"{prefix}/count"] for step in recorder.metrics]
    assert counts[0] > 0
    assert 0 in counts
    for figure in ("accuracy", "margin"):
        assert [math.isnan(step[f"{prefix}/{figure}"]) for step in recorder.metrics] == [not each for each in counts]


class Losses(TypedNegatives):
    """Also remembers what the loss was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_train_batch_end(self, *args) -> None:  # type: ignore[no-untyped-def]
        if self._scored is not None:
            self.seen.append(self._scored)
        super().on_train_batch_end(*args)


def fit(backbone: Path, folder: Path, steps: int = 1, every: int = 1) -> tuple[list[dict[str, float]], Losses]:
    module, recorder, negatives = retriever(backbone, "weighted"), Recorder(), Losses()
    data = synthetic_data(num_rows=8, group_size=4)
    trainer(folder, negatives, recorder, max_steps=steps, log_every_n_steps=every).fit(module, data)
    return [
        {name: value for name, value in step.items() if "/negatives/" in name} for step in recorder.metrics
    ], negatives


def test_the_gradient_of_infonce_is_each_negatives_probability(modernbert: Path, tmp_path: Path) -> None:
    (logged,), negatives = fit(modernbert, tmp_path)
    scores_QP, targets_Q, kinds_QP = negatives.seen[0]
    shares = dict.fromkeys(("instruction", "hard", "in_batch"), 0.0)
    names = {I: "instruction", H: "hard", B: "in_batch"}
    for scores_P, target, kinds_P in zip(scores_QP.tolist(), targets_Q.tolist(), kinds_QP.tolist(), strict=True):
        weights = [math.exp(s / 0.1) if k != X else 0.0 for s, k in zip(scores_P, kinds_P, strict=True)]
        for column, kind in enumerate(kinds_P):
            if column != target and kind != X:
                shares[names[kind]] += weights[column] / sum(weights)
    for name, share in shares.items():
        expected = share / sum(shares.values())
        assert logged[f"train/negatives/{name}/gradient_share"] == pytest.approx(expected, rel=1e-4)
    assert logged["train/negatives/cross_rank/count"] == 0


def test_a_kind_of_weight_zero_has_no_gradient(modernbert: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    module = retriever(modernbert, loss=InfoNCE(0.1, in_batch_weight=0.0))
    trainer(tmp_path, TypedNegatives(), recorder, max_steps=1).fit(module, synthetic_data())
    assert recorder.metrics[0]["train/negatives/in_batch/gradient_share"] == 0
    assert recorder.metrics[0]["train/negatives/in_batch/count"] > 0


def test_it_looks_at_logged_steps_only_and_changes_none(modernbert: Path, tmp_path: Path) -> None:
    logged, negatives = fit(modernbert, tmp_path, steps=4, every=2)
    assert len(negatives.seen) == 2
    assert [len(step) > 0 for step in logged] == [False, True, True, True]  # metrics of a step stay until the next
    with_them, without = Recorder(), Recorder()
    for recorder, callbacks in ((with_them, [TypedNegatives()]), (without, [])):
        module = retriever(modernbert, "weighted")
        trainer(tmp_path, *callbacks, recorder, max_steps=3).fit(module, synthetic_data())
    losses = [[step["train/loss"] for step in recorder.metrics] for recorder in (with_them, without)]
    assert losses[0] == losses[1]


def fit_figures(backbone: Path, folder: Path) -> dict[str, float]:
    return fit(backbone, folder)[0][0]


def test_two_ranks_tell_their_own_passages_from_others(modernbert: Path, tmp_path: Path) -> None:
    (one, *_), _ = fit(modernbert, tmp_path)
    first, second = on_ranks(2, fit_figures, modernbert, tmp_path)
    assert first == second
    assert {name.split("/")[2] for name in first} == set(NAMES)
    prefix = "train/negatives/"
    for kind in ("instruction", "hard"):
        for figure in ("count", "accuracy", "margin", "gradient_share"):
            assert first[f"{prefix}{kind}/{figure}"] == pytest.approx(one[f"{prefix}{kind}/{figure}"], rel=1e-4)
    for figure in ("count", "gradient_share"):
        both = first[f"{prefix}in_batch/{figure}"] + first[f"{prefix}cross_rank/{figure}"]
        assert both == pytest.approx(one[f"{prefix}in_batch/{figure}"], rel=1e-4)
    assert first[f"{prefix}cross_rank/count"] == 8  # 2 queries x 4 passages of the other rank
