"""Which backbone comes of the settings, and what is said about settings that cannot be."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import load_backbone
from transformers import PreTrainedTokenizerBase

from ifir_lightning.errors import InputError
from ifir_lightning.models.attention import Attention
from ifir_lightning.models.backbone import Backbone, BackboneSettings
from ifir_lightning.models.checkpoints import read_checkpoint
from ifir_lightning.models.pooling import MeanPooling
from ifir_lightning.models.scoring import Cosine
from ifir_lightning.retriever import build_retriever


def build(tokenizer: Path, config: dict[str, Any]) -> Backbone:
    """A backbone of random weights."""
    backbone = BackboneSettings(config=config, tokenizer=str(tokenizer))
    return build_retriever(None, backbone, MeanPooling(), Cosine()).backbone


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY: dict[str, Any] = {
    "model_type": "modernbert",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("kernel", ["flash_attention_2", "varlen"])
def test_a_backbone_on_the_cpu_refuses_gpu_kernels(modernbert: Path, kernel: Attention) -> None:
    backbone = load_backbone(modernbert, attention=kernel)
    with pytest.raises(InputError, match=rf"model.backbone.attention is {kernel}: .*possible here: auto, sdpa"):
        backbone.prepare(CPU, torch.float32)


def test_a_padded_backbone_refuses_packed_kernels(bert: Path) -> None:
    backbone = load_backbone(bert, attention="varlen")
    with pytest.raises(InputError, match=r"attention is varlen, but bert runs padded; allowed are auto and sdpa"):
        backbone.prepare(CUDA, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("modernbert", "attention: sdpa, packed"), ("bert", "attention: sdpa, padded inside the backbone")],
)
def test_the_choice_is_logged(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, name: str, expected: str
) -> None:
    backbone = load_backbone(request.getfixturevalue(name))
    with caplog.at_level(logging.INFO, logger="ifir_lightning"):
        backbone.prepare(CPU, torch.float32)
    assert backbone.kernel == "sdpa"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_a_config_takes_vocabulary_and_special_tokens_from_the_tokenizer(
    modernbert: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = build(modernbert, TINY).model.config
    assert config.vocab_size == len(tokenizer)
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert (config.pad_token_id, config.cls_token_id, config.sep_token_id) == ids


def test_a_config_overrides_the_tokenizer(modernbert: Path) -> None:
    backbone = build(modernbert, TINY | {"vocab_size": 999})
    assert (backbone.model.config.vocab_size, backbone.hidden_size, backbone.max_length) == (999, 16, 64)


GPT2 = {"model_type": "gpt2", "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
XLNET = {"model_type": "xlnet", "d_model": 16, "d_inner": 16, "n_layer": 1, "n_head": 2}


@pytest.mark.parametrize(("config", "positions"), [(GPT2, 64), (XLNET, None)])
def test_positions_are_known_by_whatever_name_a_configuration_has_for_them(
    modernbert: Path, config: dict[str, Any], positions: int | None
) -> None:
    """A longer text would end GPT-2 with an index out of range."""
    retriever = build_retriever(None, BackboneSettings(config, str(modernbert)), MeanPooling(), Cosine()).eval()
    assert retriever.backbone.max_length == positions
    assert retriever.tokenizer.format.max_passage_length == (positions or 512)
    assert retriever.encode_passages(["quiet hotel " * 400]).values_ND.isfinite().all()


def test_random_weights_are_those_of_the_seed(modernbert: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        settings = BackboneSettings(config=TINY, tokenizer=str(modernbert))
        model = build_retriever(None, settings, MeanPooling(), Cosine(), seed=seed).backbone.model
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert weights(3).equal(weights(3))
    assert not weights(3).equal(weights(4))


@pytest.mark.parametrize(("checkpoint", "config"), [(None, None), ("a", TINY)], ids=["neither", "both"])
def test_exactly_one_of_checkpoint_and_config(checkpoint: str | None, config: dict[str, Any] | None) -> None:
    with pytest.raises(
        InputError, match=r"model.checkpoint is .* and model.backbone.config .*; allowed is exactly one: give"
    ):
        build_retriever(checkpoint, BackboneSettings(config=config))


def test_a_config_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match=r"without a tokenizer; allowed is .*: set model.backbone.tokenizer"):
        build_retriever(None, BackboneSettings(config=TINY))


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_type": "no-such-model"},
        {"hidden_size": 15},
        {"hidden_size": "wide"},
        {"hidden_size": -16},
        {"hidden_activation": "no-such-function"},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model_is_refused(modernbert: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"model.backbone.config .* describes no model .*: correct model.backbone"):
        build(modernbert, TINY | wrong)


def test_a_config_without_a_model_type_is_refused(modernbert: Path) -> None:
    with pytest.raises(InputError, match=r"with its model_type: correct model.backbone.config"):
        build(modernbert, {"hidden_size": 16})


@pytest.mark.parametrize(
    ("removed", "what"),
    [
        ("tokenizer*.json", "tokenizer"),
        ("*.safetensors", "checkpoint"),
    ],
)
def test_a_checkpoint_folder_that_lacks_something_is_refused(
    modernbert: Path, tmp_path: Path, removed: str, what: str
) -> None:
    folder = shutil.copytree(modernbert, tmp_path / "broken")
    for path in folder.glob(removed):
        path.unlink()
    with pytest.raises(
        InputError, match=rf"{what} '.*broken' cannot be read .*; allowed is a folder .*: check the name"
    ):
        read_checkpoint(str(folder))


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.*nowhere' does not exist; allowed are a folder, a hub id"):
        read_checkpoint(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("name", "what"), [("model.safetensors", "checkpoint"), ("tokenizer.json", "tokenizer")])
def test_a_half_written_file_is_refused(modernbert: Path, tmp_path: Path, name: str, what: str) -> None:
    folder = shutil.copytree(modernbert, tmp_path / "broken")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{what} '.*broken' cannot be read"):
        read_checkpoint(str(folder))
