"""InfoNCE by hand, against a slow loop in float64, and against the formula of its relatives."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import retriever
from torch import Tensor

from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE, Loss, accuracy, check_loss, instruction_accuracy, pair_kinds
from ifir_lightning.records import Kind

POS, INS, HARD, BATCH, OUT = Kind.POSITIVE, Kind.INSTRUCTION_NEGATIVE, Kind.HARD_NEGATIVE, Kind.IN_BATCH, Kind.EXCLUDED


def kinds(*rows: tuple[Kind, ...]) -> Tensor:
    return torch.tensor([[int(kind) for kind in row] for row in rows], dtype=torch.int8)


# Three queries with groups of (positive, instruction negative, hard negative); the positive of query 0 comes back
# as a negative of query 2.
KINDS = kinds(
    (POS, INS, HARD, BATCH, BATCH, BATCH, BATCH, BATCH, OUT),
    (BATCH, BATCH, BATCH, POS, INS, HARD, BATCH, BATCH, BATCH),
    (BATCH, BATCH, BATCH, BATCH, BATCH, BATCH, POS, INS, HARD),
)
TARGETS = torch.tensor([0, 3, 6])


def random_scores() -> Tensor:
    return torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1


def slow_loss(scores_QP: Tensor, kinds_QP: Tensor, temperature: float, weights: dict[Kind, float]) -> float:
    """-log of the positive's share, query by query, passage by passage."""
    losses = []
    for scores, row in zip(scores_QP.tolist(), kinds_QP.tolist(), strict=True):
        total, positive = 0.0, 0.0
        for score, kind in zip(scores, row, strict=True):
            share = math.exp(score / temperature)
            total += share * weights.get(Kind(kind), 1.0)
            positive += share if kind == POS else 0.0
        losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.31326168751822286), (0.5, 0.1269280110429725)])
def test_one_negative_by_hand(temperature: float, expected: float) -> None:
    """Scores 1 and 0: log(1 + e^(-1/t)); at t = 1 that is log(1.3679), at t = 0.5 log(1.1353)."""
    loss = InfoNCE(temperature)(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), kinds((POS, HARD)))
    assert loss.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 5.0])
def test_the_loss_equals_a_slow_loop(temperature: float) -> None:
    loss = InfoNCE(temperature)(random_scores(), TARGETS, KINDS)
    assert loss.item() == pytest.approx(slow_loss(random_scores(), KINDS, temperature, {OUT: 0.0}), rel=1e-5)


def test_kind_weights_equal_a_slow_loop() -> None:
    loss = InfoNCE(0.3, 2.5, 0.0, 0.25)(random_scores(), TARGETS, KINDS)
    weights = {INS: 2.5, HARD: 0.0, BATCH: 0.25, OUT: 0.0}
    assert loss.item() == pytest.approx(slow_loss(random_scores(), KINDS, 0.3, weights), rel=1e-5)


@pytest.mark.parametrize(
    ("argument", "kind"),
    [("instruction_negative_weight", INS), ("hard_negative_weight", HARD), ("in_batch_weight", BATCH)],
)
def test_a_weight_of_two_equals_every_such_column_twice(argument: str, kind: Kind) -> None:
    for query in range(3):
        scores, row, target = random_scores()[query : query + 1], KINDS[query : query + 1], TARGETS[query : query + 1]
        again = row[0] == kind
        doubled = InfoNCE(0.3)(torch.cat([scores, scores[:, again]], 1), target, torch.cat([row, row[:, again]], 1))
        torch.testing.assert_close(InfoNCE(0.3, **{argument: 2.0})(scores, target, row), doubled)


def test_a_weight_of_zero_leaves_the_columns_out() -> None:
    loss = InfoNCE(0.3, in_batch_weight=0.0)(random_scores(), TARGETS, KINDS)
    own = torch.stack([random_scores()[query, 3 * query : 3 * query + 3] for query in range(3)])
    expected = InfoNCE(0.3)(own, torch.tensor([0, 0, 0]), kinds(*[(POS, INS, HARD)] * 3))
    torch.testing.assert_close(loss, expected)


def test_an_excluded_passage_has_no_share_and_no_gradient() -> None:
    scores_QP = random_scores().requires_grad_()
    raised = random_scores()
    raised[0, 8] = 1e4
    loss = InfoNCE(0.3)(scores_QP, TARGETS, KINDS)
    assert InfoNCE(0.3)(raised, TARGETS, KINDS).item() == loss.item()
    (gradient_QP,) = torch.autograd.grad(loss, scores_QP)
    assert gradient_QP[0, 8] == 0
    assert (gradient_QP != 0).sum() == 26


def test_the_gradient_is_share_minus_target_over_temperature_and_queries() -> None:
    scores_QP = random_scores().requires_grad_()
    (gradient_QP,) = torch.autograd.grad(InfoNCE(0.3)(scores_QP, TARGETS, KINDS), scores_QP)
    shares_QP = random_scores().double().div(0.3).exp() * (KINDS != OUT)
    shares_QP /= shares_QP.sum(1, keepdim=True)
    expected = (shares_QP - F.one_hot(TARGETS, 9)) / 0.3 / 3
    torch.testing.assert_close(gradient_QP.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [20.0, 50.0])
