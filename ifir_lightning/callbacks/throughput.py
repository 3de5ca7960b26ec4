"""How fast training is, and what holds it up."""

import resource
import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from ifir_lightning import distributed
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.flops import matrix_weights, peak_flops, training_flops
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Batch


@dataclass
class _Window:
    """What happened since the last logged step, on this rank."""

    texts: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    computed: int = 0
    encoded: int = 0
    sent: int = 0
    steps: int = 0


class Throughput(Callback):
    """Logs at every ``log_every_n_steps``, counted from one logged step to the next, validation left out:

    - ``train/texts_per_second`` and ``train/tokens_per_second``: this rank's times the ranks; tokens are real ones.
    - ``train/real_token_share``: real tokens among those that the backbone computed, in [0, 1]; 1 where it runs packed.
    - ``train/data_wait_share``: of the time, what was spent waiting for the next batch, in [0, 1].
    - ``train/mfu``: of the GPU's dense bf16 peak, what the real tokens needed, in [0, 1]; on GPUs of
      ``flops.PEAK_BF16`` only.
    - ``train/peak_memory_gb``: the most that torch held on this rank's GPU; on a CPU of the process, since it began.
    - ``train/bytes_exchanged``: what a rank sends per optimizer step to gather queries and exchange scores, with their
      gradients; ``train/bytes_gradients``: what it sends to average the parameters' gradients
      (``distributed.bytes_sent`` says how both are counted). On several ranks only.
    """

    def __init__(self) -> None:
        self._window, self._mark = _Window(), 0.0
        self._start = (0.0, 0, 0, 0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, RetrieverModule)
        self._num_weights = matrix_weights(module.retriever.backbone.model)
        self._gradient_bytes = sum(p.nbytes for p in module.parameters() if p.requires_grad)
        device = trainer.strategy.root_device
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self._mark == 0.0:
            self._mark, self._start = time.perf_counter(), self._counters(trainer, module)
            self._done = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, RetrieverModule)
        lengths_B = torch.cat([batch.queries.lengths_B, batch.passages.lengths_B])
        now, counters, window = time.perf_counter(), self._counters(trainer, module), self._window
        window.texts += len(lengths_B)
        window.tokens += int(lengths_B.sum())
        window.flops += training_flops(module.retriever.backbone.model.config, self._num_weights, lengths_B)
        window.seconds += now - self._mark
        waited, computed, encoded, sent = (after - before for after, before in zip(counters, self._start, strict=True))
        window.waited += waited
        window.computed += int(computed)
        window.encoded += int(encoded)
        window.sent += int(sent)
        stepped = trainer.global_step - self._done
        window.steps += stepped
        self._done = trainer.global_step
        self._mark, self._start = now, counters
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and stepped and trainer.global_step % every == 0:
            module.log_dict(self._figures(trainer))
            self._window = _Window()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._mark = 0.0

    def _counters(self, trainer: Trainer, module: LightningModule) -> tuple[float, int, int, int]:
        """Seconds waited for data, tokens computed, real tokens encoded and bytes sent since the process began."""
        assert isinstance(module, RetrieverModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        waited = data.seconds_waited if isinstance(data, PromptrieverData) else 0.0
        backbone = module.retriever.backbone
        return waited, backbone.tokens_computed, backbone.tokens_encoded, distributed.bytes_sent()

    def _figures(self, trainer: Trainer) -> dict[str, float]:
        window, ranks = self._window, distributed.world_size()
        figures = {
            "train/texts_per_second": ranks * window.texts / window.seconds,
            "train/tokens_per_second": ranks * window.tokens / window.seconds,
            "train/real_token_share": window.encoded / max(1, window.computed),
            "train/data_wait_share": min(1.0, window.waited / window.seconds),
            "train/peak_memory_gb": _peak_bytes(trainer.strategy.root_device) / 1e9,
        }
        if ranks > 1:
            figures["train/bytes_exchanged"] = window.sent / window.steps
            figures["train/bytes_gradients"] = float(distributed.all_reduce_bytes(self._gradient_bytes))
        return figures | ({"train/mfu": window.flops / window.seconds / self._peak} if self._peak else {})


def _peak_bytes(device: torch.device) -> int:
    """On a GPU since this was last asked."""
    if device.type != "cuda":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
