"""TypedNegatives: the figures of each kind of negative, beside the loss."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ifir_lightning import distributed
from ifir_lightning.callbacks.logged_steps import is_logged
from ifir_lightning.module import RetrieverModule
from ifir_lightning.negatives import count_negatives, negative_figures
from ifir_lightning.records import Batch


class TypedNegatives(Callback):
    """Logs at every ``log_every_n_steps``, of that step's batch, over all ranks:

    ``train/negatives/<kind>/count`` (per query), ``accuracy``, ``margin`` and ``gradient_share``, where the kind is
    ``instruction``, ``hard``, ``in_batch`` (of this rank's other queries) or ``cross_rank`` (see ``negatives.py``).

    The scores are those that the loss gets, the gradient is the one that reaches them in the backward pass, so a
    loss of your own is accounted for as well, and nothing is computed twice.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._scored: tuple[Tensor, Tensor, Tensor] | None = None
        self._gradients_QP: Tensor | None = None
        self._wanted = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, RetrieverModule)
        self._handle = module.loss.register_forward_hook(self._see)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._handle is not None:
            self._handle.remove()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._wanted = is_logged(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._scored is None or self._gradients_QP is None:
            return
        sums = count_negatives(*self._scored, self._gradients_QP, len(batch.passages))
        self._scored = self._gradients_QP = None
        figures = negative_figures(distributed.all_reduce_mean(sums).cpu(), len(batch.queries))
        module.log_dict({f"train/negatives/{name}": value for name, value in figures.items()})

    def _see(self, loss: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        if self._wanted:
            scores_QP, targets_Q, kinds_QP = inputs
            self._scored = scores_QP.detach(), targets_Q, kinds_QP
            scores_QP.register_hook(self._keep)

    def _keep(self, gradients_QP: Tensor) -> None:
        self._gradients_QP = gradients_QP.detach()
