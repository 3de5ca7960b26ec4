"""LoRA: only adapters learn, packed and padded models compute with them, and files hold the merged weights."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens
from small import DROPOUT, TINY, Recorder, load_backbone, retriever, synthetic_data, trainer
from torch import Tensor, nn

from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.errors import InputError
from ifir_lightning.export import write_export
from ifir_lightning.flops import matrix_weights
from ifir_lightning.models import lora
from ifir_lightning.models.backbone import Backbone, BackboneSettings
from ifir_lightning.models.lora import LoraSettings, add_adapters, merge_adapters
from ifir_lightning.module import RetrieverModule
from ifir_lightning.optimization import AdamW, Schedule
from ifir_lightning.retriever import Retriever, load_retriever

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed (extra: lora)")
LORA = LoraSettings(rank=4, alpha=12, dropout=0.1)
TEXTS = ["a quiet hotel near the harbour", "the garden", "breakfast with a walk and no garden"]


def module(backbone: Path, settings: LoraSettings | None = LORA, **more: Any) -> RetrieverModule:
    """Late interaction with adapters that are not zero."""
    own = {"config": TINY | DROPOUT, "tokenizer": str(backbone), "lora": settings}
    built = retriever(backbone, "weighted", config=TINY, backbone=BackboneSettings(**own), **more)
    return stir(built, seed=1)


def stir(part: Any, seed: int) -> Any:
    """Adapters as after training, not at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in part.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return part


def vectors(model: Retriever) -> Tensor:
    return torch.cat([model.encode_queries(TEXTS).values_ND, model.encode_passages(TEXTS).values_ND])


@needs_peft
def test_only_adapters_and_new_layers_learn(modernbert: Path, tmp_path: Path) -> None:
    model = module(modernbert)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(tmp_path, max_steps=2).fit(model, synthetic_data())
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    expected = {name for name in before if "lora_" in name or ".pooling." in name}
    assert changed == expected
    layers = ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")
    adapted = {name.partition(".lora_")[0].partition("model.layers.")[2] for name in changed if "lora_" in name}
    assert adapted == {f"{number}.{layer}" for number in range(2) for layer in layers}


@needs_peft
def test_at_the_start_the_adapters_change_nothing_and_new_layers_are_those_without_them(modernbert: Path) -> None:
    found = []
    for settings in (LORA, None):
        own = BackboneSettings(TINY, str(modernbert), lora=settings)
        found.append(vectors(retriever(modernbert, "maxsim", config=TINY, backbone=own).retriever.eval()))
    assert torch.equal(*found)


@needs_peft
@pytest.mark.parametrize("name", ["modernbert", "bert"])
def test_adapters_compute_what_the_merged_weights_compute(name: str, request: pytest.FixtureRequest) -> None:
    """The packed layers of ModernBERT, and BERT, which runs padded; against peft's own merging."""
    folder, tokens = request.getfixturevalue(name), random_tokens([5, 17, 1, 9])
    adapted = stir(with_adapters(folder), seed=3)
    found = adapted(tokens).values_TD
    plain = load_backbone(folder).eval()
    assert (found - plain(tokens).values_TD).abs().max() > 0.1
    plain.model.load_state_dict(merge_adapters(adapted.model.state_dict(), LORA))
    torch.testing.assert_close(plain(tokens).values_TD, found, atol=1e-5, rtol=1e-5)
    layers = [layer for layer in adapted.model.modules() if hasattr(layer, "merge")]
    for layer in layers:
        layer.merge()
    assert layers
    torch.testing.assert_close(adapted(tokens).values_TD, found, atol=1e-5, rtol=1e-5)


def with_adapters(folder: Path, settings: LoraSettings = LORA) -> Backbone:
    model = load_backbone(folder, lora=settings)
    model.adapt()
    return model.eval()


def test_merging_by_hand() -> None:
    """2 x [1, 2] [3, 4]^T is added to the weight; bias and other layers stay."""
    weights = {
        "layer.base_layer.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "layer.base_layer.bias": torch.tensor([5.0, 6.0]),
        "layer.lora_A.default.weight": torch.tensor([[3.0, 4.0]]),
        "layer.lora_B.default.weight": torch.tensor([[1.0], [2.0]]),
        "norm.weight": torch.tensor([7.0]),
    }
    merged = merge_adapters(weights, LoraSettings(rank=1, alpha=2))
    assert {name: value.tolist() for name, value in merged.items()} == {
        "layer.weight": [[7.0, 8.0], [12.0, 17.0]],
        "layer.bias": [5.0, 6.0],
        "norm.weight": [7.0],
    }


