"""FSDP2: a strategy under which ranks share weights, gradients and optimizer state instead of each holding all."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer

from ifir_lightning import distributed
from ifir_lightning.errors import InputError
from ifir_lightning.module import RetrieverModule


class FSDP2(DDPStrategy):
    """DDP whose ranks each keep a part of the weights, the gradients and the optimizer's state (ZeRO, Rajbhandari et
    al. 2020, by torch's fully_shard): between steps a rank holds 1 / W of them, and within a step the whole weights.

    It computes what DDP computes. A checkpoint is the same file as under every other strategy, gathered on rank 0
    tensor by tensor, so a run may go on under another strategy or number of ranks. Lightning's ModelParallelStrategy
    has every rank write into the checkpoint in place, and numbers the optimizer's state otherwise than DDP does.
    Outside ``fit`` nothing is sharded.
    """

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert isinstance(module, RetrieverModule)
        if str(self.precision_plugin.precision) == "16-mixed":
            raise InputError(
                "trainer.precision is 16-mixed under FSDP2, whose ranks would scale losses apart; allowed are 32-true "
                "and bf16-mixed: choose bf16-mixed"
            )
        for part in (module.retriever, module.loss):
            if any(parameter.requires_grad for parameter in part.parameters()):
                distributed.shard(part, self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return distributed.full_state(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return distributed.full_state(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            distributed.load_sharded(optimizer, state)

    def teardown(self) -> None:
        """Without the base's move to the CPU: weights stay where and as they are, after an error in mid-step too."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()
