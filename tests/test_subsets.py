"""Subsets of a training table: nested, whole queries, the same everywhere."""

import itertools

import numpy as np
import pytest

from ifir_lightning.data import formats
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.subsets import subset
from ifir_lightning.errors import InputError

TABLE = formats.open_table("synthetic:900")
ROWS = formats.select_rows(TABLE, "all")
TEXTS = np.array(list(formats.query_texts(TABLE, ROWS)))


def kept(fraction: float | None = None, limit: int | None = None, seed: int = 0) -> set[int]:
    return set(subset(TABLE, ROWS, fraction, limit, seed).tolist())


def test_smaller_shares_lie_inside_larger_ones_and_have_their_size() -> None:
    shares = [0.03, 0.1, 0.3, 0.6, 1.0]
    subsets = [kept(share) for share in shares]
    assert all(small < large for small, large in itertools.pairwise(subsets))
    queries = [len(set(TEXTS[list(each)])) / len(set(TEXTS)) for each in subsets]
    assert queries == pytest.approx(shares, abs=0.05)
    assert subsets[-1] == kept() == set(range(900))


def test_the_rows_of_a_query_go_together() -> None:
    inside = kept(0.3)
    assert not set(TEXTS[list(inside)]) & set(TEXTS[list(set(range(900)) - inside)])


def test_another_seed_keeps_other_queries_and_the_same_seed_the_same() -> None:
    assert kept(0.3) == kept(0.3)
    assert len(kept(0.3) & kept(0.3, seed=1)) < 0.6 * len(kept(0.3))


def test_at_most_so_many_instructions_of_each_query_nested_and_other_rows_untouched() -> None:
    asks = formats.has_instruction(TABLE)
    for limit in (1, 2):
        rows = kept(limit=limit)
        texts, counts = np.unique(TEXTS[[row for row in rows if asks[row]]], return_counts=True)
        assert counts.max() == limit
        assert set(texts) == set(TEXTS[asks])
        assert {row for row in rows if not asks[row]} == set(np.flatnonzero(~asks).tolist())
    assert kept(limit=1) < kept(limit=2) < kept()
    assert kept(0.3, limit=1) == kept(0.3) & kept(limit=1)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, 1e-9])
def test_a_share_that_keeps_nothing_or_more_than_all_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=r"data.fraction"):
        kept(fraction)


def test_no_instruction_of_a_query_is_refused() -> None:
    with pytest.raises(InputError, match=r"data.instructions_per_query is 0; allowed is 1 or more"):
        kept(limit=0)


def test_the_query_is_read_from_where_it_stands() -> None:
    joined = TABLE.remove_columns("only_query")
    assert list(formats.query_texts(joined, ROWS)) == TEXTS.tolist()


def test_training_data_hold_the_subset_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    data = PromptrieverData("synthetic:900", 4, rows="with_instruction", fraction=0.3, instructions_per_query=1)
    with caplog.at_level("INFO", "ifir_lightning"):
        data.setup("fit")
    asks = formats.has_instruction(TABLE)
    assert data.selected is not None
    assert set(data.selected.tolist()) == {row for row in kept(0.3, limit=1) if asks[row]}
    assert f"keep {len(data.selected)} of {asks.sum()} rows" in caplog.text


def test_a_checkpoint_of_another_subset_is_not_continued() -> None:
    first, second = (PromptrieverData("synthetic:900", 4, fraction=share) for share in (0.3, 0.31))
    for data in (first, second):
        data.setup("fit")
    with pytest.raises(InputError, match=r"data.num_rows|data.fraction"):
        second.load_state_dict(first._identity())
