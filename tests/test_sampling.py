"""From rows to groups: each strategy's rule by hand, instruction negatives never dropped, pure."""

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ifir_lightning.data.sampling import GroupSampler, check_group_size
from ifir_lightning.errors import InputError
from ifir_lightning.records import Group, Kind, Passage, Row

ROOT = Path(__file__).parents[1]
STRATEGIES = ("shuffled_window", "random", "top", "top_k_random")


def row(num_hard: int, num_instruction: int = 0, num_positives: int = 1) -> Row:
    """Passages are called p0, p1 ... (positives), h0 ... (hard) and i0 ... (instruction negatives)."""

    def passages(letter: str, number: int) -> tuple[Passage, ...]:
        return tuple(Passage(f"{letter}{i}", "", f"text of {letter}{i}") for i in range(number))

    numbers = {"p": num_positives, "h": num_hard, "i": num_instruction}
    positives, hard, instruction = (passages(letter, number) for letter, number in numbers.items())
    return Row("q1", "what is it", "only the new ones", positives, hard, instruction)


def sampler(group_size: int, strategy: str, **settings: int) -> GroupSampler:
    if strategy == "top_k_random":
        settings = {"top_k": 4} | settings
    return GroupSampler(group_size, strategy=strategy, **settings)  # type: ignore[arg-type]


def ids(group: Group) -> str:
    return " ".join(passage.id for passage in group.passages)


def test_top_takes_the_first_of_the_file_in_every_epoch() -> None:
    take = sampler(7, "top")
    assert {ids(take(row(10, 5), 0, epoch)) for epoch in range(5)} == {"p0 i0 i1 i2 h0 h1 h2"}
    kinds = take(row(10, 5), 0, 0).kinds
    assert kinds == (Kind.POSITIVE, *[Kind.INSTRUCTION_NEGATIVE] * 3, *[Kind.HARD_NEGATIVE] * 3)


def test_a_group_carries_query_and_instruction() -> None:
    group = sampler(2, "top")(row(1), 0, 0)
    assert (group.query, group.instruction) == ("what is it", "only the new ones")
    assert group.passages == (Passage("p0", "", "text of p0"), Passage("h0", "", "text of h0"))


def test_the_window_moves_on_by_its_length_and_wraps_around() -> None:
    """10 hard negatives by windows of 4: five epochs go twice round the same circle of 10."""
    take = sampler(8, "shuffled_window")
    groups = [take(row(10, 3), 6, epoch) for epoch in range(5)]
    assert all(ids(group).startswith("p0 i0 i1 i2 h") for group in groups)
    circle = [passage.id for group in groups for passage in group.passages[4:]]
    assert circle[:10] == circle[10:]
    assert sorted(circle[:10]) == sorted(f"h{i}" for i in range(10))
    assert ids(take(row(10, 3), 6, epoch=5)) == ids(groups[0])


def test_the_window_sees_every_negative_equally_often() -> None:
    take = sampler(4, "shuffled_window")
    seen = Counter(p.id for epoch in range(7 * 4) for p in take(row(7), 3, epoch).passages[1:])
    assert seen == {f"h{i}": 4 * 3 for i in range(7)}  # 28 windows of 3 over 7


def test_random_draws_without_replacement_anew_in_each_epoch() -> None:
    take = sampler(5, "random")
    draws = [[p.id for p in take(row(10), 0, epoch).passages[1:]] for epoch in range(500)]
    assert all(len(set(draw)) == 4 for draw in draws)
    seen = Counter(id for draw in draws for id in draw)
    assert all(150 < seen[f"h{i}"] < 250 for i in range(10))  # 200 expected, standard deviation 11


def test_top_k_random_draws_among_the_first_k() -> None:
    take = sampler(3, "top_k_random", top_k=4)
    seen = {p.id for epoch in range(50) for p in take(row(10), 0, epoch).passages[1:]}
    assert seen == {"h0", "h1", "h2", "h3"}


