"""Several ranks equal one process, in values and in gradients: rows of any number, scores exchanged."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor

from ifir_lightning.distributed import exchange_scores, gather_embeddings, gather_objects, gather_rows, rank, world_size
from ifir_lightning.records import Embeddings, Packed

COUNTS = {1: [4], 2: [3, 1], 3: [2, 4, 1]}  # rows (texts, queries) of each rank
PASSAGES = {1: [6], 2: [2, 5], 3: [4, 1, 3]}


def global_rows(num_ranks: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_ranks)
    return torch.randn(sum(COUNTS[num_ranks]), 3, generator=generator)


def upstream_gradients(num_ranks: int) -> Tensor:
    """What the loss of each rank passes back to the gathered rows: not the same on every rank."""
    return torch.randn(num_ranks, *global_rows(num_ranks).shape, generator=torch.Generator().manual_seed(9))


def gathered_rows(num_ranks: int) -> tuple[Tensor, list[int], Tensor]:
    own = global_rows(num_ranks).split(COUNTS[num_ranks])[rank()].clone().requires_grad_()
    rows, counts = gather_rows(own)
    (gradient,) = torch.autograd.grad(rows, own, upstream_gradients(num_ranks)[rank()])
    return rows.detach(), counts, gradient


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_rows_arrive_in_rank_order_and_gradients_of_all_ranks_are_added(num_ranks: int) -> None:
    results = on_ranks(num_ranks, gathered_rows, num_ranks)
    expected_gradients = upstream_gradients(num_ranks).sum(0).split(COUNTS[num_ranks])
    for (rows, counts, gradient), expected in zip(results, expected_gradients, strict=True):
        assert torch.equal(rows, global_rows(num_ranks))
        assert counts == COUNTS[num_ranks]
        torch.testing.assert_close(gradient, expected)


def integer_rows() -> tuple[Tensor, list[int]]:
    """Rank 0 has none."""
    return gather_rows(torch.full((2 * rank(),), -(2**62) + rank(), dtype=torch.int64))


def test_whole_numbers_keep_all_bits_and_a_rank_may_have_none() -> None:
    for rows, counts in on_ranks(2, integer_rows):
        assert (rows.tolist(), counts) == ([-(2**62) + 1] * 2, [0, 2])


def global_texts(num_ranks: int) -> Embeddings:
    """Texts of 1 to 4 rows with weights."""
    num_texts = sum(COUNTS[num_ranks])
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.randint(1, 5, (num_texts,), generator=generator)
    values_ND = torch.randn(int(lengths_B.sum()), 2, generator=generator)
    return Embeddings(lengths_B, values_ND, values_ND.sum(1))


def parts(texts: Embeddings, num_ranks: int) -> tuple[Packed, ...]:
    return texts.split(*COUNTS[num_ranks])


def gathered_texts(num_ranks: int, with_weights: bool) -> tuple[Embeddings, list[int], Tensor]:
    own = parts(global_texts(num_ranks), num_ranks)[rank()]
    values_ND = own.values_ND.clone().requires_grad_()
    own = replace(own, values_ND=values_ND, weights_N=values_ND.sum(1) if with_weights else None)
    texts, counts = gather_embeddings(own)
    weights_N = texts.weights_N if with_weights else torch.zeros(())
    loss = (rank() + 1) * (texts.values_ND**2).sum() + (weights_N**3).sum()
    (gradient,) = torch.autograd.grad(loss, values_ND)
    detached = replace(texts, values_ND=texts.values_ND.detach(), weights_N=weights_N.detach())
    return detached, counts, gradient


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_texts_of_unequal_lengths_are_gathered_with_their_weights(num_ranks: int) -> None:
    expected = global_texts(num_ranks)
    factor = sum(range(1, num_ranks + 1))
    for number, (texts, counts, gradient) in enumerate(on_ranks(num_ranks, gathered_texts, num_ranks, True)):
        assert counts == COUNTS[num_ranks]
        for name in ("lengths_B", "values_ND", "weights_N"):
            assert torch.equal(getattr(texts, name), getattr(expected, name))
        own = parts(expected, num_ranks)[number]
        by_hand = 2 * factor * own.values_ND + num_ranks * 3 * (own.weights_N**2)[:, None]
        torch.testing.assert_close(gradient, by_hand)


def test_texts_without_weights_stay_without() -> None:
    for number, (_, _, gradient) in enumerate(on_ranks(2, gathered_texts, 2, False)):
        torch.testing.assert_close(gradient, 6 * parts(global_texts(2), 2)[number].values_ND)


def global_scores(num_ranks: int) -> Tensor:
    shape = sum(COUNTS[num_ranks]), sum(PASSAGES[num_ranks])
    return torch.arange(float(shape[0] * shape[1])).view(shape)


def exchanged_scores(num_ranks: int) -> tuple[Tensor, Tensor]:
    """Own queries x all passages, and the gradient of sum(scores ** 2 / 2) over ranks: the scores themselves."""
    num_queries, num_passages = COUNTS[num_ranks], PASSAGES[num_ranks]
    held = global_scores(num_ranks).split(num_passages, dim=1)[rank()].clone().requires_grad_()
    scores_QP = exchange_scores(held, num_queries, num_passages)
    (gradient,) = torch.autograd.grad((scores_QP**2).sum() / 2, held)
    return scores_QP.detach(), gradient


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_scores_go_to_the_rank_of_their_query_and_gradients_back(num_ranks: int) -> None:
    rows = global_scores(num_ranks).split(COUNTS[num_ranks])
    columns = global_scores(num_ranks).split(PASSAGES[num_ranks], dim=1)
    for number, (scores_QP, gradient) in enumerate(on_ranks(num_ranks, exchanged_scores, num_ranks)):
        assert torch.equal(scores_QP, rows[number])
        assert torch.equal(gradient, columns[number])


def gathered_objects() -> list[Any]:
    return gather_objects({"rank": rank(), "of": world_size()})


def test_objects_of_every_rank() -> None:
    assert on_ranks(2, gathered_objects) == [[{"rank": 0, "of": 2}, {"rank": 1, "of": 2}]] * 2


def test_one_process_is_the_identity() -> None:
    texts, scores_QP = global_texts(1), global_scores(1)
    assert (rank(), world_size(), gather_objects("x")) == (0, 1, ["x"])
    assert gather_rows(scores_QP) == (scores_QP, [4])
    assert gather_embeddings(texts) == (texts, [4])
    assert exchange_scores(scores_QP, [4], [6]) is scores_QP