@needs_peft
def test_checkpoint_and_export_hold_the_model_without_peft(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trained run, its checkpoint, its export, and the export of the model in memory give the same vectors."""
    model = module(modernbert)
    saving = {"enable_checkpointing": True, "plugins": [ManifestIO()]}
    trainer(tmp_path, Checkpoints(), max_steps=3, **saving).fit(model, synthetic_data())
    expected = vectors(model.retriever.eval())
    write_export(model.retriever, tmp_path / "live", card="")
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    read = load_retriever(str(tmp_path / "checkpoints" / "step-00000003.ckpt"))
    write_export(read, tmp_path / "export", card="")
    for found in (read, load_retriever(str(tmp_path / "export")), load_retriever(str(tmp_path / "live"))):
        assert not [name for name, _ in found.named_parameters() if "lora" in name]
        torch.testing.assert_close(vectors(found), expected, atol=1e-6, rtol=0)


@needs_peft
def test_a_resumed_run_is_the_uninterrupted_one(modernbert: Path, tmp_path: Path) -> None:
    def fit(folder: Path, max_steps: int, start: Path | None = None) -> tuple[dict[str, Tensor], list[Any]]:
        model, recorder = module(modernbert, schedule=Schedule(total_steps=6), optimizer=AdamW(3e-3)), Recorder()
        settings = {"enable_checkpointing": True, "plugins": [ManifestIO()], "max_steps": max_steps}
        trainer(folder, recorder, Checkpoints(), **settings).fit(model, synthetic_data(), ckpt_path=start)
        return model.state_dict(), recorder.metrics

    whole, losses = fit(tmp_path / "whole", 6)
    fit(tmp_path / "part", 3)
    weights, rest = fit(tmp_path / "rest", 6, tmp_path / "part" / "checkpoints" / "step-00000003.ckpt")
    assert rest == losses[3:]
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


@needs_peft
def test_chunks_that_are_computed_again_have_the_same_gradients(modernbert: Path) -> None:
    gradients = []
    for limit in (None, 8):
        own = BackboneSettings(TINY, str(modernbert), lora=LORA, max_tokens_per_chunk=limit)
        model = stir(retriever(modernbert, "maxsim", config=TINY, backbone=own), seed=1).retriever.eval()
        model(random_tokens([5, 7, 3])).values_ND.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@needs_peft
def test_layers_by_the_end_of_their_name(modernbert: Path) -> None:
    model = with_adapters(modernbert, LoraSettings(target_modules=["Wqkv"]))
    adapted = {name.rpartition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in adapted} == {"Wqkv"}
    with pytest.raises(InputError, match=r"target_modules is \['query'\], which cannot be adapted .* e.g. Wqkv"):
        with_adapters(modernbert, LoraSettings(target_modules=["query"]))


@needs_peft
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (
            ["embed", "linear"],
            r"target_modules is \['embed', 'linear'\], which names embed, not a linear layer .* linear:",
        ),
        (["conv"], r"target_modules is \['conv'\], which names conv, not a linear layer .* e.g. linear: correct it"),
        (["linear"], None),
        (None, None),
    ],
)
def test_only_linear_layers_are_adapted(targets: list[str] | None, expected: str | None) -> None:
    """peft also takes embeddings and convolutions, of which the merge of adapters knows nothing."""
    layers = {"embed": nn.Embedding(4, 6), "conv": nn.Conv1d(6, 6, 1), "linear": nn.Linear(6, 6)}
    settings = LoraSettings(rank=2, target_modules=targets)
    if expected is None:
        add_adapters(nn.ModuleDict(layers), settings)
        return
    with pytest.raises(InputError, match=expected):
        add_adapters(nn.ModuleDict(layers), settings)


@needs_peft
def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"lora is set, but ModuleDict has no linear layer .*: set .* to null"):
        add_adapters(nn.ModuleDict({"conv": nn.Conv1d(6, 6, 1)}), LORA)


@needs_peft
def test_a_frozen_weight_takes_two_of_three_products(modernbert: Path) -> None:
    plain, adapted = load_backbone(modernbert), with_adapters(modernbert)
    new = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    assert matrix_weights(adapted.model) == matrix_weights(plain.model) * 2 // 3 + new


def test_without_peft_it_is_refused_in_one_line(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"peft is not installed; .* pip install 'ifir-lightning\[lora\]'"):
        with_adapters(modernbert)


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_settings_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"model.backbone.lora.{name} is {value}; allowed is "):
        LoraSettings(**{name: value})  # type: ignore[arg-type]
