"""TeacherFigures: what the teacher says, and how near the student has come."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ifir_lightning import distributed
from ifir_lightning.callbacks.logged_steps import is_logged
from ifir_lightning.distillation import (
    KLDivergence,
    MarginMSE,
    Scaling,
    agreement,
    divergence,
    entropy,
    largest_probability,
)
from ifir_lightning.errors import InputError
from ifir_lightning.models.pooling import Pooling, Projected, TokenProjection
from ifir_lightning.models.scoring import Cosine, MaxSim, Scorer
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Batch


class TeacherFigures(Callback):
    """Logs at every ``log_every_n_steps``, of that step's batch, over all ranks, at the temperatures of the loss:

    - ``train/teacher/entropy``: of the teacher's distribution over a group, in nats, from 0 to log(group_size).
    - ``train/teacher/agreement``: share of queries whose best passage of the group is the same for both, in [0, 1].
    - ``train/teacher/gap``: Kullback-Leibler divergence of the student from the teacher, in nats.
    - ``train/teacher/largest_probability``: what the teacher gives to its best passage.
    - ``train/teacher/reachable_probability``: the most that the student could give to one, where its scores are
      bounded: cosine, and MaxSim of normalised vectors. Below the teacher's, the gap cannot close: lower the student's
      temperature, or raise the teacher's.

    They are means over queries. Of several distilling losses in a ``WeightedSum`` the first is looked at.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._logits: tuple[Tensor, Tensor] | None = None
        self._wanted = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, RetrieverModule)
        losses = [each for each in module.loss.modules() if isinstance(each, KLDivergence | MarginMSE)]
        if not losses:
            raise InputError(
                f"TeacherFigures looks at KLDivergence or MarginMSE, but model.loss is {type(module.loss).__name__}; "
                "allowed is one of them, also in a WeightedSum: change the loss or remove the callback"
            )
        self._scaling: Scaling = losses[0].scaling
        self._handle = losses[0].register_forward_hook(self._see, with_kwargs=True)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._handle is not None:
            self._handle.remove()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._wanted = is_logged(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, RetrieverModule)
        if self._logits is None:
            return
        student_QG, teacher_QG = self._logits
        self._logits = None
        figures = {
            "entropy": entropy(teacher_QG),
            "agreement": agreement(student_QG, teacher_QG),
            "gap": divergence(student_QG, teacher_QG),
            "largest_probability": teacher_QG.softmax(1).amax(1),
        }
        span_Q = self._span(module, batch.queries.lengths_B)
        if span_Q is not None:
            figures["reachable_probability"] = largest_probability(span_Q, batch.group_size).to(module.device)
        means = distributed.all_reduce_mean(torch.stack([each.mean() for each in figures.values()]))
        names = [f"train/teacher/{name}" for name in figures]
        module.log_dict(dict(zip(names, means, strict=True)), batch_size=len(batch.queries))

    def _span(self, module: RetrieverModule, lengths_Q: Tensor) -> Tensor | None:
        """What the student's logits can span."""
        if self._scaling.normalize_student:
            span_Q: Tensor | None = torch.ones(len(lengths_Q))
        else:
            span_Q = score_span(module.retriever.pooling, module.retriever.scorer, lengths_Q)
        return None if span_Q is None else span_Q / self._scaling.temperature

    def _see(self, loss: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        if self._wanted:
            scores_QP, targets_Q, _ = inputs
            self._logits = self._scaling(scores_QP.detach(), targets_Q, named["teacher_QG"])


def score_span(pooling: Pooling, scorer: Scorer, lengths_Q: Tensor) -> Tensor | None:
    """Largest minus smallest score that a query of so many tokens can get; None where scores have no bound."""
    if isinstance(scorer, Cosine):
        return torch.full((len(lengths_Q),), 2.0)
    if isinstance(scorer, MaxSim) and isinstance(pooling, TokenProjection | Projected) and pooling.normalize:
        counts = torch.ones_like(lengths_Q) if scorer.reduction == "mean" or pooling.one_per_text else lengths_Q
        return 2.0 * counts
    return None
