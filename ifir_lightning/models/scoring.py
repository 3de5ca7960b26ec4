"""Embeddings of queries and passages -> scores, always in float32."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifir_lightning.errors import InputError
from ifir_lightning.models.maxsim import best_similarity, pad_rows
from ifir_lightning.records import Embeddings, on_device, segment_reduce

Reduction = Literal["sum", "mean"]

MAX_BLOCK_ELEMENTS = 2**24
"""Numbers in the rectangles of listed pairs held at a time: 64 MB in float32."""


class Scorer(nn.Module, ABC):
    """Scores of queries against passages: all pairs for training, listed pairs for re-ranking.

    To write a scorer of your own, implement ``forward``; ``pairs`` too where that is faster. A constructor keeps its
    arguments under their names, so that checkpoints can carry them.
    """

    one_per_text: ClassVar[bool] = False
    """Whether it needs exactly one vector per text."""
    needs_weights: ClassVar[bool] = False
    """Whether it needs the token weights of ``TokenProjection(token_weights=True)``."""

    def __call__(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        """``forward``.

        Raises:
            InputError: What it returned has another shape.
        """
        scores_QP = super().__call__(queries, passages)
        if scores_QP.shape != (expected := (len(queries), len(passages))):
            raise InputError(
                f"the scorer {type(self).__name__} returned scores of shape {list(scores_QP.shape)} for {expected[0]} "
                f"queries and {expected[1]} passages; allowed is {list(expected)}: correct its forward"
            )
        return scores_QP

    @abstractmethod
    def forward(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        """scores_QP of every query against every passage, float32."""

    def pairs(self, queries: Embeddings, passages: Embeddings, index_K2: Tensor) -> Tensor:
        """scores_K of the listed (query, passage) pairs, float32; equals ``forward(...)[index_K2]``.

        But for MaxSim under autocast on a GPU, where ``forward`` rounds the embeddings to autocast's dtype.
        """
        index_K2 = index_K2.cpu()
        scores_K = queries.values_ND.new_empty(len(index_K2), dtype=torch.float32)
        for query in index_K2[:, 0].unique():
            place = (index_K2[:, 0] == query).nonzero()[:, 0]
            own = passages.select(index_K2[place, 1])
            scores_K[on_device(place, scores_K.device)] = self(queries.select(query[None]), own)[0]
        return scores_K


class Dot(Scorer):
    """Inner product of one vector per text."""

    one_per_text: ClassVar[bool] = True

    def forward(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        return _dot(queries.values_ND.float(), passages.values_ND.float())

    def pairs(self, queries: Embeddings, passages: Embeddings, index_K2: Tensor) -> Tensor:
        return _dot_pairs(queries.values_ND.float(), passages.values_ND.float(), index_K2)


class Cosine(Scorer):
    """Cosine of one vector per text, in [-1, 1]: ``Dot`` of normalised vectors."""

    one_per_text: ClassVar[bool] = True

    def forward(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        return _dot(_normalized(queries), _normalized(passages))

    def pairs(self, queries: Embeddings, passages: Embeddings, index_K2: Tensor) -> Tensor:
        return _dot_pairs(_normalized(queries), _normalized(passages), index_K2)


class MaxSim(Scorer):
    """s(q, d) = sum over query tokens of the best similarity with any passage token (ColBERT, section 3.3).

    Args:
        reduction: ``sum`` is the published convention; ``mean`` divides by the number of query tokens, so that a
            score spans [-1, 1] like a cosine and one temperature serves both paradigms.
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        return _maxsim(queries, passages, None, self.reduction)

    def pairs(self, queries: Embeddings, passages: Embeddings, index_K2: Tensor) -> Tensor:
        return _maxsim_pairs(queries, passages, None, self.reduction, index_K2)


class WeightedMaxSim(Scorer):
    """s(q, d) = sum over query tokens of w * (best similarity with any passage token).

    MaxSim can only reward a passage for what it mentions; a token of "not about the price" whose weight w has
    become negative takes reward away. One scalar per query token, nothing at the passage's side. The weights are
    learnt by ``TokenProjection(token_weights=True)`` and start at 1, where this equals ``MaxSim``.

    Args:
        reduction: As in ``MaxSim``; ``mean`` divides by the number of query tokens, not by the sum of weights.
    """

    needs_weights: ClassVar[bool] = True

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        return _maxsim(queries, passages, queries.weights_N, self.reduction)

    def pairs(self, queries: Embeddings, passages: Embeddings, index_K2: Tensor) -> Tensor:
        return _maxsim_pairs(queries, passages, queries.weights_N, self.reduction, index_K2)


def _normalized(texts: Embeddings) -> Tensor:
    return F.normalize(texts.values_ND.float(), dim=-1)


def _dot(queries_QD: Tensor, passages_PD: Tensor) -> Tensor:
    with torch.autocast(queries_QD.device.type, enabled=False):
        return queries_QD @ passages_PD.T


