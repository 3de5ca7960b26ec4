"""Nothing that the device computes is asked for on the way: on torch's meta device, whose values nobody can read."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens
from small import HEADS, Head, retriever, synthetic_data

from ifir_lightning import records
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.records import Batch, Kind, on_device, segment_reduce

PAIRS = torch.tensor([[0, 0], [1, 2], [0, 1]])


class Numbers:
    """What ``on_device`` does with a tensor of the CPU; there need be no GPU."""

    device = torch.device("cpu")

    def __init__(self, *done: Any) -> None:
        self.done = done

    def pin_memory(self) -> "Numbers":
        return Numbers(*self.done, "pinned")

    def to(self, device: torch.device, non_blocking: bool = False) -> "Numbers":
        return Numbers(*self.done, device.type, non_blocking)


def test_numbers_go_to_a_gpu_from_page_locked_memory_and_back_with_a_wait() -> None:
    numbers: Any = Numbers()
    assert on_device(numbers, torch.device("cuda")).done == ("pinned", "cuda", True)
    assert on_device(numbers, torch.device("cpu")).done == ("cpu", False)
    numbers.device = torch.device("cuda")
    assert on_device(numbers, torch.device("cpu")).done == ("cpu", False)


def test_a_batch_goes_to_the_device_beside_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its tensors but what shapes depend on, when Lightning moves it."""
    texts, moved = random_tokens([2, 3]), []
    batch = Batch(texts, texts, passage_ids_P=torch.arange(2), kinds_P=torch.zeros(2), rows_Q=torch.arange(2))
    monkeypatch.setattr(records, "on_device", lambda values, device: moved.append((values, device)) or values)
    synthetic_data().transfer_batch_to_device(batch, torch.device("cuda"), 0)
    expected = [texts.input_ids_T, texts.cut_B] * 2 + [batch.passage_ids_P, batch.kinds_P, batch.rows_Q]
    assert all(values is each for (values, _), each in zip(moved, expected, strict=True))
    assert {device.type for _, device in moved} == {"cuda"}


def test_segments_are_reduced_without_torchs_look_at_their_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(torch, "segment_reduce", lambda *arguments, **given: options.update(given))
    segment_reduce(torch.ones(3, 2), "sum", torch.tensor([2, 1]))
    assert options["unsafe"]


@pytest.mark.parametrize("skiplist", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_texts_are_encoded_in_chunks_and_scored_without_asking_for_a_value(
    head: Head, skiplist: bool, modernbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a GPU finds its work waiting, and not the other way round."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # the meta device has none
    model, tokens = retriever(modernbert, head).retriever.to("meta"), random_tokens([5, 9, 3, 40, 21])
    keep_T = tokens.keep_T if not skiplist else tokens.keep_T.scatter(0, torch.tensor([6, 30]), False)
    queries, passages = model.encode(replace(tokens, keep_T=keep_T), max_tokens=50).split(2, 3)
    scorer: Scorer = model.scorer
    for scores, shape in ((scorer.pairs(queries, passages, PAIRS), (3,)), (scorer(queries, passages), (2, 3))):
        assert scores.is_meta
        assert scores.shape == shape


@pytest.mark.parametrize("head", HEADS)
def test_a_training_step_asks_for_no_value(head: Head, modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as its loss; NonFinite waits once, for the gradients. (MaxSim's backward pass is a GPU's own.)"""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    module = retriever(modernbert, head).to("meta")
    monkeypatch.setattr(module, "log", lambda *arguments, **options: None)
    monkeypatch.setattr(module, "log_dict", lambda *arguments, **options: None)
    kinds_P = torch.tensor([Kind.POSITIVE, Kind.INSTRUCTION_NEGATIVE] * 2, dtype=torch.int8)
    texts = random_tokens([5, 9, 3, 40, 21, 7]).split(2, 4)
    batch = Batch(*texts, passage_ids_P=torch.arange(4), kinds_P=kinds_P, rows_Q=torch.arange(2))
    assert module.training_step(batch.to("meta"), 0).is_meta
