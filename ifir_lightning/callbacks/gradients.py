"""GradientNorm: how large gradients are, and how often they are clipped."""

from collections.abc import Iterable

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import Parameter

from ifir_lightning import distributed
from ifir_lightning.callbacks.logged_steps import is_logged
from ifir_lightning.module import RetrieverModule


class GradientNorm(Callback):
    """Logs at every ``log_every_n_steps``:

    - ``train/gradient_norm``: the Euclidean norm of all gradients of that step, before clipping;
      ``train/gradient_norm_backbone`` and ``train/gradient_norm_new_layers``: of the transformer (under LoRA, of its
      adapters) and of what pooling, scorer and loss bring along, whose squares add up to its square.
    - ``train/clipped_steps``: of the optimizer steps since the last logged one, the share whose norm exceeded
      ``trainer.gradient_clip_val``, in [0, 1]; where the trainer clips by norm only.
    """

    def __init__(self) -> None:
        self._num_clipped: Tensor | int = 0
        self._num_steps = 0

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Gradients are averaged over ranks and unscaled here, and not yet clipped."""
        assert isinstance(module, RetrieverModule)
        by_norm = trainer.gradient_clip_algorithm in (None, "norm")
        limit = max(0.0, trainer.gradient_clip_val or 0.0) if by_norm else 0.0  # 0 and less are no limit
        is_due = is_logged(trainer)
        if not limit and not is_due:
            return
        parts = {"backbone": module.retriever.backbone.parameters(), "new_layers": module.new_layers()}
        norms = {f"train/gradient_norm_{name}": _norm(own, module.device) for name, own in parts.items()}
        norm = torch.stack(list(norms.values())).norm()
        self._num_clipped += norm > (limit or float("inf"))  # stays on the device, which nobody waits for
        self._num_steps += 1
        if is_due:
            share = {"train/clipped_steps": self._num_clipped / self._num_steps} if limit else {}
            module.log_dict({"train/gradient_norm": norm} | norms | share)
            self._num_clipped = self._num_steps = 0


def _norm(parameters: Iterable[Parameter], device: torch.device) -> Tensor:
    """0 of none, as a bi-encoder has no new layers."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return distributed.total_norm(gradients) if gradients else torch.zeros((), device=device)
