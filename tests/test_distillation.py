"""Distilling losses by hand, against slow loops in float64, and what they are of one's own copy."""

import math

import pytest
import torch
from torch import Tensor, nn

from ifir_lightning.distillation import (
    KLDivergence,
    MarginMSE,
    agreement,
    divergence,
    entropy,
    largest_probability,
    min_max,
)
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE, Loss, WeightedSum, own_groups
from ifir_lightning.records import Kind

GROUP = 4
TARGETS = torch.tensor([0, 4, 8])
KINDS = torch.full((3, 12), int(Kind.IN_BATCH), dtype=torch.int8)
for query in range(3):
    KINDS[query, 4 * query : 4 * query + 4] = torch.tensor([Kind.POSITIVE, Kind.INSTRUCTION_NEGATIVE, 2, 2])


def scores(seed: int = 0) -> Tensor:
    return torch.rand(3, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def teacher(seed: int = 1) -> Tensor:
    return torch.randn(3, GROUP, generator=torch.Generator().manual_seed(seed)) * 3


def group_of(scores_QP: Tensor, query: int) -> list[float]:
    return scores_QP[query].tolist()[GROUP * query : GROUP * query + GROUP]


def slow_softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def slow_min_max(values: list[float]) -> list[float]:
    return [(value - min(values)) / (max(values) - min(values)) for value in values]


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(1.0, 1.0), (0.05, 1.0), (0.3, 4.0)])
@pytest.mark.parametrize("normalized", ["", "student", "teacher", "both"])
def test_kl_divergence_equals_a_slow_loop(temperature: float, teacher_temperature: float, normalized: str) -> None:
    on_student, on_teacher = normalized in ("student", "both"), normalized in ("teacher", "both")
    total = 0.0
    for query in range(3):
        student_scores, teacher_scores = group_of(scores().double(), query), teacher()[query].double().tolist()
        student_scores = slow_min_max(student_scores) if on_student else student_scores
        teacher_scores = slow_min_max(teacher_scores) if on_teacher else teacher_scores
        q, p = slow_softmax(student_scores, temperature), slow_softmax(teacher_scores, teacher_temperature)
        total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True))
    loss = KLDivergence(temperature, teacher_temperature, on_student, on_teacher)
    assert loss(scores(), TARGETS, KINDS, teacher()).item() == pytest.approx(total / 3, rel=1e-5)


def test_kl_divergence_by_hand() -> None:
    """Teacher 3:1 (scores log 3 and 0), student 1:1: 3/4 log(3/2) + 1/4 log(1/2) = 0.130812."""
    taught = torch.tensor([[math.log(3), 0.0]])
    loss = KLDivergence(1.0)(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), KINDS[:1, :2], taught)
    assert loss.item() == pytest.approx(0.13081203594113694, abs=1e-7)


def test_the_teachers_temperature_by_hand() -> None:
    """Scores log 9 and 0 at temperature 2 are 3:1 once more, and so are those of the student at 0.5."""
    taught, student = torch.tensor([[math.log(9), 0.0]]), torch.tensor([[0.5 * math.log(3), 0.0]])
    loss = KLDivergence(0.5, 2.0)(student, torch.tensor([0]), KINDS[:1, :2], taught)
    assert loss.item() == pytest.approx(0.0, abs=1e-7)


def test_the_factor_is_the_students_squared_temperature() -> None:
    plain, scaled = (KLDivergence(0.3, 2.0, scale_by_temperature=flag) for flag in (False, True))
    arguments = scores(), TARGETS, KINDS, teacher()
    assert scaled(*arguments).item() == pytest.approx(0.09 * plain(*arguments).item(), rel=1e-6)