def test_top_k_random_goes_on_beyond_k_in_file_order_when_short() -> None:
    group = sampler(6, "top_k_random", top_k=2)(row(10), 0, 0)
    assert {p.id for p in group.passages[1:3]} == {"h0", "h1"}
    assert [p.id for p in group.passages[3:]] == ["h2", "h3", "h4"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_too_few_hard_negatives_are_filled_with_spare_instruction_negatives(strategy: str) -> None:
    group = sampler(7, strategy, max_instruction_negatives=2)(row(3, 5), 0, 0)
    assert ids(group).startswith("p0 i0 i1 i2 h")
    assert {p.id for p in group.passages[4:]} == {"h0", "h1", "h2"}
    assert group.kinds == (Kind.POSITIVE, *[Kind.INSTRUCTION_NEGATIVE] * 3, *[Kind.HARD_NEGATIVE] * 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_repeats_are_the_last_resort_and_spread_evenly(strategy: str) -> None:
    group = sampler(11, strategy)(row(2, 2), 0, 0)
    counts = Counter(p.id for p in group.passages)
    assert set(counts) == {"p0", "i0", "i1", "h0", "h1"}
    assert sorted(counts.values()) == [1, 2, 2, 3, 3]  # 10 places for 4 negatives
    assert list(group.kinds) == sorted(group.kinds)
    letters = {Kind.POSITIVE: "p", Kind.INSTRUCTION_NEGATIVE: "i", Kind.HARD_NEGATIVE: "h"}
    assert [p.id[0] for p in group.passages] == [letters[kind] for kind in group.kinds]


def test_what_is_repeated_changes_with_row_and_epoch() -> None:
    take = sampler(6, "top")
    groups = {ids(take(row(4), index, epoch)) for index in range(5) for epoch in range(5)}
    assert len(groups) == 4  # h0 to h3 once, and one of them again
    assert ids(take(row(4), 0, 0)) == ids(take(row(4), 0, 0))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_hard", [0, 1, 5, 30])
def test_instruction_negatives_are_always_there(strategy: str, num_hard: int) -> None:
    for group_size in (4, 8, 16):
        for epoch in range(3):
            group = sampler(group_size, strategy)(row(num_hard, 3), 2, epoch)
            assert {"i0", "i1", "i2"} <= {p.id for p in group.passages}
            assert len(group.passages) == len(group.kinds) == group_size


def test_a_small_group_keeps_the_first_instruction_negatives() -> None:
    assert ids(sampler(3, "top")(row(10, 3), 0, 0)) == "p0 i0 i1"
    assert ids(sampler(3, "top", max_instruction_negatives=0)(row(10, 3), 0, 0)) == "p0 h0 h1"
    assert ids(sampler(1, "top")(row(0), 0, 0)) == "p0"


def test_the_positive_is_chosen_among_all_by_epoch_and_row() -> None:
    take = sampler(2, "top")
    seen = Counter(take(row(1, num_positives=3), 0, epoch).passages[0].id for epoch in range(600))
    assert all(150 < seen[f"p{i}"] < 250 for i in range(3))  # 200 expected, standard deviation 12
    assert len({take(row(1, num_positives=3), index, 0).passages[0].id for index in range(20)}) == 3


def test_a_positive_among_the_negatives_is_left_out() -> None:
    clean = row(2, 1, num_positives=2)
    dirty = Row(
        "q1",
        clean.query,
        clean.instruction,
        clean.positives,
        (clean.positives[0], *clean.hard_negatives, clean.positives[1]),
        (clean.positives[1], *clean.instruction_negatives),
    )
    for strategy in STRATEGIES:
        take = sampler(4, strategy)
        assert all(take(dirty, 0, epoch) == take(clean, 0, epoch) for epoch in range(5))


def fingerprint() -> str:
    """Groups of every strategy, filled and not, over rows and epochs."""
    rows = [row(10, 2), row(3, 5), row(1, 1, num_positives=3)]
    takes = [sampler(6, strategy, seed=11) for strategy in STRATEGIES]
    return "|".join(ids(take(r, i, epoch)) for take in takes for i, r in enumerate(rows) for epoch in range(3))


def test_frozen_groups() -> None:
    """A change here breaks every resume: the negatives that checkpoints count on have moved."""
    assert fingerprint().split("|")[::4] == [
        "p0 i0 i1 h9 h1 h6",
        "p0 i0 i1 i2 h1 h0",
        "p0 i0 i0 i0 h0 h0",
        "p0 i0 i1 i2 h1 h2",
        "p1 i0 i0 h0 h0 h0",
        "p0 i0 i1 h0 h1 h2",
        "p2 i0 i0 h0 h0 h0",
        "p0 i0 i1 h3 h2 h0",
        "p0 i0 i1 i2 h2 h0",
    ]


def test_a_group_knows_no_global_state() -> None:
    first = fingerprint()
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore
        assert fingerprint() == first
        assert states == (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )  # type: ignore


def test_another_process_with_another_hash_seed_makes_the_same_groups() -> None:
    program = (
        "import sys; from tests.test_sampling import fingerprint; print(fingerprint());"
        "assert not {'lightning', 'transformers'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == fingerprint()


def test_other_seeds_and_rows_make_other_groups() -> None:
    groups = {ids(sampler(6, "random", seed=seed)(row(30), index, 0)) for seed in range(5) for index in range(5)}
    assert len(groups) == 25


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group_size": 0}, ("data.groups.group_size is 0", "1 or more")),
        ({"group_size": 4, "max_instruction_negatives": -1}, ("max_instruction_negatives is -1", "0 or more")),
        ({"group_size": 4, "strategy": "best"}, ("strategy 'best'", "shuffled_window, random", "choose one")),
        ({"group_size": 4, "strategy": "top_k_random"}, ("top_k", "1 or more")),
        ({"group_size": 4, "strategy": "top_k_random", "top_k": 0}, ("top_k", "1 or more")),
        ({"group_size": 4, "seed": -1}, ("seed -1", "between 0 and 2**64 - 1")),
    ],
)
def test_a_bad_setting_is_one_line(settings: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        GroupSampler(**settings)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_an_ignored_top_k_is_said(caplog: pytest.LogCaptureFixture) -> None:
    take = GroupSampler(4, strategy="random", top_k=2)
    assert caplog.messages == ["top_k 2 is ignored by strategy 'random'"]
    assert len({p.id for epoch in range(20) for p in take(row(10), 0, epoch).passages}) == 11


def test_a_row_without_negatives_is_one_line() -> None:
    with pytest.raises(InputError, match=r"row 7 \(query_id 'q1'\) has no negative for group_size 4: .* set it to 1"):
        sampler(4, "top")(row(0), 7, 0)


def test_a_row_whose_negatives_are_its_positives_says_so() -> None:
    only = replace(row(2), hard_negatives=row(0).positives)
    with pytest.raises(InputError, match=r"has no negative but its own positives, by docid, for group_size 4"):
        sampler(4, "top")(only, 7, 0)


def test_check_group_size() -> None:
    counts = np.array([15, 3, 9, 15])
    assert check_group_size(counts, 4) is None
    assert check_group_size(counts, 16) == "2 of 4 rows have fewer than 15 negatives: theirs are repeated"
    assert check_group_size(np.array([0, 0]), 1) is None
    with pytest.raises(InputError, match=r"group_size 17 .* the most negatives a row has is 15: choose 1 to 16"):
        check_group_size(counts, 17)
    with pytest.raises(InputError, match=r"group_size 2: 2 of 4 rows have no negative, first row 1: .* remove"):
        check_group_size(np.array([5, 0, 5, 0]), 2)
    with pytest.raises(InputError, match=r"data\.groups\.group_size is 0; allowed is 1 or more"):
        check_group_size(counts, 0)
