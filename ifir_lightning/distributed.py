"""What crosses ranks, with gradient where it trains: the only place that calls torch.distributed.

Queries are gathered, scores exchanged, passages never sent: passages are 97% of a batch's embeddings. Each function
is the identity on a single process. The gradients are those of one process that holds the whole global batch:
nothing is scaled here, and the mean over ranks is the one that DDP takes of parameter gradients.
"""

from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ifir_lightning.records import Embeddings

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among the ranks; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_objects(value: T) -> list[T]:
    """The value of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def average(values: Tensor) -> Tensor:
    """Mean over ranks, without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_rows(rows: Tensor) -> tuple[Tensor, list[int]]:
    """Rows of all ranks, in rank order, and how many each rank has; with gradient.

    Ranks may hold different numbers of rows.
    """
    if world_size() == 1:
        return rows, [len(rows)]
    counts = _gather_counts(len(rows), rows.device)
    return _GatherRows.apply(rows, counts), counts


def gather_embeddings(texts: Embeddings) -> tuple[Embeddings, list[int]]:
    """Embeddings of the texts of all ranks, and how many texts each rank has; with gradient."""
    if world_size() == 1:
        return texts, [len(texts)]
    device = texts.values_ND.device
    lengths_B, num_texts = gather_rows(texts.lengths_B.to(device))
    values_ND, _ = gather_rows(texts.values_ND)
    weights_N = None if texts.weights_N is None else gather_rows(texts.weights_N)[0]
    return replace(texts, lengths_B=lengths_B.cpu(), values_ND=values_ND, weights_N=weights_N), num_texts


def exchange_scores(scores_QP: Tensor, num_queries: list[int], num_passages: list[int]) -> Tensor:
    """Queries of all ranks x passages of this rank -> queries of this rank x passages of all ranks; with gradient.

    Args:
        scores_QP: Rows in rank order, ``num_queries`` of each rank.
        num_queries: Queries of each rank.
        num_passages: Passages of each rank.
    """
    if world_size() == 1:
        return scores_QP
    own_Q, own_P = num_queries[rank()], num_passages[rank()]
    sent = [n * own_P for n in num_queries]
    received = [own_Q * n for n in num_passages]
    flat = _AllToAll.apply(scores_QP.reshape(-1), sent, received)
    blocks = [block.view(own_Q, -1) for block in flat.split(received)]
    return torch.cat(blocks, dim=1)


def _gather_counts(count: int, device: torch.device) -> list[int]:
    return torch.cat(_gather(torch.tensor([count], device=device))).tolist()


def _gather(values: Tensor) -> list[Tensor]:
    """The tensor of every rank; all of one shape."""
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(gathered, values)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([part[:count] for part, count in zip(_gather(padded), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Every rank's loss has a share in every row: the shares are added, then each rank takes its own rows."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        return _all_to_all(values, sent, received)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _all_to_all(gradients[0], ctx.received, ctx.sent), None, None


def _all_to_all(values: Tensor, sent: list[int], received: list[int]) -> Tensor:
    output = values.new_empty(sum(received))
    dist.all_to_all_single(output, values.contiguous(), received, sent)
    return output
