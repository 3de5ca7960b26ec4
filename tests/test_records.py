"""Packed texts do what plain lists of lists do."""

from dataclasses import FrozenInstanceError
from typing import Literal

import pytest
import torch

from ifir_lightning.records import Batch, Embeddings, Tokens, segment_reduce, segment_rows, token_chunks

TEXTS = [[7, 1, 4], [5], [2, 9, 8, 3, 6], [11, 10]]


def pack(texts: list[list[int]]) -> Tokens:
    """Every field can be told from the token ids: even tokens are kept, ``cut_B`` is the sum of a text."""
    flat = torch.tensor([token for text in texts for token in text], dtype=torch.int64)
    lengths, sums = (torch.tensor([f(text) for text in texts], dtype=torch.int64) for f in (len, sum))
    return Tokens(lengths, flat, flat % 2 == 0, sums)


def unpack(tokens: Tokens) -> list[list[int]]:
    """The texts as lists, after a look at what goes with them."""
    texts, ids = [], iter(tokens.input_ids_T.tolist())
    for length in tokens.lengths_B.tolist():
        texts.append([next(ids) for _ in range(length)])
    assert next(ids, None) is None, "tokens behind the last text"
    assert tokens.keep_T.tolist() == [token % 2 == 0 for text in texts for token in text]
    assert tokens.cut_B.tolist() == [sum(text) for text in texts]
    return texts


def vectors(lengths: list[int], with_weights: bool = True) -> Embeddings:
    values_ND = torch.arange(2.0 * sum(lengths)).view(-1, 2)
    return Embeddings(torch.tensor(lengths), values_ND, values_ND[:, 0] + 0.5 if with_weights else None)


