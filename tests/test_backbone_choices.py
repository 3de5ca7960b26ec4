"""Which backbone and which attention kernel come of the settings, and what is said about settings that cannot be."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from ifir_lightning.errors import InputError
from ifir_lightning.models import attention
from ifir_lightning.models.attention import Attention, choose_kernel
from ifir_lightning.models.backbone import Backbone

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY: dict[str, Any] = {
    "model_type": "modernbert",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def flash_installed(monkeypatch: pytest.MonkeyPatch):
    """Say whether flash-attn is there, whatever this machine has."""
    return lambda there: monkeypatch.setattr(attention, "find_spec", lambda _: object() if there else None)


@pytest.mark.parametrize(
    ("device", "dtype", "dropout", "flash", "expected"),
    [
        (CUDA, torch.bfloat16, 0.0, True, "flash_attention_2"),
        (CUDA, torch.float16, 0.1, True, "flash_attention_2"),
        (CUDA, torch.bfloat16, 0.0, False, "varlen"),
        (CUDA, torch.bfloat16, 0.1, False, "sdpa"),
        (CUDA, torch.float32, 0.0, True, "sdpa"),
        (CPU, torch.bfloat16, 0.0, True, "sdpa"),
        (CPU, torch.float32, 0.0, False, "sdpa"),
    ],
)
def test_auto_takes_the_fastest_kernel_that_can_run(
    flash_installed, device: torch.device, dtype: torch.dtype, dropout: float, flash: bool, expected: str
) -> None:
    flash_installed(flash)
    assert choose_kernel("auto", device, dtype, dropout) == expected


@pytest.mark.parametrize("kernel", ["flash_attention_2", "varlen", "sdpa"])
def test_a_kernel_that_can_run_is_taken_as_asked(flash_installed, kernel: Attention) -> None:
    flash_installed(True)
    assert choose_kernel(kernel, CUDA, torch.bfloat16, 0.0) == kernel


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "dropout", "obstacle"),
    [
        ("flash_attention_2", CPU, torch.bfloat16, 0.0, "it needs a CUDA device, not cpu"),
        ("varlen", CPU, torch.bfloat16, 0.0, "it needs a CUDA device, not cpu"),
        ("flash_attention_2", CUDA, torch.float32, 0.0, "it computes in bfloat16 or float16, not torch.float32"),
        ("varlen", CUDA, torch.float32, 0.0, "it computes in bfloat16 or float16, not torch.float32"),
        ("flash_attention_2", CUDA, torch.bfloat16, 0.0, "flash-attn is not installed"),
        ("varlen", CUDA, torch.bfloat16, 0.1, "it has no attention dropout, and the checkpoint's is 0.1"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(
    flash_installed, kernel: Attention, device: torch.device, dtype: torch.dtype, dropout: float, obstacle: str
) -> None:
    flash_installed(False)
    with pytest.raises(InputError) as error:
        choose_kernel(kernel, device, dtype, dropout)
    value, rest = str(error.value).split(": ", 1)
    assert value == f"model.backbone.attention is {kernel}"
    assert rest.startswith(f"{obstacle}; possible here: auto, ")
    assert "sdpa" in rest
    assert "--trainer.precision bf16-mixed" in rest


@pytest.mark.parametrize("kernel", ["flash_attention_2", "varlen"])
def test_a_backbone_on_the_cpu_refuses_gpu_kernels(modernbert: Path, kernel: Attention) -> None:
    backbone = Backbone(str(modernbert), attention=kernel)
    with pytest.raises(InputError, match=f"model.backbone.attention is {kernel}: .*possible here: auto, sdpa"):
        backbone.prepare(CPU, torch.float32)


def test_a_padded_backbone_refuses_packed_kernels(bert: Path) -> None:
    backbone = Backbone(str(bert), attention="varlen")
    with pytest.raises(InputError, match="attention is varlen, but bert runs padded; allowed are auto and sdpa"):
        backbone.prepare(CUDA, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("modernbert", "attention: sdpa, packed"), ("bert", "attention: sdpa, padded inside the backbone")],
)
def test_the_choice_is_logged(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, name: str, expected: str
) -> None:
    backbone = Backbone(str(request.getfixturevalue(name)))
    with caplog.at_level(logging.INFO, logger="ifir_lightning"):
        backbone.prepare(CPU, torch.float32)
    assert backbone.kernel == "sdpa"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_a_config_takes_vocabulary_and_special_tokens_from_the_tokenizer(
    modernbert: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = Backbone(config=TINY, tokenizer=str(modernbert)).model.config
    assert config.vocab_size == len(tokenizer)
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert (config.pad_token_id, config.cls_token_id, config.sep_token_id) == ids


def test_a_config_overrides_the_tokenizer(modernbert: Path) -> None:
    backbone = Backbone(config=TINY | {"vocab_size": 999}, tokenizer=str(modernbert))
    assert (backbone.model.config.vocab_size, backbone.hidden_size, backbone.max_length) == (999, 16, 64)


def test_random_weights_are_those_of_the_seed(modernbert: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = Backbone(config=TINY, tokenizer=str(modernbert)).model
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert weights(3).equal(weights(3))
    assert not weights(3).equal(weights(4))


@pytest.mark.parametrize("settings", [{}, {"checkpoint": "a", "config": TINY}], ids=["neither", "both"])
def test_exactly_one_of_checkpoint_and_config(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="model.backbone has checkpoint .* and config .*; allowed is exactly one: give"):
        Backbone(**settings)


def test_a_config_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="without a tokenizer; allowed is .*: set model.backbone.tokenizer"):
        Backbone(config=TINY)


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
        Backbone(config=TINY | wrong, tokenizer=str(modernbert))


def test_a_config_without_a_model_type_is_refused(modernbert: Path) -> None:
    with pytest.raises(InputError, match="with its model_type: correct model.backbone.config"):
        Backbone(config={"hidden_size": 16}, tokenizer=str(modernbert))


@pytest.mark.parametrize(
    ("removed", "what"),
    [("*", "tokenizer"), ("tokenizer*.json", "tokenizer"), ("config.json", "checkpoint"), ("*.safetensors", "checkpoint")],
)
def test_a_checkpoint_folder_that_lacks_something_is_refused(
    modernbert: Path, tmp_path: Path, removed: str, what: str
) -> None:
    folder = shutil.copytree(modernbert, tmp_path / "broken")
    for path in folder.glob(removed):
        path.unlink()
    with pytest.raises(InputError, match=f"{what} '.*broken' cannot be read .*; allowed is a folder .*: check the name"):
        Backbone(str(folder))


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'.*nowhere' cannot be read"):
        Backbone(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("name", "what"), [("model.safetensors", "checkpoint"), ("tokenizer.json", "tokenizer")])
def test_a_half_written_file_is_refused(modernbert: Path, tmp_path: Path, name: str, what: str) -> None:
    folder = shutil.copytree(modernbert, tmp_path / "broken")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{what} '.*broken' cannot be read"):
        Backbone(str(folder))
