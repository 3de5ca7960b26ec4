"""What is logged of speed: counted tokens, waits that were made, arithmetic counted by torch itself."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from small import Recorder, retriever, synthetic_data, trainer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, PretrainedConfig

from ifir_lightning.callbacks import throughput
from ifir_lightning.callbacks.throughput import Throughput
from ifir_lightning.data.datamodule import EpochBatches
from ifir_lightning.flops import matrix_weights, peak_flops, training_flops
from ifir_lightning.records import Batch


class Tokens(Callback):
    """Counts the real tokens and texts of every batch, and the seconds from one end to the next."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        batch = args[3]
        self.tokens.append(int(batch.queries.lengths_B.sum() + batch.passages.lengths_B.sum()))
        self.ends.append(time.perf_counter())


@pytest.mark.parametrize(("name", "packed"), [("modernbert", True), ("bert", False)])
def test_what_is_logged(name: str, packed: bool, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokens, recorder = Tokens(), Recorder()
    module = retriever(request.getfixturevalue(name))
    trainer(tmp_path, tokens, Throughput(), recorder, max_steps=3).fit(module, synthetic_data())
    logged = recorder.metrics[2]
    seconds = tokens.ends[2] - tokens.ends[1]
    assert logged["train/tokens_per_second"] == pytest.approx(tokens.tokens[2] / seconds, rel=0.2)
    texts = logged["train/texts_per_second"] / logged["train/tokens_per_second"] * tokens.tokens[2]
    assert texts == pytest.approx(4 * (1 + 3))
    assert logged["train/real_token_share"] == 1 if packed else 0.3 < logged["train/real_token_share"] < 1
    assert 0 < logged["train/data_wait_share"] < 1
    assert logged["train/peak_memory_gb"] > 0.05
    assert "train/mfu" not in logged, "a CPU has no peak in the list"


def test_the_share_of_padding_is_counted(bert: Path, tmp_path: Path) -> None:
    """Against the rectangles that the encoder was given."""
    module, recorder, sizes = retriever(bert), Recorder(), []
    module.retriever.backbone.model.register_forward_pre_hook(
        lambda _, args, inputs: sizes.append((int(inputs["attention_mask"].sum()), inputs["input_ids"].numel())),
        with_kwargs=True,
    )
    trainer(tmp_path, Throughput(), recorder, max_steps=1).fit(module, synthetic_data())
    real, computed = (sum(each) for each in zip(*sizes, strict=True))
    assert recorder.metrics[0]["train/real_token_share"] == pytest.approx(real / computed)


def test_a_slow_loader_is_seen(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = EpochBatches.__getitem__

    def slow(self: EpochBatches, step: int) -> Batch:
        time.sleep(0.5)
        return fetch(self, step)

    monkeypatch.setattr(EpochBatches, "__getitem__", slow)
    recorder = Recorder()
    trainer(tmp_path, Throughput(), recorder, max_steps=3).fit(retriever(modernbert), synthetic_data())
    assert recorder.metrics[2]["train/data_wait_share"] > 0.5


def test_chunks_computed_again_count_again_and_are_no_padding(modernbert: Path, tmp_path: Path) -> None:
    tokens, recorder = Tokens(), Recorder()
    for chunk, times in ((None, 1), (32, 2)):
        module = retriever(modernbert)
        module.retriever.backbone.max_tokens_per_chunk = chunk
        trainer(tmp_path, tokens, Throughput(), recorder, max_steps=1).fit(module, synthetic_data())
        assert module.retriever.backbone.tokens_computed == times * tokens.tokens[-1]
        assert recorder.metrics[-1]["train/real_token_share"] == 1


def test_mfu_is_arithmetic_over_peak(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "peak_flops", lambda name: 1e9)
    monkeypatch.setattr(throughput, "training_flops", lambda *args: 5e8)
    callback, recorder, tokens = Throughput(), Recorder(), Tokens()
    callback.on_train_start = lambda trainer, module: setattr(callback, "_peak", 1e9)  # type: ignore[method-assign]
    callback._num_weights = 1
    trainer(tmp_path, tokens, callback, recorder, max_steps=2).fit(retriever(modernbert), synthetic_data())
    seconds = tokens.ends[1] - tokens.ends[0]
    assert recorder.metrics[1]["train/mfu"] == pytest.approx(0.5 / seconds, rel=0.2)


@pytest.mark.parametrize("name", ["modernbert", "bert"])
def test_arithmetic_equals_what_torch_counts(name: str, request: pytest.FixtureRequest) -> None:
    """One text within the window of local layers, by transformers' plain attention."""
    model = AutoModel.from_pretrained(request.getfixturevalue(name), attn_implementation="eager")
    if name == "bert":
        model.pooler = None
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(5, 14)[None]).last_hidden_state.sum().backward()
    expected = training_flops(model.config, matrix_weights(model), torch.tensor([9]))
    assert counter.get_total_flops() == expected


def test_local_layers_see_their_window(modernbert: Path) -> None:
    """Layers full, sliding, sliding, full; 8 tokens to each side; widths of 32."""
    config = AutoModel.from_pretrained(modernbert).config
    assert config.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    near = [sum(abs(i - j) <= 8 for i in range(length) for j in range(length)) for length in (1, 10, 30)]
    pairs = 2 * (1 + 10 * 10 + 30 * 30) + 2 * sum(near)
    assert training_flops(config, 7, torch.tensor([1, 10, 30])) == 6 * 7 * 41 + 12 * 32 * pairs


def test_layers_without_attention_have_no_pairs_and_other_kinds_all() -> None:
    kinds = ["conv", "linear_attention", "full_attention", "chunked_attention"]
    config = PretrainedConfig(layer_types=kinds, hidden_size=32, num_hidden_layers=4)
    assert training_flops(config, 7, torch.tensor([10])) == 6 * 7 * 10 + 12 * 32 * 2 * 100


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
