"""A retriever inside a Lightning checkpoint: everything that it takes to make it again, beside its weights."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import custom_object_save

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
    """Plain data: the configuration, the tokenizer's files, the parts, the format of texts, and the first checkpoint;
    and of an encoder with code of its own, that code.

    Raises:
        InputError: A part that cannot be described.
    """
    config, code = _described(backbone.model)
    return {
        "config": config,
        "code": code,
        "tokenizer": _files(backbone.tokenizer.save_pretrained),
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
    transformer = _transformer(record["config"], record.get("code", {}), name, trust_remote_code)
    pooling = rebuild(record["pooling"], Pooling, trust_remote_code)
    scorer = rebuild(record["scorer"], Scorer, trust_remote_code)
    pooling.build(transformer.config.hidden_size)
    weights, lora = content["state_dict"], record.get("lora")
    if lora is not None:
        weights = merge_adapters(weights, LoraSettings(**lora))
    for prefix, part in (("backbone.model.", transformer), ("pooling.", pooling), ("scorer.", scorer)):
        _load(part, weights, f"{KEY}.{prefix}", name)
    text = record["text"] | {"passage_skiplist": tuple(record["text"]["passage_skiplist"])}
    tokenizer = _tokenizer(record["tokenizer"], name, trust_remote_code)
    return Checkpoint(name, transformer, tokenizer, pooling, scorer, text)


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


def _transformer(config: str, code: dict[str, str], name: str, trust_remote_code: bool) -> PreTrainedModel:
    """The encoder of a configuration, its weights random."""
    if code and not trust_remote_code:
        raise InputError(
            f"checkpoint {name!r} has an encoder with code of its own; allowed is to run it where it is trusted: set "
            "model.backbone.trust_remote_code (or --trust_remote_code) to true"
        )
    try:
        if not code:
            return from_config(AutoConfig.for_model(**json.loads(config)))
        with _folder(code | {"config.json": config}) as folder:
            return from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
    except (ImportError, OSError, ValueError) as error:
        raise InputError(
            f"checkpoint {name!r} has an encoder that this version of transformers does not know ({reason(error)}); "
            "allowed are its own encoders, and those whose code the checkpoint carries: install the version that it "
            "was made with, or start from its folder or hub id"
        ) from error


def _described(model: PreTrainedModel) -> tuple[str, dict[str, str]]:
    """The configuration, and the files of the modules that it names, where these are not those of transformers."""
    config = deepcopy(model.config)

    def save_code(folder: str) -> None:
        for part in (model, model.config):
            if part._auto_class is not None:
                custom_object_save(part, folder, config)  # type: ignore[arg-type]

    code = _files(save_code)
    return config.to_json_string(use_diff=False), code


def _files(save: Callable[[str], object]) -> dict[str, str]:
    """What is saved into a folder, by name; bytes as latin-1, which loses none.

    Without sub-folders: a tokenizer's hold further chat templates, which retrieval has no use for.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
        return {path.name: path.read_bytes().decode("latin-1") for path in paths}


@contextmanager
def _folder(files: dict[str, str]) -> Iterator[str]:
    """A folder with these files; always of one name, by which transformers keeps its copies of code."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        folder.mkdir()
        for file, content in files.items():
            (folder / Path(file).name).write_bytes(content.encode("latin-1"))
        yield str(folder)


def _tokenizer(files: dict[str, str], name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    with _folder(files) as folder:
        return load_tokenizer(folder, name, trust_remote_code)
