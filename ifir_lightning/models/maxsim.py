"""The kernel under MaxSim: each query token's best match in each passage, without the similarity matrix.

Of the [query tokens x passage tokens] matrix only one small piece exists at a time; what stays for the backward pass
is the number of the winning passage token: N_queries x P small integers. The gradient is a sparse matrix product (every
query token has P weighted passage tokens), which is what ``embedding_bag`` computes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ifir_lightning.records import Embeddings, segment_rows

MAX_PIECE_ELEMENTS = 2**20
"""Similarities held at a time: 4 MB in float32, which a processor's cache holds."""


def best_similarity(queries_ND: Tensor, passages: Embeddings, max_elements: int = MAX_PIECE_ELEMENTS) -> Tensor:
    """best_NP[n, p] = max over the embeddings d of passage p of <query embedding n, d>, in float32.

    Args:
        queries_ND: Query embeddings of any number of queries.
        passages: P packed passages, none of them empty.
        max_elements: Similarities computed at a time.

    The gradient goes to the winning embedding only (the first one where several tie).
    """
    assert int(passages.lengths_B.min()) > 0, "a passage without embeddings has no best match"
    lengths = passages.lengths_B.tolist()
    return _BestSimilarity.apply(queries_ND.float(), passages.values_ND.float(), lengths, max_elements)


class _BestSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_ND: Tensor, passages_ND: Tensor, lengths: list[int], max_elements: int) -> Tensor:
        best_PN = queries_ND.new_empty(len(lengths), len(queries_ND))
        winner_PN = torch.empty_like(best_PN, dtype=torch.int16 if max(lengths) < 2**15 else torch.int32)
        rows = max(1, max_elements // max(lengths))
        for number, passage_LD in enumerate(passages_ND.split(lengths)):
            for part_ND, best_N, winner_N in zip(
                queries_ND.split(rows), best_PN[number].split(rows), winner_PN[number].split(rows), strict=True
            ):
                best, winner = (part_ND @ passage_LD.T).max(dim=1)
                best_N.copy_(best)
                winner_N.copy_(winner)
        ctx.save_for_backward(queries_ND, passages_ND, winner_PN)
        ctx.lengths, ctx.max_elements = lengths, max_elements
        return best_PN.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Some passages at a time, whose winners are among their own tokens.

        An eighth of the similarities of the forward pass: a winner takes some 30 bytes on its way, not 4.
        """
        queries_ND, passages_ND, winner_PN = ctx.saved_tensors
        grad_queries_ND = torch.zeros_like(queries_ND) if ctx.needs_input_grad[0] else None
        grad_passages_ND = torch.empty_like(passages_ND) if ctx.needs_input_grad[1] else None
        size = max(1, ctx.max_elements // 8 // len(queries_ND))
        lengths = torch.tensor(ctx.lengths)
        start = 0
        for lengths_P, winners_PN, grad_PN in zip(
            lengths.split(size), winner_PN.split(size), gradients[0].T.split(size), strict=True
        ):
            starts_P = (lengths_P.cumsum(0) - lengths_P).to(winners_PN.device, torch.int32)
            rows_PN = winners_PN + starts_P[:, None]
            end = start + int(lengths_P.sum())
            if grad_queries_ND is not None:
                grad_queries_ND += _query_gradient(grad_PN, passages_ND[start:end], rows_PN)
            if grad_passages_ND is not None:
                grad_passages_ND[start:end] = _passage_gradient(grad_PN, queries_ND, rows_PN, end - start)
            start = end
        return grad_queries_ND, grad_passages_ND, None, None


def _query_gradient(grad_PN: Tensor, tokens_MD: Tensor, rows_PN: Tensor) -> Tensor:
    """Of query token n: the sum over passages of gradient times winner."""
    num_passages, num_rows = rows_PN.shape
    starts_N = torch.arange(num_rows, dtype=torch.int32, device=grad_PN.device) * num_passages
    return _weighted_sums(tokens_MD, rows_PN.T.flatten(), grad_PN.T.flatten(), starts_N)


def _passage_gradient(grad_PN: Tensor, queries_ND: Tensor, rows_PN: Tensor, num_tokens: int) -> Tensor:
    """Of passage token m: the sum over query tokens that it won of gradient times query token."""
    rows = rows_PN.flatten()
    order = rows.argsort(stable=True)
    count_M = rows.bincount(minlength=num_tokens)
    query = (order % rows_PN.shape[1]).to(torch.int32)
    starts_M = (count_M.cumsum(0) - count_M).to(torch.int32)
    return _weighted_sums(queries_ND, query, grad_PN.flatten()[order], starts_M)


def _weighted_sums(rows_ND: Tensor, index_K: Tensor, weight_K: Tensor, starts: Tensor) -> Tensor:
    """For each stretch of K that begins at ``starts``: the sum of weight times row."""
    return F.embedding_bag(index_K, rows_ND, starts, mode="sum", per_sample_weights=weight_K)


def pad_rows(offsets_K: Tensor, lengths_K: Tensor) -> Tensor:
    """rows_KL: row numbers of K texts, one text a line, -1 behind its end."""
    longest = int(lengths_K.max())
    inside_KL = torch.arange(longest) < lengths_K[:, None]
    rows_KL = torch.full(inside_KL.shape, -1)
    rows_KL[inside_KL] = segment_rows(offsets_K, lengths_K)
    return rows_KL
