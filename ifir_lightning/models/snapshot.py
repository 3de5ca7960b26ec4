"""A retriever inside a Lightning checkpoint: everything that it takes to make it again, beside its weights."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.backbone import Backbone
from ifir_lightning.models.description import describe, rebuild
from ifir_lightning.models.files import read_weights
from ifir_lightning.models.layouts import Checkpoint
from ifir_lightning.models.lora import LoraSettings, merge_adapters
from ifir_lightning.models.pooling import Pooling
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.models.transformer import from_config, load_tokenizer
from ifir_lightning.text_format import TextFormat

KEY = "retriever"
"""Of the description in the checkpoint, and the prefix of the weights in its ``state_dict``."""
_PARTS = ("config", "tokenizer", "pooling", "scorer", "text", "source")


def snapshot(backbone: Backbone, pooling: Pooling, scorer: Scorer, text: TextFormat, source: str) -> dict[str, Any]:
    """Plain data: the configuration, the tokenizer's files, the parts, the format of texts, and the first checkpoint.

    Raises:
        InputError: A part that cannot be described.
    """
    return {
        "config": backbone.model.config.to_json_string(use_diff=False),
        "tokenizer": _files(backbone.tokenizer),
        "pooling": describe(pooling),
        "scorer": describe(scorer),
        "text": asdict(text) | {"passage_skiplist": list(text.passage_skiplist)},
        "source": source,
        "lora": None if backbone.lora is None else asdict(backbone.lora),
    }


def read_snapshot(path: Path, name: str, trust_remote_code: bool = False) -> Checkpoint:
    """The retriever in a Lightning checkpoint, its weights loaded, adapters merged; messages call it ``name``."""
    content: dict[str, Any] = read_weights(path, name)
    record = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(record, dict) or any(part not in record for part in _PARTS):
        raise InputError(
            f"checkpoint {name!r} holds no retriever; allowed are checkpoints that fit wrote: choose one of a run "
            "folder's checkpoints"
        )
    transformer = from_config(_config(record["config"], name), trust_remote_code)
    pooling = rebuild(record["pooling"], Pooling, trust_remote_code)
    scorer = rebuild(record["scorer"], Scorer, trust_remote_code)
    pooling.build(transformer.config.hidden_size)
    weights, lora = content["state_dict"], record.get("lora")
    if lora is not None:
        weights = merge_adapters(weights, LoraSettings(**lora))
    for prefix, part in (("backbone.model.", transformer), ("pooling.", pooling), ("scorer.", scorer)):
        _load(part, weights, f"{KEY}.{prefix}", name)
    text = record["text"] | {"passage_skiplist": tuple(record["text"]["passage_skiplist"])}
    return Checkpoint(name, transformer, _tokenizer(record["tokenizer"], name), pooling, scorer, text)


def read_history(path: Path) -> tuple[str, int]:
    """What the retriever in a checkpoint was trained from ("" for random weights), and the optimizer steps since."""
    content: dict[str, Any] = read_weights(path, str(path))
    return content[KEY]["source"], content["global_step"]


def _load(part: nn.Module, weights: dict[str, Tensor], prefix: str, name: str) -> None:
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    try:
        part.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            f"checkpoint {name!r} does not hold the weights that it describes ({' '.join(str(error).split())}); "
            "allowed are whole checkpoints: choose another"
        ) from error


def _config(written: str, name: str) -> Any:
    try:
        return AutoConfig.for_model(**json.loads(written))
    except ValueError as error:
        raise InputError(
            f"checkpoint {name!r} has an encoder that this version of transformers does not know ({reason(error)}); "
            "allowed are its own encoders: for one with code of its own, start from its folder or hub id"
        ) from error


def _files(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Its files by name; bytes as latin-1, which loses none."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes().decode("latin-1") for path in sorted(Path(folder).iterdir())}


def _tokenizer(files: dict[str, str], name: str) -> PreTrainedTokenizerBase:
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / Path(file).name).write_bytes(content.encode("latin-1"))
        return load_tokenizer(folder, name)
