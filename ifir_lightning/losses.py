"""Scores of queries against passages -> one number. A loss sees no model, no rank, no token mask."""

import math
from abc import ABC, abstractmethod
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifir_lightning.errors import InputError
from ifir_lightning.records import Kind


class Loss(nn.Module, ABC):
    """What training minimises. To write a loss of your own, implement ``forward``."""

    needs_teacher: bool = False
    """Whether it needs a teacher's scores: training data without them are then refused."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """``forward``.

        Raises:
            InputError: What it returned is no scalar.
        """
        loss = super().__call__(*args, **kwargs)
        if not isinstance(loss, Tensor) or loss.dim():
            found = f"a tensor of {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise InputError(
                f"the loss {type(self).__name__} returned {found}; allowed is a tensor with one number and no "
                "dimension, the mean over queries: correct its forward"
            )
        return loss

    @abstractmethod
    def forward(
        self, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, teacher_QG: Tensor | None = None
    ) -> Tensor:
        """A scalar, the mean over queries.

        Args:
            scores_QP: Every query of this rank against every passage of the global batch, float32.
            targets_Q: Column of each query's positive.
            kinds_QP: What each passage is to each query (``Kind``). What is EXCLUDED, the positive itself coming again
                with another query, must take no part.
            teacher_QG: A teacher's scores of each query's own group, positive first; None where the data have none.
        """


def check_loss(loss: Loss) -> None:
    """Raise InputError where a loss cannot be called as training calls it."""
    parameters = signature(loss.forward).parameters.values()
    if not any(each.name == "teacher_QG" or each.kind is Parameter.VAR_KEYWORD for each in parameters):
        raise InputError(
            f"the forward of the loss {type(loss).__name__} has no argument teacher_QG; allowed is forward(scores_QP, "
            "targets_Q, kinds_QP, teacher_QG=None): add it"
        )


class InfoNCE(Loss):
    """Cross-entropy of the positive among all passages of the global batch.

        loss_q = -log( exp(s_q+ / t) / sum over passages p that are not excluded of w_kind(q, p) exp(s_qp / t) )

    A passage whose id equals the query's positive is no negative and takes no part. A weight w multiplies a
    negative's share in the denominator: 0 leaves that kind out, 2 counts every such passage twice.

    Args:
        temperature: Divides the scores, here and nowhere else. A cosine or a mean MaxSim spans [-1, 1]; a summed
            MaxSim spans the number of query tokens and wants a temperature as many times larger.
        instruction_negative_weight: w of the query's instruction negatives.
        hard_negative_weight: w of the query's hard negatives.
        in_batch_weight: w of the passages of other queries.

    Relations:
        Other names: NT-Xent, MultipleNegativesRankingLoss (whose ``scale`` is 1 / temperature), Contrastive.
        With one passage per group and temperature 0.05 it equals sentence-transformers' default.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, section 2.3.
    """

    log_weights: Tensor

    def __init__(
        self,
        temperature: float = 0.02,
        instruction_negative_weight: float = 1.0,
        hard_negative_weight: float = 1.0,
        in_batch_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"model.loss temperature is {temperature}; allowed is more than 0: set it to 0.01 to 1")
        self.temperature = temperature
        weights = {
            Kind.POSITIVE: 1.0,
            Kind.INSTRUCTION_NEGATIVE: instruction_negative_weight,
            Kind.HARD_NEGATIVE: hard_negative_weight,
            Kind.IN_BATCH: in_batch_weight,
            Kind.EXCLUDED: 0.0,
        }
        log_weights = torch.tensor([_log_weight(kind, weights[kind]) for kind in Kind])
        self.register_buffer("log_weights", log_weights, persistent=False)

    def weigh(self, kind: Kind, weight: float) -> None:
        """Change the weight of a kind of negative from the next loss on."""
        self.log_weights[kind] = _log_weight(kind, weight)

    def forward(
        self, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, teacher_QG: Tensor | None = None
    ) -> Tensor:
        logits_QP = scores_QP / self.temperature + self.log_weights[kinds_QP.long()]
        return F.cross_entropy(logits_QP, targets_Q)


class WeightedSum(Loss):
    """Several losses at once, e.g. ``InfoNCE`` and a distillation: sum over losses of weight * loss.

    Args:
        losses: At least one.
        weights: As many numbers from 0; by default 1 each.
    """

    def __init__(self, losses: list[Loss], weights: list[float] | None = None) -> None:
        super().__init__()
        self.weights = [1.0] * len(losses) if weights is None else weights
        if not losses or len(self.weights) != len(losses):
            raise InputError(
                f"model.loss WeightedSum has {len(losses)} losses and {len(self.weights)} weights; allowed are one or "
                "more losses and as many weights: give one weight to each loss"
            )
        if not all(weight >= 0 and math.isfinite(weight) for weight in self.weights):
            raise InputError(f"model.loss weights are {self.weights}; allowed are finite numbers from 0: set them to 1")
        self.losses = nn.ModuleList(losses)
        self.needs_teacher = any(loss.needs_teacher for loss in losses)

    def forward(
        self, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, teacher_QG: Tensor | None = None
    ) -> Tensor:
        parts = [loss(scores_QP, targets_Q, kinds_QP, teacher_QG=teacher_QG) for loss in self.losses]
        return torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum()


def _log_weight(kind: Kind, weight: float) -> float:
    if not (weight >= 0 and math.isfinite(weight)):
        raise InputError(
            f"model.loss weight of {kind.name} is {weight}; allowed is a finite number from 0: set it to 1"
        )
    return math.log(weight) if weight > 0 else -math.inf


def pair_kinds(kinds_P: Tensor, ids_P: Tensor, targets_Q: Tensor, group_size: int) -> Tensor:
    """kinds_QP: what every passage of the global batch is to every query of this rank.

    Args:
        kinds_P: What each passage is to its own query.
        ids_P: Digests of the passages' ids.
        targets_Q: Column of each query's positive, where its group begins.
        group_size: Passages per query.
    """
    column_P = torch.arange(len(kinds_P), device=kinds_P.device)
    distance_QP = column_P - targets_Q[:, None]
    own_QP = (distance_QP >= 0) & (distance_QP < group_size)
    same_QP = (ids_P == ids_P[targets_Q][:, None]) & (distance_QP != 0)
    kinds_QP = torch.where(own_QP, kinds_P, Kind.IN_BATCH)
    return torch.where(same_QP, Kind.EXCLUDED, kinds_QP)


def own_groups(scores_QP: Tensor, targets_Q: Tensor, group_size: int) -> Tensor:
    """scores_QG: of each query the scores of its own group, positive first."""
    return scores_QP.gather(1, targets_Q[:, None] + torch.arange(group_size, device=targets_Q.device))


def accuracy(scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor) -> Tensor:
    """Share of queries whose positive scores higher than every negative of the global batch, in [0, 1]."""
    return beats(scores_QP, targets_Q, (kinds_QP != Kind.EXCLUDED) & (kinds_QP != Kind.POSITIVE)).float().mean()


def instruction_accuracy(scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor) -> Tensor:
    """Among queries with instruction negatives, the share whose positive beats them all; NaN if there are none."""
    rivals_QP = kinds_QP == Kind.INSTRUCTION_NEGATIVE
    asked_Q = rivals_QP.any(dim=1)
    return (beats(scores_QP, targets_Q, rivals_QP) & asked_Q).sum() / asked_Q.sum()


def beats(scores_QP: Tensor, targets_Q: Tensor, rivals_QP: Tensor) -> Tensor:
    """Whether the positive scores strictly higher than every rival (a tie is no win)."""
    best_rival_Q = scores_QP.masked_fill(~rivals_QP, float("-inf")).amax(dim=1)
    return scores_QP.gather(1, targets_Q[:, None]).squeeze(1) > best_rival_Q
