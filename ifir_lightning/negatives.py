"""What each kind of negative is in a training step: how many, how hard, how much of the gradient."""

import math

import torch
from torch import Tensor

from ifir_lightning.losses import beats
from ifir_lightning.records import Kind

NAMES = ("instruction", "hard", "in_batch", "cross_rank")
"""In-batch negatives of this rank's own queries and those that other ranks hold are told apart."""


def count_negatives(
    scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, gradients_QP: Tensor, num_own: int
) -> Tensor:
    """sums_45: per name of ``NAMES`` the sums that ``negative_figures`` divides; sums of ranks may be added.

    The columns: (query, negative) pairs; queries with such a negative; those whose positive beats them all; the sum
    of s(positive) - s(negative); the sum of |dL/ds(negative)|.

    Args:
        scores_QP: As the loss saw them.
        targets_Q: Column of each query's positive.
        kinds_QP: What each passage is to each query.
        gradients_QP: dL/ds.
        num_own: Passages of this rank; they begin at ``targets_Q[0]``.
    """
    distance_P = torch.arange(scores_QP.shape[1], device=scores_QP.device) - targets_Q[0]
    own_P = (distance_P >= 0) & (distance_P < num_own)
    in_batch_QP = kinds_QP == Kind.IN_BATCH
    masks = (
        kinds_QP == Kind.INSTRUCTION_NEGATIVE,
        kinds_QP == Kind.HARD_NEGATIVE,
        in_batch_QP & own_P,
        in_batch_QP & ~own_P,
    )
    margins_QP = scores_QP.gather(1, targets_Q[:, None]) - scores_QP

    def sums(mask_QP: Tensor) -> Tensor:
        asked_Q = mask_QP.any(dim=1)
        won_Q = beats(scores_QP, targets_Q, mask_QP) & asked_Q
        counts = [each.sum().double() for each in (mask_QP, asked_Q, won_Q)]
        return torch.stack(
            counts + [each[mask_QP].sum(dtype=torch.float64) for each in (margins_QP, gradients_QP.abs())]
        )

    return torch.stack([sums(mask_QP) for mask_QP in masks])


def negative_figures(sums_45: Tensor, num_queries: float) -> dict[str, float]:
    """Figures by ``<name>/<figure>``; accuracy and margin of a kind that does not occur are NaN.

    Left out, they would be logged with the values of an earlier step: Lightning remembers them.

    ``count`` is per query; ``accuracy``: among queries with such a negative, the share whose positive beats them
    all, in [0, 1]; ``margin``: mean s(positive) - s(negative) over pairs, in units of the score; ``gradient_share``:
    of the sum of |dL/ds| over all negatives, in [0, 1].
    """
    figures: dict[str, float] = {}
    total_gradient = float(sums_45[:, 4].sum())
    for name, (pairs, asked, won, margin, gradient) in zip(NAMES, sums_45.tolist(), strict=True):
        figures[f"{name}/count"] = pairs / num_queries
        figures[f"{name}/gradient_share"] = gradient / total_gradient if total_gradient else 0.0
        figures[f"{name}/accuracy"] = won / asked if pairs else math.nan
        figures[f"{name}/margin"] = margin / pairs if pairs else math.nan
    return figures
