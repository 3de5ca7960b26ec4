"""Why a late-interaction model scores as it does: its score taken apart, and its token vectors scored otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ifir_lightning.models.scoring import Cosine, Rectangle, Reduction, rectangles
from ifir_lightning.records import Embeddings, on_device, segment_reduce
from ifir_lightning.spans import SPAN_NAMES, Span

SCORERS = ("maxsim", "weighted", "smooth_maximum", "top_k_mean", "mean_pooled_cosine")


@dataclass(frozen=True)
class PairDiagnostics:
    """What can be told of (query, passage) pairs under MaxSim or weighted MaxSim.

    Args:
        queries: Embeddings, one row per token.
        spans_N: The span of every row.
        reduction: The scorer's.
        temperature: Of the smooth maximum sum_m softmax(s_m / t) s_m, which is the maximum for t = 0 and the mean for a
            large t, whatever the length of the passage.
        top_k: The k of the mean of the k best similarities.
    """

    queries: Embeddings
    spans_N: Tensor
    reduction: Reduction
    temperature: float = 0.1
    top_k: int = 3

    @cached_property
    def weights_N(self) -> Tensor:
        """Of weighted MaxSim; 1 without."""
        weights_N = self.queries.weights_N
        return self.queries.values_ND.new_ones(len(self.spans_N)) if weights_N is None else weights_N

    def __call__(self, passages: Embeddings, special_N: Tensor, index_K2: Tensor) -> dict[str, Tensor]:
        """Figures of the listed pairs, each [K], float32, on the device.

        - ``query``, ``instruction``, ``markers``, ``expansion``: what the tokens of the span contribute to the score;
          they add up to it.
        - ``without_instruction_tokens``: the score if the instruction's rows were dropped.
        - ``maxsim``, ``weighted`` (if there are weights), ``smooth_maximum``, ``top_k_mean``: the same vectors, other
          operators, each summed over query tokens; ``mean_pooled_cosine``: of the mean vectors.
        - ``special``: what is contributed where either token is a special one or a marker (``special_N``: the
          passages' rows); ``winner_entropy``: how evenly the query tokens' winners are spread over the passage, in
          [0, 1]: 0 if all choose one token; ``negative``: instruction tokens whose best similarity is below 0.
        """
        parts = list(rectangles(self.queries, passages, index_K2))
        order = on_device(torch.cat([part.place_K for part in parts]).argsort(), passages.values_ND.device)
        figures = [self._figures(part, special_N) for part in parts]
        joined = {name: torch.cat([part[name] for part in figures])[order] for name in figures[0]}
        pooled = Cosine().pairs(self._mean_queries, mean_vectors(passages), index_K2)
        return joined | {"mean_pooled_cosine": pooled}

    @cached_property
    def _mean_queries(self) -> Embeddings:
        return mean_vectors(self.queries)

    def _figures(self, part: Rectangle, special_N: Tensor) -> dict[str, Tensor]:
        best_KL, winner_KL = part.similarity_KLM.max(dim=-1)
        inside_KL = part.query_KL >= 0
        spans_KL = self.spans_N[part.query_KL].masked_fill(~inside_KL, -1)
        instruction_KL = spans_KL == Span.INSTRUCTION
        special_KL = special_N[part.passage_KM].gather(1, winner_KL) | (spans_KL == Span.MARKERS)
        weighted_KL = (best_KL * self.weights_N[part.query_KL]).masked_fill(~inside_KL, 0)
        length_K = inside_KL.sum(1) if self.reduction == "mean" else 1
        kept_K = (inside_KL & ~instruction_KL).sum(1) if self.reduction == "mean" else 1
        figures = {
            name: weighted_KL.masked_fill(spans_KL != span, 0).sum(1) / length_K for span, name in SPAN_NAMES.items()
        }
        figures["without_instruction_tokens"] = weighted_KL.masked_fill(instruction_KL, 0).sum(1) / kept_K
        figures["special"] = weighted_KL.masked_fill(~special_KL, 0).sum(1) / length_K
        figures["negative"] = ((best_KL < 0) & instruction_KL).sum(1).float()
        figures["winner_entropy"] = _spread(winner_KL, inside_KL, part.passage_KM >= 0)
        return figures | {
            name: each_KL.masked_fill(~inside_KL, 0).sum(1)
            for name, each_KL in self._operators(part.similarity_KLM, best_KL, winner_KL, weighted_KL).items()
        }

    def _operators(
        self, similarity_KLM: Tensor, best_KL: Tensor, winner_KL: Tensor, weighted_KL: Tensor
    ) -> dict[str, Tensor]:
        """Per query token, what the operators make of its similarities."""
        weighted = {} if self.queries.weights_N is None else {"weighted": weighted_KL}
        return weighted | {
            "maxsim": best_KL,
            "smooth_maximum": _smooth_maximum(similarity_KLM, best_KL, self.temperature),
            "top_k_mean": _top_k_mean(similarity_KLM, best_KL, winner_KL, self.top_k),
        }


def _smooth_maximum(similarity_KLM: Tensor, best_KL: Tensor, temperature: float) -> Tensor:
    """From the distances to the maximum; one of 100 temperatures has no share, like a token that is not there."""
    below_KLM = (similarity_KLM - best_KL[:, :, None]).clamp_(min=-100 * temperature)
    share_KLM = (below_KLM / temperature).exp_()
    return best_KL + below_KLM.mul_(share_KLM).sum(-1) / share_KLM.sum(-1)


def _top_k_mean(similarity_KLM: Tensor, best_KL: Tensor, winner_KL: Tensor, k: int) -> Tensor:
    """Of the k best that are there: the winner taken away k - 1 times, on a CPU twice as fast as ``topk``."""
    total_KL, count_KL = best_KL, torch.ones_like(best_KL)
    for _ in range(min(k, similarity_KLM.shape[-1]) - 1):
        similarity_KLM = similarity_KLM.scatter(-1, winner_KL[:, :, None], float("-inf"))
        best_KL, winner_KL = similarity_KLM.max(dim=-1)
        there_KL = best_KL.isfinite()
        total_KL, count_KL = total_KL + best_KL.masked_fill(~there_KL, 0), count_KL + there_KL
    return total_KL / count_KL


def mean_vectors(texts: Embeddings) -> Embeddings:
    """One vector per text: the mean of its rows."""
    mean_BD = segment_reduce(texts.values_ND.float(), "mean", texts.lengths_B)
    return Embeddings(torch.ones_like(texts.lengths_B), mean_BD)


def _spread(winner_KL: Tensor, inside_KL: Tensor, there_KM: Tensor) -> Tensor:
    """Entropy of the passage tokens that win, over the largest that it can be: log min(L, M); 0 where that is 0."""
    counts_KM = torch.zeros(there_KM.shape, device=winner_KL.device)
    counts_KM.scatter_add_(1, winner_KL, inside_KL.float())
    length_K = inside_KL.sum(1)
    entropy_K = torch.special.entr(counts_KM / length_K[:, None]).sum(1)
    most_K = torch.minimum(length_K, there_KM.sum(1)).log()
    return torch.where(most_K > 0, entropy_K / most_K, 0.0)


class Spectrum:
    """How many directions embeddings fill, from sums only: any number of rows, added up over chunks and ranks."""

    def __init__(self) -> None:
        self._moments_DD: Tensor | None = None
        self._sum_D: Tensor | None = None
        self._count = 0

    def add(self, values_ND: Tensor) -> None:
        """Take in some rows, as unit vectors."""
        unit_ND = F.normalize(values_ND.float(), dim=-1)
        with torch.autocast(unit_ND.device.type, enabled=False):
            moments_DD, sum_D = unit_ND.T @ unit_ND, unit_ND.sum(0)
        self._moments_DD = moments_DD if self._moments_DD is None else self._moments_DD + moments_DD
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D
        self._count += len(unit_ND)

    @property
    def sums(self) -> tuple[Tensor, Tensor, int] | None:
        """What ``merged`` needs of this rank; None without rows."""
        if self._moments_DD is None or self._sum_D is None:
            return None
        return self._moments_DD.double().cpu(), self._sum_D.double().cpu(), self._count


def spectrum_figures(sums: Sequence[tuple[Tensor, Tensor, int] | None]) -> dict[str, float]:
    """``effective_rank`` and ``mean_cosine`` of the rows of all ranks.

    The effective rank is exp(entropy of the singular values, scaled to sum 1), from 1 (one direction) to D (Roy and
    Vetterli, The Effective Rank, 2007). The mean cosine is that of two rows drawn at random: 1 where all are one.
    """
    moments, totals, counts = zip(*[each for each in sums if each is not None], strict=True)
    singular_D = torch.linalg.eigvalsh(torch.stack(moments).sum(0)).clamp(min=0).sqrt()
    entropy = torch.special.entr(singular_D / singular_D.sum()).sum()
    mean_D = torch.stack(totals).sum(0) / sum(counts)
    return {"effective_rank": float(entropy.exp()), "mean_cosine": float(mean_D @ mean_D)}