@pytest.mark.parametrize("max_tokens", [1, 7, 8, 30, 1000])
def test_token_chunks_equal_a_slow_loop(max_tokens: int) -> None:
    lengths = torch.randint(0, 12, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    expected: list[list[int]] = []
    left = 0
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        if not expected or lengths[text] > left:
            expected.append([])
            left = max_tokens
        expected[-1].append(text)
        left -= lengths[text]
    assert [chunk.tolist() for chunk in token_chunks(torch.tensor(lengths), max_tokens)] == expected


def test_chunks_of_many_texts_take_no_longer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are summed, over all chunks: as many as there are texts."""
    summed, cumsum = [], torch.Tensor.cumsum
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda values, dim: summed.append(len(values)) or cumsum(values, dim))
    assert len(list(token_chunks(torch.full((600,), 5), 10))) == 300
    assert sum(summed) == 600


def test_offsets_are_where_each_text_begins() -> None:
    tokens = pack(TEXTS)
    assert tokens.offsets_B.tolist() == [0, 3, 4, 9]
    assert [tokens.input_ids_T[row].item() for row in tokens.offsets_B] == [7, 5, 2, 11]


def test_len_is_the_number_of_texts() -> None:
    assert len(pack(TEXTS)) == 4


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [3, 1, 0, 2], [2], [1, 1, 3, 1], []], ids=str)
def test_select_is_list_indexing(index: list[int]) -> None:
    selected = pack(TEXTS).select(torch.tensor(index, dtype=torch.int64))
    assert unpack(selected) == [TEXTS[i] for i in index]


def test_selecting_back_by_the_inverse_changes_nothing() -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert unpack(pack(TEXTS).select(order).select(order.argsort())) == TEXTS


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 1, 1), (0, 4, 0)], ids=str)
def test_split_is_list_slicing(sizes: tuple[int, ...]) -> None:
    parts = [unpack(part) for part in pack(TEXTS).split(*sizes)]
    assert [len(part) for part in parts] == list(sizes)
    assert [text for part in parts for text in part] == TEXTS


def test_parts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"do not make 4"):
        pack(TEXTS).split(1, 2)


def test_concat_is_list_addition() -> None:
    assert unpack(Tokens.concat([pack(TEXTS), pack([[1]]), pack(TEXTS[:2])])) == [*TEXTS, [1], *TEXTS[:2]]


def test_texts_without_a_row_keep_their_place() -> None:
    texts = [[], [4, 2], [], [6]]
    assert unpack(pack(texts).select(torch.tensor([3, 2, 1]))) == [[6], [], [4, 2]]
    assert unpack(pack(texts).split(1, 3)[1]) == texts[1:]


def test_values_and_weights_travel_together() -> None:
    picked = vectors([2, 1, 3]).select(torch.tensor([2, 0]))
    assert picked.values_ND.tolist() == [[6, 7], [8, 9], [10, 11], [0, 1], [2, 3]]
    assert picked.weights_N is not None
    assert picked.weights_N.tolist() == [6.5, 8.5, 10.5, 0.5, 2.5]


def test_absent_weights_stay_absent() -> None:
    plain = vectors([2, 1], with_weights=False)
    changed = [plain.select(torch.tensor([1])), plain.split(1, 1)[0], Embeddings.concat([plain, plain])]
    assert [part.weights_N for part in changed] == [None, None, None]


def test_parts_with_and_without_weights_do_not_mix() -> None:
    with pytest.raises(AssertionError, match=r"weights_N is set in some parts only"):
        Embeddings.concat([vectors([2]), vectors([2], with_weights=False)])


def test_select_adds_the_gradients_of_a_text_taken_twice() -> None:
    values_ND = torch.zeros(3, 2, requires_grad=True)
    texts = Embeddings(torch.tensor([1, 2]), values_ND).select(torch.tensor([1, 1]))
    texts.values_ND.sum().backward()
    assert values_ND.grad is not None
    assert values_ND.grad.tolist() == [[0, 0], [2, 2], [2, 2]]


def test_records_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        pack(TEXTS).lengths_B = torch.tensor([1])  # type: ignore[misc]


def test_segment_rows_are_the_ranges_one_after_the_other() -> None:
    offsets, lengths = [5, 0, 9, 2], [2, 3, 0, 1]
    expected = [row for first, count in zip(offsets, lengths, strict=True) for row in range(first, first + count)]
    assert segment_rows(torch.tensor(offsets), torch.tensor(lengths)).tolist() == expected


def batch() -> Batch:
    ids_P, kinds_P = torch.arange(4), torch.zeros(4, dtype=torch.int8)
    return Batch(pack(TEXTS[:2]), pack(TEXTS), ids_P, kinds_P, rows_Q=torch.tensor([8, 9]))


def test_group_size_is_passages_per_query() -> None:
    assert batch().group_size == 2


def test_a_batch_moves_whole_but_what_shapes_depend_on_stays_on_the_cpu() -> None:
    moved = batch().to("meta")
    tensors = [moved.passage_ids_P, moved.kinds_P, moved.rows_Q]
    for texts in (moved.queries, moved.passages):
        tensors += [texts.input_ids_T, texts.cut_B]
        assert {texts.lengths_B.device.type, texts.keep_T.device.type} == {"cpu"}
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_segments_are_reduced_and_must_make_up_the_rows() -> None:
    rows_TD = torch.tensor([[1.0, 2.0], [3.0, 8.0], [5.0, 0.0]])
    for reduction, expected in (("sum", [[4.0, 10.0], [5.0, 0.0]]), ("mean", [[2.0, 5.0], [5.0, 0.0]])):
        assert segment_reduce(rows_TD, reduction, torch.tensor([2, 1])).tolist() == expected
    with pytest.raises(AssertionError, match="lengths that do not make up the rows"):
        segment_reduce(rows_TD, "sum", torch.tensor([2, 2]))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("width", [(), (3,)])
def test_segments_gradient_is_torchs_and_keeps_no_rows(reduction: Literal["sum", "mean"], width: tuple[int]) -> None:
    """The rows of MaxSim are its best similarities, query tokens times passages: gigabytes in a large batch."""
    torch.manual_seed(0)
    lengths_B, kept = torch.tensor([2, 1, 4]), []
    rows, theirs = (torch.randn(7, *width).requires_grad_() for _ in range(2))
    theirs.data.copy_(rows.data)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        reduced = segment_reduce(rows, reduction, lengths_B)
    expected = torch.segment_reduce(theirs, reduction, lengths=lengths_B, axis=0)
    for each in (reduced, expected):
        (each * torch.arange(1, each.numel() + 1).view_as(each)).sum().backward()
    assert reduced.equal(expected)
    torch.testing.assert_close(rows.grad, theirs.grad)
    assert [saved.tolist() for saved in kept] == [[2, 1, 4]]


def test_moving_a_batch_leaves_the_first_one_alone() -> None:
    original = batch()
    original.to("meta")
    assert unpack(original.queries) == TEXTS[:2]
    assert original.passage_ids_P.device.type == "cpu"
