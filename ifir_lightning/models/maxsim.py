"""The kernel under MaxSim: each query token's best match in each passage, without the similarity matrix.

Of the [query tokens x passage tokens] matrix only one block exists at a time; what stays for the backward pass is
the number of the winning passage token: N_queries x P integers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ifir_lightning.records import Embeddings, segment_rows

MAX_BLOCK_ELEMENTS = 2**24
"""Similarities held at a time: 64 MB in float32."""


@dataclass(frozen=True)
class _Block:
    """Some passages of similar length as a rectangle: ``rows_PL`` numbers their embeddings, -1 where there is none."""

    passages: Tensor
    rows_PL: Tensor


def best_similarity(queries_ND: Tensor, passages: Embeddings, max_elements: int = MAX_BLOCK_ELEMENTS) -> Tensor:
    """best_NP[n, p] = max over the embeddings d of passage p of <query embedding n, d>, in float32.

    Args:
        queries_ND: Query embeddings of any number of queries.
        passages: P packed passages, none of them empty.
        max_elements: Similarities computed at a time.

    The gradient goes to the winning embedding only (the first one where several tie).
    """
    blocks = list(_blocks(passages.lengths_B, len(queries_ND), max_elements, queries_ND.device))
    return _BestSimilarity.apply(queries_ND.float(), passages.values_ND.float(), blocks)


class _BestSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_ND: Tensor, passages_ND: Tensor, blocks: list[_Block]) -> Tensor:
        num_passages = sum(len(block.passages) for block in blocks)
        best_NP = queries_ND.new_empty(len(queries_ND), num_passages)
        winner_NP = torch.empty_like(best_NP, dtype=torch.int32)
        for block in blocks:
            similarity_NPL = _similarities(queries_ND, passages_ND, block)
            best_NP[:, block.passages], winner = similarity_NPL.max(dim=-1)
            winner_NP[:, block.passages] = winner.to(torch.int32)
        ctx.save_for_backward(queries_ND, passages_ND, winner_NP)
        ctx.blocks = blocks
        return best_NP

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scatter the gradient to the winners of a block at a time, then two matrix products."""
        (grad_NP,) = gradients
        queries_ND, passages_ND, winner_NP = ctx.saved_tensors
        grad_queries_ND, grad_passages_ND = torch.zeros_like(queries_ND), torch.zeros_like(passages_ND)
        for block in ctx.blocks:
            grad_NPL = grad_NP.new_zeros(len(queries_ND), *block.rows_PL.shape)
            winner = winner_NP[:, block.passages].long().unsqueeze(-1)
            grad_NPL.scatter_(2, winner, grad_NP[:, block.passages].unsqueeze(-1))
            real_PL = block.rows_PL >= 0
            grad_NR = grad_NPL[:, real_PL]
            rows_R = block.rows_PL[real_PL]
            grad_queries_ND.addmm_(grad_NR, passages_ND[rows_R])
            grad_passages_ND[rows_R] = grad_NR.T @ queries_ND
        return grad_queries_ND, grad_passages_ND, None


def _similarities(queries_ND: Tensor, passages_ND: Tensor, block: _Block) -> Tensor:
    """similarity_NPL of one block; minus infinity where a passage has no token."""
    tokens_PLD = passages_ND[block.rows_PL]
    similarity_NPL = (queries_ND @ tokens_PLD.flatten(0, 1).T).unflatten(1, block.rows_PL.shape)
    return similarity_NPL.masked_fill_(block.rows_PL < 0, float("-inf"))


def _blocks(lengths_P: Tensor, num_rows: int, max_elements: int, device: torch.device) -> Iterator[_Block]:
    """Passages by length, in rectangles of at most ``max_elements`` similarities (a single passage may exceed it)."""
    assert int(lengths_P.min()) > 0, "a passage without embeddings has no best match"
    order_P = lengths_P.argsort(stable=True)
    offsets_P = lengths_P.cumsum(0) - lengths_P
    start = 0
    while start < len(order_P):
        stop = start + _num_fitting(lengths_P[order_P[start:]], max_elements // max(num_rows, 1))
        part = order_P[start:stop]
        yield _Block(part.to(device), pad_rows(offsets_P[part], lengths_P[part]).to(device))
        start = stop


def _num_fitting(lengths: Tensor, max_tokens: int) -> int:
    """How many of the first passages make a rectangle of at most ``max_tokens``; at least one."""
    padded = torch.arange(1, len(lengths) + 1) * lengths
    return max(1, int((padded <= max_tokens).sum()))


def pad_rows(offsets_K: Tensor, lengths_K: Tensor) -> Tensor:
    """rows_KL: row numbers of K texts, one text a line, -1 behind its end."""
    longest = int(lengths_K.max())
    inside_KL = torch.arange(longest) < lengths_K[:, None]
    rows_KL = torch.full(inside_KL.shape, -1)
    rows_KL[inside_KL] = segment_rows(offsets_K, lengths_K)
    return rows_KL