def _dot_pairs(queries_QD: Tensor, passages_PD: Tensor, index_K2: Tensor) -> Tensor:
    query_K, passage_K = on_device(index_K2, queries_QD.device).T
    return (queries_QD[query_K] * passages_PD[passage_K]).sum(-1)


def _maxsim(queries: Embeddings, passages: Embeddings, weights_N: Tensor | None, reduction: Reduction) -> Tensor:
    best_NP = _best_similarity(queries.values_ND, passages)
    if weights_N is not None:
        best_NP = best_NP * weights_N[:, None]
    return segment_reduce(best_NP, reduction, queries.lengths_B)


def _best_similarity(queries_ND: Tensor, passages: Embeddings) -> Tensor:
    """best_NP, float32; on a GPU of embeddings in autocast's dtype, whose products are exact in float32."""
    if not queries_ND.is_cuda:
        with torch.autocast(queries_ND.device.type, enabled=False):
            return best_similarity(queries_ND, passages)
    from ifir_lightning.models.triton_maxsim import fused_best_similarity  # Triton comes with torch's CUDA builds

    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        queries_ND, passages = queries_ND.to(dtype), replace(passages, values_ND=passages.values_ND.to(dtype))
    with torch.autocast("cuda", enabled=False):
        return fused_best_similarity(queries_ND, passages)


def _maxsim_pairs(
    queries: Embeddings,
    passages: Embeddings,
    weights_N: Tensor | None,
    reduction: Reduction,
    index_K2: Tensor,
) -> Tensor:
    places, scores = [], []
    for rectangle in rectangles(queries, passages, index_K2):
        best_KL = rectangle.similarity_KLM.amax(dim=-1)
        weighted_KL = best_KL if weights_N is None else best_KL * weights_N[rectangle.query_KL]
        total_K = weighted_KL.masked_fill(rectangle.query_KL < 0, 0.0).sum(1)
        places.append(rectangle.place_K)
        scores.append(total_K / (rectangle.query_KL >= 0).sum(1) if reduction == "mean" else total_K)
    return torch.cat(scores)[on_device(torch.cat(places).argsort(), scores[0].device)]


@dataclass(frozen=True)
class Rectangle:
    """Some listed pairs, whose passages are of similar length: K pairs x L query tokens x M passage tokens.

    Attributes:
        place_K: Numbers of the pairs in the list.
        query_KL: Rows of the queries' embeddings, -1 behind a query's end.
        passage_KM: Rows of the passages' embeddings, -1 behind a passage's end.
        similarity_KLM: Inner products, float32; minus infinity behind a passage's end, anything behind a query's.
    """

    place_K: Tensor
    query_KL: Tensor
    passage_KM: Tensor
    similarity_KLM: Tensor


def rectangles(queries: Embeddings, passages: Embeddings, index_K2: Tensor) -> Iterator[Rectangle]:
    """The token similarities of listed (query, passage) pairs, a bounded number at a time."""
    index_K2 = index_K2.cpu()
    order_K = passages.lengths_B[index_K2[:, 1]].argsort(stable=True)
    for place_K in _pair_parts(queries, passages, index_K2, order_K):
        query_KL, passage_KM = _rows(queries, index_K2[place_K, 0]), _rows(passages, index_K2[place_K, 1])
        queries_KLD, passages_KMD = _gathered(queries, query_KL), _gathered(passages, passage_KM)
        with torch.autocast(query_KL.device.type, enabled=False):
            similarity_KLM = queries_KLD @ passages_KMD.transpose(1, 2)
        end_KM = torch.zeros_like(passage_KM, dtype=torch.float32).masked_fill_(passage_KM < 0, float("-inf"))
        yield Rectangle(place_K, query_KL, passage_KM, similarity_KLM + end_KM[:, None, :])


def _rows(texts: Embeddings, index_K: Tensor) -> Tensor:
    return on_device(pad_rows(texts.offsets_B[index_K], texts.lengths_B[index_K]), texts.values_ND.device)


def _gathered(texts: Embeddings, rows_KL: Tensor) -> Tensor:
    """The embeddings of ``rows_KL``, any behind a text's end; by ``index_select``, which is far faster on a CPU."""
    return texts.values_ND.index_select(0, rows_KL.clamp(min=0).flatten()).view(*rows_KL.shape, -1).float()


def _pair_parts(queries: Embeddings, passages: Embeddings, index_K2: Tensor, order_K: Tensor) -> Iterator[Tensor]:
    """Parts of ``order_K`` whose rectangles hold about ``MAX_BLOCK_ELEMENTS`` numbers each."""
    longest = int(queries.lengths_B.max())
    width = queries.values_ND.shape[1]
    lengths_K = passages.lengths_B[index_K2[order_K, 1]]  # ascending
    size_K = longest * lengths_K + (longest + lengths_K) * width
    start = 0
    while start < len(order_K):
        ahead = size_K[start : start + MAX_BLOCK_ELEMENTS // int(size_K[start])]  # no more of them can fit
        total = torch.arange(1, len(ahead) + 1) * ahead
        stop = start + max(1, int((total <= MAX_BLOCK_ELEMENTS).sum()))
        yield order_K[start:stop]
        start = stop