def test_with_the_factor_the_gradient_keeps_its_size_when_the_temperature_changes() -> None:
    sizes = []
    for temperature in (100.0, 200.0):
        scores_QP = scores().requires_grad_()
        loss = KLDivergence(temperature, temperature, scale_by_temperature=True)
        (gradient_QP,) = torch.autograd.grad(loss(scores_QP, TARGETS, KINDS, teacher()), scores_QP)
        sizes.append(gradient_QP.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_pylates_distillation_is_one_of_the_settings() -> None:
    """KLDivLoss(batchmean, log_target) of min-max normalised scores and raw labels, written with torch's own loss."""
    own_QG = own_groups(scores(), TARGETS, GROUP)
    low, high = own_QG.min(1, keepdim=True).values, own_QG.max(1, keepdim=True).values
    expected = nn.KLDivLoss(reduction="batchmean", log_target=True)(
        ((own_QG - low) / (high - low + 1e-8)).log_softmax(-1), teacher().log_softmax(-1)
    )
    loss = KLDivergence(1.0, 1.0, normalize_student=True)
    torch.testing.assert_close(loss(scores(), TARGETS, KINDS, teacher()), expected)


def test_the_gradient_is_the_difference_of_the_distributions() -> None:
    scores_QP = scores().requires_grad_()
    (gradient_QP,) = torch.autograd.grad(KLDivergence(0.3, 2.0)(scores_QP, TARGETS, KINDS, teacher()), scores_QP)
    expected = torch.zeros(3, 12)
    for query in range(3):
        q, p = slow_softmax(group_of(scores(), query), 0.3), slow_softmax(teacher()[query].tolist(), 2.0)
        expected[query, 4 * query : 4 * query + 4] = (torch.tensor(q) - torch.tensor(p)) / 0.3 / 3
    torch.testing.assert_close(gradient_QP, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", [KLDivergence(0.05, 0.05), KLDivergence(0.05, 0.05, True, True), MarginMSE(0.5, 0.5)])
def test_of_its_own_copy_a_student_learns_nothing(loss: Loss) -> None:
    scores_QP = scores().requires_grad_()
    taught = own_groups(scores(), TARGETS, GROUP)
    found = loss(scores_QP, TARGETS, KINDS, taught)
    (gradient_QP,) = torch.autograd.grad(found, scores_QP)
    assert found.item() == 0.0
    assert gradient_QP.abs().max().item() < 1e-6


def test_cross_entropy_less_entropy_is_the_divergence() -> None:
    student_QG = own_groups(scores(), TARGETS, GROUP)
    cross_entropy = nn.functional.cross_entropy(student_QG, teacher().softmax(1), reduction="none")
    torch.testing.assert_close(divergence(student_QG, teacher()), cross_entropy - entropy(teacher()))


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(1.0, 1.0), (0.1, 2.0)])
def test_margin_mse_equals_a_slow_loop(temperature: float, teacher_temperature: float) -> None:
    squares = []
    for query in range(3):
        s = [value / temperature for value in group_of(scores(), query)]
        t = [value / teacher_temperature for value in teacher()[query].tolist()]
        squares += [((s[0] - s[g]) - (t[0] - t[g])) ** 2 for g in range(1, GROUP)]
    loss = MarginMSE(temperature, teacher_temperature)(scores(), TARGETS, KINDS, teacher())
    assert loss.item() == pytest.approx(sum(squares) / 9, rel=1e-5)


def test_margin_mse_by_hand() -> None:
    """Margins 0.6 and 0.2 against 1 and 0.5: (0.16 + 0.09) / 2."""
    student, taught = torch.tensor([[0.9, 0.3, 0.7]]), torch.tensor([[3.0, 2.0, 2.5]])
    loss = MarginMSE()(student, torch.tensor([0]), KINDS[:1, :3], taught)
    assert loss.item() == pytest.approx(0.125, abs=1e-6)


def test_min_max_by_hand() -> None:
    found = min_max(torch.tensor([[4.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]]))


def test_a_weighted_sum_is_the_sum_of_its_parts_and_hands_the_teacher_on() -> None:
    both = WeightedSum([InfoNCE(0.3), KLDivergence(0.5)], [1.0, 0.25])
    expected = InfoNCE(0.3)(scores(), TARGETS, KINDS) + 0.25 * KLDivergence(0.5)(scores(), TARGETS, KINDS, teacher())
    torch.testing.assert_close(both(scores(), TARGETS, KINDS, teacher()), expected)
    assert both.needs_teacher
    assert not WeightedSum([InfoNCE()]).needs_teacher
    assert not InfoNCE.needs_teacher


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        ([], None, "has 0 losses"),
        ([InfoNCE()], [1.0, 2.0], "1 losses and 2 weights"),
        ([InfoNCE()], [-1.0], r"weights are \[-1.0\]; allowed are finite numbers from 0"),
        ([InfoNCE()], [math.nan], "allowed are finite numbers"),
    ],
)
def test_weights_that_do_not_fit(losses: list[Loss], weights: list[float] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightedSum(losses, weights)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["temperature", "teacher_temperature"])
@pytest.mark.parametrize("loss", [KLDivergence, MarginMSE])
def test_a_temperature_that_cannot_divide_is_refused(loss: type[Loss], name: str, temperature: float) -> None:
    with pytest.raises(InputError, match=rf"model.loss {name} is {temperature}; allowed is more than 0"):
        loss(**{name: temperature})


def test_entropy_by_hand() -> None:
    """Of 3:1, and of four alike: log 4."""
    assert entropy(torch.tensor([[math.log(3), 0.0]])).item() == pytest.approx(0.5623351446188083, abs=1e-6)
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4), abs=1e-6)


def test_agreement_by_hand() -> None:
    """The same; another; one of the teacher's two best."""
    student = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.1, 0.1, 0.3]])
    taught = torch.tensor([[5.0, 1.0, 2.0], [1.0, 5.0, 2.0], [1.0, 4.0, 4.0]])
    assert agreement(student, taught).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.7112345942275937), (0.5, 0.9479149938275157)])
def test_the_largest_probability_by_hand(temperature: float, expected: float) -> None:
    """A cosine spans 2: 1 / (1 + 3 e^-2) for four passages at temperature 1, 1 / (1 + 3 e^-4) at 0.5."""
    found = largest_probability(torch.tensor([2.0 / temperature]), 4)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_no_scores_within_the_span_reach_more(temperature: float) -> None:
    """The ends reach it; random and optimised scores do not exceed it."""
    bound = largest_probability(torch.tensor([2.0 / temperature]), GROUP).item()
    ends = torch.tensor([[1.0, -1.0, -1.0, -1.0]])
    assert (ends / temperature).softmax(1)[0, 0].item() == pytest.approx(bound, rel=1e-6)
    free = (torch.rand(10_000, GROUP, generator=torch.Generator().manual_seed(3)) * 2 - 1) / temperature
    assert free.softmax(1).max().item() <= bound + 1e-6
