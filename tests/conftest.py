"""Tiny checkpoints, tables and tasks, built on disk; nothing is downloaded."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by triton when it is imported, by transformers for one

import datasets
import numpy as np
import pytest
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerBase

from ifir_lightning.data.synthetic import build_tokenizer
from ifir_lightning.records import Tokens

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def datasets_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of ``datasets`` for every test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    return tmp_path / "datasets-cache"


@pytest.fixture
def shared_data() -> Path:
    """The folder of small real data, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """What a command line that runs in this process changes of logging ends with the test."""
    log = logging.getLogger("ifir_lightning")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line, run in this process."""
    from terminal import Terminal  # imports Lightning, which few tests need

    return Terminal(monkeypatch, capsys)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The quickstart's tokenizer: whole words of the synthetic world, letters for everything else."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def modernbert(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A random ModernBERT with a window of 8 tokens to each side, so that short texts reach beyond it."""
    return _save_modernbert(tmp_path_factory.mktemp("modernbert"), tokenizer, hidden_size=32, num_attention_heads=4)


@pytest.fixture(scope="session")
def wide_modernbert(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The same with heads of width 32, which our Triton attention takes."""
    return _save_modernbert(
        tmp_path_factory.mktemp("wide-modernbert"), tokenizer, hidden_size=64, num_attention_heads=2
    )


def _save_modernbert(folder: Path, tokenizer: PreTrainedTokenizerBase, **size: int) -> Path:
    torch.manual_seed(1)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=48,
        num_hidden_layers=4,
        local_attention=16,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.2,
        **size,
    )
    return _save(ModernBertModel(config), tokenizer, folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A random BERT: a backbone that cannot run packed."""
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    return _save(BertModel(config), tokenizer, tmp_path_factory.mktemp("bert"))


def random_tokens(lengths: list[int], vocabulary: int = 200, seed: int = 0) -> Tokens:
    """Packed texts of random tokens (ids from 5 up: no special tokens)."""
    generator = torch.Generator().manual_seed(seed)
    input_ids_T = torch.randint(5, vocabulary, (sum(lengths),), generator=generator)
    keep_T = torch.ones(len(input_ids_T), dtype=torch.bool)
    return Tokens(torch.tensor(lengths), input_ids_T, keep_T, torch.zeros(len(lengths), dtype=torch.int64))


def _save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter multiplies the bits of bfloat16 numbers as if they were integers."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _convert_float, tl

    plain = InterpreterBuilder.create_dot

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = _convert_float(operand.data, tl.bfloat16, tl.float32, None)
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: object) -> Any:
        return plain(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
