"""Bytes that a rank sends: those logged are those of the tensors that torch's collectives were given, counted apart."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from ranks import on_ranks
from small import Recorder, retriever, synthetic_data, trainer
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from ifir_lightning import distributed
from ifir_lightning.callbacks.throughput import Throughput
from ifir_lightning.distributed import exchange_scores, gather_embeddings, gather_rows, rank, world_size
from ifir_lightning.models.scoring import MaxSim
from ifir_lightning.records import Embeddings


class Wire:
    """Counts what a rank sends, at torch's own functions."""

    def __init__(self) -> None:
        self.sent = 0.0
        self._functions = {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "all_to_all_single")}
        for name in self._functions:
            setattr(dist, name, getattr(self, name))

    def all_gather(self, tensors: list[Tensor], tensor: Tensor, **options: Any) -> Any:
        self.sent += tensor.numel() * tensor.element_size() * (len(tensors) - 1)
        return self._functions["all_gather"](tensors, tensor, **options)

    def all_reduce(self, tensor: Tensor, **options: Any) -> Any:
        if not options:  # Lightning's own calls, outside the steps, name op and group
            self.sent += tensor.numel() * tensor.element_size() * 2 * (1 - 1 / world_size())
        return self._functions["all_reduce"](tensor, **options)

    def all_to_all_single(self, output: Tensor, tensor: Tensor, received: Any, sent: Any) -> Any:
        parts = tensor.split(sent or len(tensor) // world_size())
        self.sent += sum(part.numel() * part.element_size() for n, part in enumerate(parts) if n != rank())
        return self._functions["all_to_all_single"](output, tensor, received, sent)


def fit(backbone: Path, folder: Path) -> tuple[list[dict[str, float]], float, int]:
    """What was logged, what was sent in all, and the bytes of the parameters; two batches are one step."""
    module, recorder, wire = retriever(backbone, "weighted"), Recorder(), Wire()
    data = synthetic_data(num_rows=32, batch=4)
    fit_trainer = trainer(folder, Throughput(), recorder, max_steps=3, accumulate_grad_batches=2)
    fit_trainer.fit(module, data)
    return recorder.metrics[1::2], wire.sent, sum(4 * p.numel() for p in module.parameters())


def test_the_bytes_that_are_logged_are_those_that_are_sent(modernbert: Path, tmp_path: Path) -> None:
    for logged, sent, parameter_bytes in on_ranks(2, fit, modernbert, tmp_path):
        assert len(logged) == 3
        assert sent > 10_000
        assert sum(step["train/bytes_exchanged"] for step in logged) == pytest.approx(sent, rel=1e-6)
        assert {step["train/bytes_gradients"] for step in logged} == {parameter_bytes}  # 2 (2 - 1) / 2 of them


QUERIES, GROUP, DIM, QUERY_TOKENS = 128, 8, 128, 74
"""A global batch; a query with its instruction has 74 tokens in the mean."""


def exchange() -> tuple[float, int]:
    """A rank's share of a step, without a transformer: gather, score, exchange, and back; its bytes, counted twice."""
    wire, before = Wire(), distributed.bytes_sent()
    num_queries, generator = QUERIES // world_size(), torch.Generator().manual_seed(rank())
    queries, passages = (
        Embeddings(torch.full((n,), length), torch.randn(n * length, DIM, generator=generator).requires_grad_())
        for n, length in ((num_queries, QUERY_TOKENS), (num_queries * GROUP, 4))
    )
    everything = gather_embeddings(queries)
    gather_rows(torch.zeros(len(passages), dtype=torch.int64))  # ids
    gather_rows(torch.zeros(len(passages), dtype=torch.int8))  # kinds
    exchange_scores(MaxSim()(everything, passages)).sum().backward()
    return wire.sent, distributed.bytes_sent() - before


def test_a_step_of_128_queries_sends_less_than_10_megabytes() -> None:
    """What must travel is the rank's query embeddings out, the others' gradients back, and two blocks of scores."""
    embeddings = QUERIES // 2 * QUERY_TOKENS * DIM * 4
    scores = QUERIES // 2 * (QUERIES // 2 * GROUP) * 4
    for sent, counted in on_ranks(2, exchange):
        assert sent == counted
        assert sent == pytest.approx(2 * embeddings + 2 * scores, rel=2e-3)
        assert 5e6 < sent < 10e6


def backwards(backbone: Path, folder: Path, max_tokens_per_chunk: int | None) -> tuple[list[int], int]:
    """Bytes of gradients that DDP averages in each backward pass, and the bytes of the parameters."""
    module, averaged = retriever(backbone, "weighted"), Averaged()
    module.retriever.backbone.max_tokens_per_chunk = max_tokens_per_chunk
    fit_trainer = trainer(folder, averaged, max_steps=3, accumulate_grad_batches=2)
    fit_trainer.fit(module, synthetic_data(num_rows=32, batch=4))
    return averaged.by_batch, sum(p.nbytes for p in module.parameters())


class Averaged(Callback):
    """Bytes that DDP's reducer averages, batch by batch."""

    def __init__(self) -> None:
        self.by_batch: list[int] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        def average(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            self.by_batch[-1] += bucket.buffer().nbytes
            return allreduce_hook(None, bucket)

        trainer.strategy.model.register_comm_hook(None, average)  # type: ignore[union-attr,operator]

    def on_train_batch_start(self, *args: Any) -> None:
        self.by_batch.append(0)


@pytest.mark.parametrize("max_tokens_per_chunk", [None, 64])
def test_gradients_are_averaged_once_in_an_optimizer_step(
    modernbert: Path, tmp_path: Path, max_tokens_per_chunk: int | None
) -> None:
    """In chunks too, whose number differs between ranks; and of the batches of a step, in the last."""
    for by_batch, parameters in on_ranks(2, backwards, modernbert, tmp_path, max_tokens_per_chunk):
        assert by_batch == [0, parameters] * 3