def test_one_passage_per_group_is_multiple_negatives_ranking_loss(scale: float) -> None:
    """sentence-transformers: cross_entropy(scores * scale, arange), scale 20 by default."""
    scores_QP = torch.rand(6, 6, generator=torch.Generator().manual_seed(4))
    targets_Q = torch.arange(6)
    kinds_QP = pair_kinds(torch.zeros(6, dtype=torch.int8), torch.arange(6), targets_Q, 1)
    expected = F.cross_entropy(scores_QP * scale, targets_Q)
    torch.testing.assert_close(InfoNCE(1 / scale)(scores_QP, targets_Q, kinds_QP), expected)


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_a_temperature_that_cannot_divide_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match=rf"temperature is {temperature}; allowed is more than 0"):
        InfoNCE(temperature)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("instruction_negative_weight", "INSTRUCTION_NEGATIVE"),
        ("hard_negative_weight", "HARD_NEGATIVE"),
        ("in_batch_weight", "IN_BATCH"),
    ],
)
def test_a_weight_that_cannot_multiply_is_refused(argument: str, kind: str, weight: float) -> None:
    with pytest.raises(InputError, match=rf"weight of .*{kind} is {weight}; allowed is a finite number from 0"):
        InfoNCE(**{argument: weight})


def test_pair_kinds_by_hand() -> None:
    """Passage 10 is the positive of query 0, and a hard negative of query 2."""
    kinds_P = torch.tensor([POS, INS, HARD] * 3, dtype=torch.int8)
    ids_P = torch.tensor([10, 11, 12, 20, 21, 22, 30, 31, 10])
    assert pair_kinds(kinds_P, ids_P, TARGETS, 3).equal(KINDS)


def test_pair_kinds_on_the_second_rank() -> None:
    """This rank's queries are 1 and 2 of the global batch: their groups begin at columns 3 and 6."""
    kinds_P = torch.tensor([POS, INS, HARD] * 3, dtype=torch.int8)
    ids_P = torch.tensor([10, 11, 12, 20, 21, 22, 30, 31, 10])
    assert pair_kinds(kinds_P, ids_P, TARGETS[1:], 3).equal(KINDS[1:])


def test_the_positive_twice_in_its_own_group_counts_once() -> None:
    kinds_P = torch.tensor([POS, HARD, POS, HARD], dtype=torch.int8)
    found = pair_kinds(kinds_P, torch.tensor([5, 5, 6, 7]), torch.tensor([0, 2]), 2)
    assert found.equal(kinds((POS, OUT, BATCH, BATCH), (BATCH, BATCH, POS, HARD)))


def test_two_queries_with_the_same_positive_do_not_punish_each_other() -> None:
    found = pair_kinds(torch.tensor([POS, POS], dtype=torch.int8), torch.tensor([5, 5]), torch.tensor([0, 1]), 1)
    assert found.equal(kinds((POS, OUT), (OUT, POS)))


def test_accuracy_is_the_share_of_positives_before_every_negative() -> None:
    """Won; lost to an in-batch negative; a tie is no win; an excluded passage is no rival."""
    rows = kinds((POS, INS, BATCH), (POS, INS, BATCH), (POS, HARD, BATCH), (POS, OUT, BATCH))
    scores_QP = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.1, 0.6], [0.5, 0.5, 0.1], [0.5, 0.9, 0.1]])
    assert accuracy(scores_QP, torch.zeros(4, dtype=torch.int64), rows).item() == 0.5


def test_instruction_accuracy_looks_at_queries_with_instruction_negatives_only() -> None:
    """Won, whatever the others score; lost; a tie is no win; without instruction negatives: not counted."""
    rows = kinds((POS, INS, BATCH), (POS, INS, INS), (POS, INS, HARD), (POS, HARD, BATCH))
    scores_QP = torch.tensor([[0.5, 0.4, 0.9], [0.5, 0.1, 0.6], [0.5, 0.5, 0.1], [0.9, 0.1, 0.1]])
    assert instruction_accuracy(scores_QP, torch.zeros(4, dtype=torch.int64), rows).item() == pytest.approx(1 / 3)


def test_instruction_accuracy_is_nan_without_instruction_negatives() -> None:
    found = instruction_accuracy(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), kinds((POS, HARD)))
    assert found.isnan()


class Returning(Loss):
    """A loss of a user's, which returns what it is given."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, *scored: Tensor, teacher_QG: Tensor | None = None) -> Tensor:
        return self.value


@pytest.mark.parametrize(("value", "found"), [(random_scores(), r"a tensor of \[3, 9\]"), (0.5, "0.5"), (None, "None")])
def test_a_loss_that_is_no_scalar(value: Any, found: str) -> None:
    with pytest.raises(InputError, match=rf"the loss Returning returned {found}; allowed is a tensor with one number"):
        Returning(value)(random_scores(), TARGETS, KINDS)
    assert Returning(torch.tensor(2.0))(random_scores(), TARGETS, KINDS) == 2


class WithoutTeacher(Loss):
    def forward(self, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor) -> Tensor:  # type: ignore[override]
        return scores_QP.mean()


class WithKeywords(Loss):
    def forward(self, scores_QP: Tensor, *others: Any, **more: Any) -> Tensor:
        return scores_QP.mean()


def test_a_loss_that_takes_no_teacher(modernbert: Path) -> None:
    """Found as the model is built; losses of ours are called as training calls them by the tests of training."""
    with pytest.raises(InputError, match=r"forward of the loss WithoutTeacher has no argument teacher_QG; .*: add it"):
        retriever(modernbert, loss=WithoutTeacher())
    check_loss(WithKeywords())
    check_loss(InfoNCE())
