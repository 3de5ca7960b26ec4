"""Several ranks equal one process, in values and in gradients: rows and texts gathered, scores exchanged."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import Tensor

from ifir_lightning.distributed import (
    all_reduce_max,
    exchange_scores,
    gather_embeddings,
    gather_objects,
    gather_rows,
    rank,
    world_size,
)
from ifir_lightning.records import Embeddings

TEXTS, PASSAGES = 2, 3
"""Of each rank; texts are queries too."""


def whole_numbers() -> tuple[Tensor, Tensor]:
    first = -(2**62) + 2 * rank()
    return gather_rows(torch.tensor([first, first + 1])), gather_rows(torch.tensor([rank()], dtype=torch.int8))


def test_whole_numbers_arrive_in_rank_order_and_keep_all_bits() -> None:
    for ids, kinds in on_ranks(3, whole_numbers):
        assert ids.tolist() == [-(2**62) + number for number in range(6)]
        assert (kinds.tolist(), kinds.dtype) == ([0, 1, 2], torch.int8)


def global_texts(num_ranks: int) -> Embeddings:
    """Texts of 1 to 4 rows with weights; ranks have different numbers of rows."""
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.randint(1, 5, (num_ranks * TEXTS,), generator=generator)
    assert len(set(lengths_B.view(num_ranks, -1).sum(1).tolist())) > 1
    values_ND = torch.randn(int(lengths_B.sum()), 2, generator=generator)
    return Embeddings(lengths_B, values_ND, values_ND.sum(1))


def parts(texts: Embeddings, num_ranks: int) -> tuple[Embeddings, ...]:
    return texts.split(*[TEXTS] * num_ranks)


def gathered_texts(num_ranks: int, with_weights: bool) -> tuple[Embeddings, Tensor]:
    """Of a rank, and the gradients of its own, from losses that differ between ranks."""
    own = parts(global_texts(num_ranks), num_ranks)[rank()]
    values_ND = own.values_ND.clone().requires_grad_()
    own = replace(own, values_ND=values_ND, weights_N=values_ND.sum(1) if with_weights else None)
    texts = gather_embeddings(own)
    assert (texts.weights_N is not None) == with_weights
    weights_N = texts.weights_N if with_weights else torch.zeros(())
    loss = (rank() + 1) * (texts.values_ND**2).sum() + (weights_N**3).sum()
    (gradient,) = torch.autograd.grad(loss, values_ND)
    return replace(texts, values_ND=texts.values_ND.detach(), weights_N=weights_N.detach()), gradient


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_texts_of_unequal_lengths_are_gathered_with_their_weights(num_ranks: int) -> None:
    expected = global_texts(num_ranks)
    factor = sum(range(1, num_ranks + 1))
    for number, (texts, gradient) in enumerate(on_ranks(num_ranks, gathered_texts, num_ranks, True)):
        for name in ("lengths_B", "values_ND", "weights_N"):
            assert torch.equal(getattr(texts, name), getattr(expected, name))
        own = parts(expected, num_ranks)[number]
        by_hand = 2 * factor * own.values_ND + num_ranks * 3 * (own.weights_N**2)[:, None]
        torch.testing.assert_close(gradient, by_hand)


def test_texts_without_weights_stay_without() -> None:
    for number, (_, gradient) in enumerate(on_ranks(2, gathered_texts, 2, False)):
        torch.testing.assert_close(gradient, 6 * parts(global_texts(2), 2)[number].values_ND)


def gathered_beside_a_gpu() -> list[tuple[torch.dtype, bool]]:
    """What each gather of texts sends, and whether in the group of the ranks' CPUs."""
    sent, gather = [], dist.all_gather

    def look(tensors: list[Tensor], tensor: Tensor, group: dist.ProcessGroup | None = None) -> None:
        sent.append((tensor.dtype, group is not None and group is not dist.group.WORLD))
        gather(tensors, tensor, group=group)

    with patch.object(dist, "all_gather", look):
        gather_embeddings(global_texts(2).split(TEXTS, TEXTS)[rank()])
    return sent


def test_lengths_go_from_cpu_to_cpu_and_nothing_else_does() -> None:
    """A GPU would have to be waited for, to know them."""
    expected = [(torch.int64, True), (torch.float32, False), (torch.float32, False)]
    assert on_ranks(2, gathered_beside_a_gpu) == [expected, expected]


def global_scores(num_ranks: int) -> Tensor:
    shape = num_ranks * TEXTS, num_ranks * PASSAGES
    return torch.arange(float(shape[0] * shape[1])).view(shape)


def exchanged_scores(num_ranks: int) -> tuple[Tensor, Tensor]:
    """Own queries x all passages, and the gradient of sum(scores ** 2 / 2) over ranks: the scores themselves."""
    held = global_scores(num_ranks).split(PASSAGES, dim=1)[rank()].clone().requires_grad_()
    scores_QP = exchange_scores(held)
    (gradient,) = torch.autograd.grad((scores_QP**2).sum() / 2, held)
    return scores_QP.detach(), gradient


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_scores_go_to_the_rank_of_their_query_and_gradients_back(num_ranks: int) -> None:
    rows = global_scores(num_ranks).split(TEXTS)
    columns = global_scores(num_ranks).split(PASSAGES, dim=1)
    for number, (scores_QP, gradient) in enumerate(on_ranks(num_ranks, exchanged_scores, num_ranks)):
        assert torch.equal(scores_QP, rows[number])
        assert torch.equal(gradient, columns[number])


def largest_of_ranks() -> list[int]:
    return [all_reduce_max(rank()), all_reduce_max(-rank())]


def test_the_largest_value_of_all_ranks() -> None:
    assert on_ranks(3, largest_of_ranks) == [[2, 0]] * 3


def gathered_objects() -> list[Any]:
    return gather_objects({"rank": rank(), "of": world_size()})


def test_objects_of_every_rank() -> None:
    assert on_ranks(2, gathered_objects) == [[{"rank": 0, "of": 2}, {"rank": 1, "of": 2}]] * 2


def test_one_process_is_the_identity() -> None:
    texts, scores_QP = global_texts(2), global_scores(1)
    assert (rank(), world_size(), gather_objects("x"), all_reduce_max(-5)) == (0, 1, ["x"], -5)
    assert gather_rows(scores_QP) is scores_QP
    assert gather_embeddings(texts) is texts
    assert exchange_scores(scores_QP) is scores_QP
