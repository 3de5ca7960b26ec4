"""The order of rows: equal for every number of ranks, each row once, frozen against other libraries."""

from collections import Counter

import numpy as np
import pytest

from ifir_lightning.data.order import (
    epoch_order,
    mixed_counts,
    mixed_order,
    num_batches,
    permutation,
    rows_of_batch,
    rows_of_rank,
    whole_steps,
)
from ifir_lightning.errors import InputError

HAS_INSTRUCTION = np.array([True] * 3 + [False] * 9)


def test_frozen_order() -> None:
    """A change here breaks every resume: the order that checkpoints count on has moved."""
    assert epoch_order(8, seed=0, epoch=0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert epoch_order(8, seed=0, epoch=1).tolist() == [1, 2, 3, 5, 0, 4, 7, 6]
    assert epoch_order(8, seed=1, epoch=0).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]
    assert permutation(8, purpose=2, seed=3, epoch=4, row=5).tolist() == [3, 0, 5, 6, 2, 4, 1, 7]


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3), written out."""
    mask, (a, b, c, d), (k, l) = 2**64 - 1, counter, key
    for _ in range(10):
        ab, cd = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
        a, b, c, d = (cd >> 64) ^ b ^ k, cd & mask, (ab >> 64) ^ d ^ l, ab & mask
        k, l = (k + 0x9E3779B97F4A7C15) & mask, (l + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]


def test_the_order_sorts_words_of_philox_at_its_address() -> None:
    """Key (seed, purpose), counter (block, row, epoch, 0); numpy starts at block 1."""
    words = philox_block([1, 5, 4, 0], [3, 2]) + philox_block([2, 5, 4, 0], [3, 2])
    expected = sorted(range(8), key=lambda index: words[index])
    assert permutation(8, purpose=2, seed=3, epoch=4, row=5).tolist() == expected


def test_an_order_knows_no_global_state() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    first = epoch_order(50, seed=7, epoch=3)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]
    np.random.seed(2)
    assert (epoch_order(50, seed=7, epoch=3) == first).all()


def test_every_order_is_equally_likely() -> None:
    counts = Counter(tuple(epoch_order(3, seed=0, epoch=epoch)) for epoch in range(6000))
    assert len(counts) == 6
    assert all(900 < count < 1100 for count in counts.values())  # 1000 expected, standard deviation 29


def test_parts_of_the_address_do_not_mix() -> None:
    addresses = [(s, e, r, p) for s in range(3) for e in range(3) for r in range(3) for p in range(3)]
    orders = {tuple(permutation(30, seed=s, epoch=e, row=r, purpose=p)) for s, e, r, p in addresses}
    assert len(orders) == len(addresses)


def test_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    order = epoch_order(50, seed=0, epoch=2)
    for step in range(num_batches(50, 8)):
        batch = rows_of_batch(order, step, 8)
        assert batch.tolist() == order[8 * step : 8 * step + 8].tolist()
        for world_size in (1, 2, 4):
            shares = [rows_of_rank(batch, rank, world_size) for rank in range(world_size)]
            assert np.stack(shares, axis=1).ravel().tolist() == batch.tolist()


def test_rank_1_of_2_takes_every_second_row() -> None:
    assert rows_of_rank(np.array([5, 3, 9, 7]), rank=1, world_size=2).tolist() == [3, 7]


def test_an_epoch_holds_each_row_at_most_once_and_drops_the_incomplete_batch() -> None:
    order = epoch_order(50, seed=4, epoch=0)
    assert sorted(order) == list(range(50))
    seen = np.concatenate([rows_of_batch(order, step, 8) for step in range(num_batches(50, 8))])
    assert len(set(seen)) == len(seen) == 48


@pytest.mark.parametrize(
    ("fraction", "counts"),
    [(0.5, (3, 3)), (0.25, (3, 9)), (0.75, (3, 1)), (0.2, (2, 9)), (1, (3, 0)), (0, (0, 9))],
)
def test_instruction_fraction_keeps_as_many_rows_as_it_can(fraction: float, counts: tuple[int, int]) -> None:
    assert mixed_counts(3, 9, fraction) == counts
    order = mixed_order(HAS_INSTRUCTION, fraction, seed=0, epoch=0)
    assert (HAS_INSTRUCTION[order].sum(), (~HAS_INSTRUCTION[order]).sum()) == counts
    assert len(set(order)) == len(order)


@pytest.mark.parametrize(("accumulated", "expected"), [(1, 7), (2, 6), (3, 6), (4, 4), (7, 7)])
def test_an_epoch_has_whole_steps(accumulated: int, expected: int) -> None:
    assert whole_steps(7, accumulated) == expected


@pytest.mark.parametrize(("num_with", "num_without", "share"), [(0, 9, 0.0), (3, 0, 1.0)])
def test_one_kind_alone_is_kept_whole(num_with: int, num_without: int, share: float) -> None:
    assert mixed_counts(num_with, num_without, share) == (num_with, num_without)


def test_rows_left_out_change_with_the_epoch() -> None:
    epochs = [mixed_order(HAS_INSTRUCTION, 0.5, seed=0, epoch=epoch) for epoch in range(30)]
    assert set(np.concatenate(epochs)) == set(range(12))
    assert len({frozenset(order) for order in epochs}) > 5
    assert (mixed_order(HAS_INSTRUCTION, 0.5, seed=0, epoch=0) == epochs[0]).all()


def test_a_mixed_order_is_the_epoch_order_with_rows_left_out() -> None:
    whole = epoch_order(12, seed=3, epoch=1).tolist()
    kept = mixed_order(HAS_INSTRUCTION, 0.5, seed=3, epoch=1).tolist()
    assert kept == [row for row in whole if row in kept]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rows_of_rank(np.arange(6), 0, 4), ("6", "not divisible by 4", "multiple of 4")),
        (lambda: num_batches(7, 8), ("global batch size 8", "7 rows", "lower the batch size")),
        (lambda: num_batches(7, 0), ("data.global_batch_size is 0", "1 or more")),
        (lambda: whole_steps(2, 3), ("trainer.accumulate_grad_batches is 3", "has 2 batches", "lower it")),
        (lambda: mixed_counts(3, 9, 1.5), ("instruction_fraction 1.5", "between 0 and 1")),
        (lambda: mixed_counts(3, 9, -0.1), ("instruction_fraction -0.1", "between 0 and 1")),
        (lambda: mixed_counts(0, 9, 0.5), ("0.5", "0 have an instruction", "9 have none", "null")),
        (lambda: mixed_counts(3, 0, 0.5), ("0.5", "3 have an instruction", "0 have none", "null")),
        (lambda: epoch_order(5, seed=-1, epoch=0), ("seed -1", "between 0 and 2**64 - 1", "another")),
    ],
)
def test_bad_input_is_one_line(call, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
