"""Losses that learn a teacher's scores of each query's own group; in-batch passages have none and take no part."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ifir_lightning.errors import InputError
from ifir_lightning.losses import Loss, own_groups

_EPSILON = 1e-8
"""Keeps the division of ``min_max`` finite where all scores of a group are equal (PyLate's value)."""


@dataclass(frozen=True)
class Scaling:
    """Scores of student and teacher -> logits that can be compared.

    Args:
        temperature: Divides the student's scores.
        teacher_temperature: Divides the teacher's scores.
        normalize_student: Min-max normalise the student's scores of each group before that.
        normalize_teacher: The same for the teacher's.
    """

    temperature: float
    teacher_temperature: float
    normalize_student: bool
    normalize_teacher: bool

    def __post_init__(self) -> None:
        for name in ("temperature", "teacher_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"model.loss {name} is {getattr(self, name)}; allowed is more than 0: set it to 0.01 to 1 for a "
                    "cosine or a mean MaxSim, to 1 for log-odds"
                )

    def __call__(self, scores_QP: Tensor, targets_Q: Tensor, teacher_QG: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of student and teacher, both [Q, G], float32."""
        assert teacher_QG is not None, "PromptrieverData refuses tables without teacher scores"
        student_QG = own_groups(scores_QP, targets_Q, teacher_QG.shape[1])
        if self.normalize_student:
            student_QG = min_max(student_QG)
        if self.normalize_teacher:
            teacher_QG = min_max(teacher_QG)
        return student_QG / self.temperature, teacher_QG / self.teacher_temperature


class KLDivergence(Loss):
    """The student's distribution over each group is drawn to the teacher's.

        p_g = softmax over the group of t_g / T_t     q_g = softmax over the group of s_g / T
        loss_q = sum over the group of p_g (log p_g - log q_g)     [times T^2 if ``scale_by_temperature``]

    It is 0 where both distributions are equal, in nats. The gradient with respect to a score is (q_g - p_g) / T.

    Args:
        temperature: T, divides the student's scores.
        teacher_temperature: T_t, divides the teacher's. The larger, the more the order of the negatives counts.
        normalize_student: Min-max normalise the student's scores of each group first, to [0, 1]: their range then is
            no matter, and q cannot exceed 1 / (1 + (G - 1) exp(-1 / T)).
        normalize_teacher: The same for the teacher's scores.
        scale_by_temperature: Multiply by T^2, so that the gradient keeps its size when T changes (Hinton et al.,
            section 2, where T_t = T).

    Relations:
        PyLate's ``Distillation`` is this with both temperatures 1 and ``normalize_student`` (its
        ``normalize_scores``, on by default, normalises the student only; the teacher's are taken from the data set).

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """

    needs_teacher = True

    def __init__(
        self,
        temperature: float = 0.02,
        teacher_temperature: float = 1.0,
        normalize_student: bool = False,
        normalize_teacher: bool = False,
        scale_by_temperature: bool = False,
    ) -> None:
        super().__init__()
        self.scaling = Scaling(temperature, teacher_temperature, normalize_student, normalize_teacher)
        self.factor = temperature**2 if scale_by_temperature else 1.0

    def forward(
        self, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, teacher_QG: Tensor | None = None
    ) -> Tensor:
        return self.factor * divergence(*self.scaling(scores_QP, targets_Q, teacher_QG)).mean()


class MarginMSE(Loss):
    """The student's margins between the positive and each negative of the group become the teacher's.

        loss_q = mean over the group's negatives g of ((s_+ - s_g) / T - (t_+ - t_g) / T_t)^2

    Args:
        temperature: T, divides the student's scores: a cosine's margins span [-2, 2], log-odds span many times that.
        teacher_temperature: T_t, divides the teacher's.
        normalize_student: Min-max normalise the student's scores of each group first, to [0, 1].
        normalize_teacher: The same for the teacher's scores.

    Relations:
        With both temperatures 1 and one negative it is sentence-transformers' ``MarginMSELoss``.

    Source: Hofstaetter et al., Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
        Distillation, 2020, section 3.2.
    """

    needs_teacher = True

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        normalize_student: bool = False,
        normalize_teacher: bool = False,
    ) -> None:
        super().__init__()
        self.scaling = Scaling(temperature, teacher_temperature, normalize_student, normalize_teacher)

    def forward(
        self, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, teacher_QG: Tensor | None = None
    ) -> Tensor:
        student_QG, teacher_QG = self.scaling(scores_QP, targets_Q, teacher_QG)
        difference_QG = (student_QG[:, :1] - student_QG) - (teacher_QG[:, :1] - teacher_QG)
        return difference_QG[:, 1:].square().mean()


def min_max(scores_QG: Tensor) -> Tensor:
    """Scores of each group moved and scaled to [0, 1]; equal ones become 0."""
    low_Q1, high_Q1 = scores_QG.amin(1, keepdim=True), scores_QG.amax(1, keepdim=True)
    return (scores_QG - low_Q1) / (high_Q1 - low_Q1 + _EPSILON)


def divergence(student_QG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax from the teacher's, for each query, in nats."""
    log_q_QG, log_p_QG = student_QG.log_softmax(1), teacher_QG.log_softmax(1)
    return (log_p_QG.exp() * (log_p_QG - log_q_QG)).sum(1)


def entropy(logits_QG: Tensor) -> Tensor:
    """Entropy of each query's softmax, in nats, from 0 (all on one passage) to log G (all alike)."""
    log_p_QG = logits_QG.log_softmax(1)
    return -(log_p_QG.exp() * log_p_QG).sum(1)


def agreement(student_QG: Tensor, teacher_QG: Tensor) -> Tensor:
    """Share of queries whose best passage, by the student, is one of the teacher's best (it may have several)."""
    best_Q1 = student_QG.argmax(1, keepdim=True)
    return (teacher_QG.gather(1, best_Q1) == teacher_QG.amax(1, keepdim=True)).float().mean()


def largest_probability(span_Q: Tensor, group_size: int) -> Tensor:
    """The most that a softmax over a group can give one passage when logits span at most ``span_Q``.

    One passage lies at the upper end, the others at the lower: 1 / (1 + (G - 1) exp(-span)). A cosine or a mean
    MaxSim at temperature T spans 2 / T; a summed MaxSim that times its number of query tokens.
    """
    return 1 / (1 + (group_size - 1) * torch.exp(-span_Q))
