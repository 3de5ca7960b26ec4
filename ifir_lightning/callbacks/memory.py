"""OutOfMemory: says which batch did not fit, and the setting with which it would."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from ifir_lightning import distributed
from ifir_lightning.errors import InputError
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Batch

_SMALLEST_CHUNK = 1024


class OutOfMemory(Callback):
    """Turns running out of memory in training into one line: the batch's tokens, and what to set.

    What grows with a batch are the activations of the tokens that are encoded at once; encoded in chunks, only the
    embeddings of the whole batch are kept. So the remedy is half as many tokens at once.
    """

    def __init__(self) -> None:
        self._batch: Batch | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._batch = batch

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if not is_out_of_memory(exception) or self._batch is None:
            return
        assert isinstance(module, RetrieverModule)
        batch, chunk = self._batch, module.retriever.backbone.max_tokens_per_chunk
        tokens = int(batch.queries.lengths_B.sum() + batch.passages.lengths_B.sum())
        raise InputError(
            f"out of memory at step {trainer.global_step + 1} on rank {distributed.rank()}: its batch has {tokens} "
            f"tokens in {len(batch.queries)} queries and {len(batch.passages)} passages, encoded "
            f"{f'in chunks of {chunk}' if chunk else 'at once'}; {_remedy(min(chunk or tokens, tokens))}"
        ) from exception


def is_out_of_memory(exception: BaseException) -> bool:
    """Of a GPU, or of a CPU whose allocator was refused."""
    refused = type(exception) is RuntimeError and "can't allocate memory" in str(exception)
    return isinstance(exception, torch.OutOfMemoryError | MemoryError) or refused


def _remedy(at_once: int) -> str:
    chunk = 1 << (at_once // 2).bit_length() - 1 if at_once > 1 else 0  # a power of two, at most half
    if chunk >= _SMALLEST_CHUNK:
        return f"fewer at once need less: set model.backbone.max_tokens_per_chunk to {chunk}"
    return "that is little already: lower data.global_batch_size, data.groups.group_size or use more devices"
