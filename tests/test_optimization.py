"""Learning rates by hand: which parameters get which, and how they change over the steps."""

import math

import pytest
import torch
from torch import nn

from ifir_lightning.errors import InputError
from ifir_lightning.optimization import AdamW, Schedule, hyperparameters, restate


def optimizer(rate: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0, 0]),
        ("cosine", [0, 0.25, 0.5, 0.75, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0, 0, 0]),
        ("constant", [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_four_steps_of_warmup_then_decay_to_step_eight_and_beyond(decay, expected: list[float]) -> None:
    schedule = Schedule(decay, warmup_steps=4)
    assert [schedule.factor(step, 8) for step in range(11)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [0, 0.5, 1, 1, 1, 1, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0, 0]),
    ],
)
def test_warmup_stable_decay(decay, expected: list[float]) -> None:
    """Two steps up, four at the peak, four down to step ten."""
    schedule = Schedule(decay, warmup_steps=2, decay_steps=4)
    assert [schedule.factor(step, 10) for step in range(12)] == pytest.approx(expected, abs=1e-12)


def test_before_the_decay_the_length_of_the_training_does_not_matter() -> None:
    trunk, branch = Schedule("constant", warmup_steps=2), Schedule("linear", warmup_steps=2, decay_steps=3)
    for total in (5, 9, 20):
        until = range(total - 3 + 1)
        assert [branch.factor(step, total) for step in until] == [trunk.factor(step, 1000) for step in until]
        assert [branch.factor(total - 3 + step, total) for step in range(4)] == [1, 2 / 3, 1 / 3, 0]


@pytest.mark.parametrize(("decay", "decay_steps"), [("linear", 0), ("cosine", -1), ("constant", 5)])
def test_a_decay_of_no_step_or_of_a_constant_rate_is_refused(decay, decay_steps: int) -> None:
    with pytest.raises(InputError, match=rf"decay_steps is {decay_steps} with decay {decay}; allowed is 1 or more"):
        Schedule(decay, decay_steps=decay_steps)


def test_a_decay_longer_than_what_the_warmup_leaves_is_refused() -> None:
    with pytest.raises(InputError, match=r"decay_steps is 8; allowed are 1 to 7, what the warm-up leaves of 9"):
        Schedule("linear", warmup_steps=2, decay_steps=8).build(optimizer(), max_steps=9)
    Schedule("linear", warmup_steps=2, decay_steps=7).build(optimizer(), max_steps=9)


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
def test_without_warmup_the_first_step_has_the_peak(decay) -> None:
    assert Schedule(decay).factor(0, 10) == 1


def test_a_training_of_warmup_only_has_no_step_at_the_peak() -> None:
    schedule = Schedule("linear", warmup_steps=4)
    assert [schedule.factor(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 0, 0]


def test_the_optimizer_follows_the_schedule() -> None:
    sgd = optimizer(rate=0.5)
    scheduler = Schedule("linear", warmup_steps=2).build(sgd, max_steps=4)
    rates = []
    for _ in range(6):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    assert rates == [0, 0.25, 0.5, 0.25, 0, 0]


def test_another_rate_after_a_continuation_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def at_step_2(max_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        sgd = optimizer()
        scheduler = Schedule("linear").build(sgd, max_steps)
        for _ in range(2):
            sgd.step()
            scheduler.step()
        return scheduler

    with caplog.at_level("INFO"):
        for loaded, max_steps in ((at_step_2(4), 4), (at_step_2(4), 8)):
            now = at_step_2(max_steps)
            built = hyperparameters(now.optimizer)
            now.optimizer.load_state_dict(loaded.optimizer.state_dict())
            restate(now, built)
    (message,) = caplog.messages
    base = built[0]["initial_lr"]
    assert f"the learning rate goes on at {0.75 * base:.3g}, where the checkpoint's run had {0.5 * base:.3g}" in message


def test_total_steps_go_before_the_trainers_max_steps() -> None:
    sgd = optimizer(rate=1.0)
    scheduler = Schedule("linear", total_steps=10).build(sgd, max_steps=4)
    sgd.step()
    scheduler.step()
    assert sgd.param_groups[0]["lr"] == 0.9


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("max_steps", [-1, 0])
def test_a_decay_without_an_end_is_refused(decay, max_steps: int) -> None:
    with pytest.raises(InputError, match=rf"model.schedule.decay is {decay}, but neither .*: set one of them"):
        Schedule(decay).build(optimizer(), max_steps)


def test_a_constant_rate_needs_no_end() -> None:
    sgd = optimizer(rate=0.5)
    Schedule("constant").build(sgd, max_steps=-1)
    assert sgd.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("settings", [{"total_steps": 9}, {}], ids=["total_steps", "max_steps"])
def test_a_warmup_longer_than_the_training_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"model.schedule.warmup_steps is 10; allowed are 0 to 9, .*: lower it"):
        Schedule("constant", warmup_steps=10, **settings).build(optimizer(), max_steps=9)


def groups(settings: AdamW) -> list[tuple[list[tuple[int, ...]], float, float]]:
    """Shapes, learning rate and weight decay of each group, for a frozen layer, a norm, and a projection."""
    frozen, norm, projection = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    frozen.requires_grad_(False)
    built = settings.build(
        [*frozen.parameters(), nn.Parameter(torch.zeros(4, 4)), *norm.parameters()], projection.parameters()
    )
    return [([tuple(p.shape) for p in g["params"]], g["lr"], g["weight_decay"]) for g in built.param_groups]


def test_matrices_decay_and_vectors_do_not_and_frozen_parameters_are_left_out() -> None:
    assert groups(AdamW(0.1, weight_decay=0.01)) == [
        ([(4, 4)], 0.1, 0.01),
        ([(4,), (4,)], 0.1, 0.0),
        ([(2, 4)], 0.1, 0.01),
        ([(2,)], 0.1, 0.0),
    ]


def test_new_layers_have_a_learning_rate_of_their_own_if_asked() -> None:
    assert [rate for _, rate, _ in groups(AdamW(0.1, new_layers_learning_rate=0.4))] == [0.1, 0.1, 0.4, 0.4]


def test_a_learning_rate_of_zero_for_new_layers_is_zero() -> None:
    assert [rate for _, rate, _ in groups(AdamW(0.1, new_layers_learning_rate=0.0))] == [0.1, 0.1, 0.0, 0.0]


def test_groups_without_parameters_are_left_out() -> None:
    built = AdamW().build([nn.Parameter(torch.zeros(2, 2))], [])
    assert len(built.param_groups) == 1


def test_betas_reach_the_optimizer() -> None:
    built = AdamW(betas=(0.8, 0.95)).build([nn.Parameter(torch.zeros(2, 2))], [])
    assert built.param_groups[0]["betas"] == (0.8, 0.95)
