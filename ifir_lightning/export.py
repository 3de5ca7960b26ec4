"""Write a retriever as a folder that PyLate, sentence-transformers 5 and 6 and mteb load.

The old layout and the old class paths: every version reads them. What those libraries have no word for stands in
files of ours beside theirs (``models/files.py``), so that we read back exactly what we wrote.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ifir_lightning import __version__
from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.dense import Dense
from ifir_lightning.models.description import describe
from ifir_lightning.models.files import OWN_SETTINGS, TOKEN_WEIGHTS
from ifir_lightning.models.pooling import (
    CLSPooling,
    LastTokenPooling,
    MeanPooling,
    Projected,
    TokenProjection,
    dense_layers,
)
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, WeightedMaxSim
from ifir_lightning.retriever import Retriever

_log = logging.getLogger(__name__)
Format = Literal["pylate", "sentence-transformers"]
_SENTENCE_TRANSFORMERS = "sentence_transformers.models"
_MODES = {CLSPooling: "cls_token", MeanPooling: "mean_tokens", LastTokenPooling: "lasttoken"}
_ALL_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_SIMILARITIES = {Cosine: "cosine", Dot: "dot", MaxSim: "dot"}
"""sentence-transformers' names; MaxSim of one vector per text is their inner product."""


def export_format(retriever: Retriever, wanted: Format | None = None) -> Format:
    """The format in which a retriever can be written.

    Raises:
        InputError: None, or not the one that is wanted: what it computes would be something else there.
    """
    pooling, scorer = retriever.pooling, retriever.scorer
    late = type(pooling) is TokenProjection  # a subclass may compute something else
    base = pooling.pooling if isinstance(pooling, Projected) else pooling
    if not late and type(base) not in _MODES:
        raise _refusal(f"the pooling {type(pooling).__name__}", "the poolings of ifir_lightning")
    if type(scorer) not in ((MaxSim, WeightedMaxSim) if late else _SIMILARITIES):
        raise _refusal(f"the scorer {type(scorer).__name__}", "the scorers of ifir_lightning")
    if late and not pooling.normalize:
        raise _refusal("token vectors that are not normalised", "normalize: true, since PyLate always normalises")
    possible: Format = "pylate" if late else "sentence-transformers"
    if wanted not in (None, possible):
        kind = "one vector per token" if late else "one vector per text"
        raise InputError(
            f"--format is {wanted}, but the model gives {kind}; allowed is {possible}"
            f"{' (sentence-transformers 6 reads it too)' if late else ''}: set --format {possible}"
        )
    if isinstance(pooling, Projected) and any(layer.use_residual for layer in dense_layers(pooling.layers)):
        raise _refusal("a Dense layer with a residual after pooling", "layers with use_residual false")
    text = retriever.tokenizer.format
    if late and (text.query_prefix or text.passage_prefix):
        raise _refusal(
            f"the prefixes {text.query_prefix!r} and {text.passage_prefix!r}, which PyLate does not apply by itself",
            "markers: train with model.text.query_marker and passage_marker",
        )
    if not late and (text.query_marker or text.passage_marker):
        raise _refusal("a marker before one vector per text", "prefixes: set query_prefix and passage_prefix")
    return possible


def caveats(retriever: Retriever) -> list[str]:
    """What the other libraries do not take over, one sentence each."""
    text, scorer = retriever.tokenizer.format, retriever.scorer
    lost = []
    if isinstance(scorer, WeightedMaxSim):
        lost.append(
            "PyLate and sentence-transformers score with plain MaxSim: the token weights of weighted MaxSim, in "
            f"`{TOKEN_WEIGHTS}`, are lost there, and rankings differ. Only ifir_lightning applies them."
        )
    if isinstance(retriever.pooling, TokenProjection) and getattr(scorer, "reduction", "sum") == "mean":
        lost.append(
            "The score is the mean over query tokens, PyLate's the sum: theirs is larger by the number of query "
            "tokens, and ranks the passages of a query the same."
        )
    vocabulary = retriever.tokenizer.tokenizer.get_vocab()
    unknown = [word for word in text.passage_skiplist if word not in vocabulary]
    if isinstance(retriever.pooling, TokenProjection) and unknown:
        lost.append(
            f"The skiplist names {unknown[0]!r}, which is no token: PyLate and ifir_lightning drop every unknown token "
            "of a passage for it, sentence-transformers 6 does not."
        )
    if hasattr(retriever.backbone.model, "pooler") and retriever.backbone.model.pooler is None:
        lost.append(
            "Loading it, transformers says that weights of a pooler are newly initialized: it took no part in "
            "training, and no vector depends on it."
        )
    limits = text.max_query_length, text.max_passage_length
    if not isinstance(retriever.pooling, TokenProjection) and limits[0] != limits[1]:
        lost.append(
            f"sentence-transformers has one limit, written as {max(limits)} tokens; ifir_lightning cuts queries at "
            f"{limits[0]} and passages at {limits[1]}, so longer texts give other vectors."
        )
    if not isinstance(retriever.pooling, TokenProjection) and (text.query_prefix or text.passage_prefix):
        lost.append(
            "The prefixes are stored as prompts: `encode_query` and `encode_document` of sentence-transformers apply "
            "them, plain `encode` does not."
        )
    return lost


def write_export(
    retriever: Retriever, output: Path, card: str, wanted: Format | None = None, overwrite: bool = False
) -> None:
    """Write a folder, whole or not at all.

    Args:
        retriever: What to write.
        output: The folder.
        card: Its README.md.
        wanted: The format; by default the one that fits.
        overwrite: Replace the exported model that the folder holds.

    Raises:
        InputError: The format does not fit, the folder is not empty or no exported model, the disk is full.
    """
    fitting = export_format(retriever, wanted)
    check_output(output, overwrite)
    with _replacing(output) as folder:
        retriever.backbone.save(folder)
        (_write_pylate if fitting == "pylate" else _write_sentence_transformers)(retriever, folder)
        text = asdict(retriever.tokenizer.format)
        own = {"scorer": describe(retriever.scorer), "text": text, "token_weights": retriever.pooling.has_weights}
        _write_json(folder / OWN_SETTINGS, own)
        (folder / "README.md").write_text(card, encoding="utf-8")
    for sentence in caveats(retriever):
        _log.warning("%s: %s", output, sentence)


def check_output(output: Path, overwrite: bool) -> None:
    """Raise unless the folder is new, empty or, with ``overwrite``, a model that was exported, and nothing more."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; allowed is a new or empty folder: choose another")
    if output.resolve() in (Path.cwd(), *Path.cwd().parents, Path.home()):
        raise InputError(f"--output {output} is the working directory, or around it; allowed is another: choose one")
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / OWN_SETTINGS).is_file() or any((output / name).exists() for name in ("checkpoints", ".git")):
        raise InputError(
            f"--output {output} is not empty and holds more than an exported model, which is never replaced; allowed "
            "is a new or empty folder, or with --overwrite one that export wrote: choose another"
        )
    if not overwrite:
        raise InputError(
            f"--output {output} is not empty; allowed is a new or empty folder: choose another, or add --overwrite"
        )


def _write_pylate(retriever: Retriever, folder: Path) -> None:
    pooling, text = retriever.pooling, retriever.tokenizer.format
    assert isinstance(pooling, TokenProjection)
    assert pooling.layers is not None
    modules = [("", f"{_SENTENCE_TRANSFORMERS}.Transformer")]
    for number, layer in enumerate(dense_layers(pooling.layers), start=1):
        _write_dense(layer, folder / f"{number}_Dense", {"use_residual": layer.use_residual})
        modules.append((f"{number}_Dense", "pylate.models.Dense.Dense"))
    settings = {
        "model_type": "ColBERT",
        "prompts": {"query": "", "document": ""},
        "similarity_fn_name": "MaxSim",
        "query_prefix": text.query_marker,
        "document_prefix": text.passage_marker,
        "query_length": text.max_query_length,
        "document_length": text.max_passage_length,
        "skiplist_words": list(text.passage_skiplist),
        "do_query_expansion": text.query_expansion != "none",
        "attend_to_expansion_tokens": text.query_expansion == "attended",
    }
    _write_settings(folder, modules, settings, text.max_passage_length)
    if pooling.weight is not None:
        save_file(_weights(pooling.weight), folder / TOKEN_WEIGHTS)


def _write_sentence_transformers(retriever: Retriever, folder: Path) -> None:
    pooling, text = retriever.pooling, retriever.tokenizer.format
    base, normalize = pooling, False
    layers: list[Dense] = []
    if isinstance(pooling, Projected):
        base, layers, normalize = pooling.pooling, dense_layers(pooling.layers), pooling.normalize
    mode = _MODES[type(base)]
    flags: dict[str, Any] = {f"pooling_mode_{each}": each == mode for each in _ALL_MODES}
    (folder / "1_Pooling").mkdir()
    width = {"word_embedding_dimension": retriever.backbone.hidden_size}
    _write_json(folder / "1_Pooling" / "config.json", width | flags | {"include_prompt": True})
    modules = [("", f"{_SENTENCE_TRANSFORMERS}.Transformer"), ("1_Pooling", f"{_SENTENCE_TRANSFORMERS}.Pooling")]
    for layer in layers:
        name = f"{len(modules)}_Dense"
        _write_dense(layer, folder / name, {})
        modules.append((name, f"{_SENTENCE_TRANSFORMERS}.Dense"))
    if normalize:
        name = f"{len(modules)}_Normalize"
        (folder / name).mkdir()
        modules.append((name, f"{_SENTENCE_TRANSFORMERS}.Normalize"))
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": text.query_prefix, "document": text.passage_prefix},
        "similarity_fn_name": _SIMILARITIES[type(retriever.scorer)],
    }
    _write_settings(folder, modules, settings, max(text.max_query_length, text.max_passage_length))


def _write_settings(folder: Path, modules: list[tuple[str, str]], settings: dict[str, Any], limit: int) -> None:
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": module}
        for number, (path, module) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", entries)
    version = {"__version__": {"ifir_lightning": __version__}, "default_prompt_name": None}
    _write_json(folder / "config_sentence_transformers.json", version | settings)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})


def _write_dense(layer: Dense, folder: Path, more: dict[str, Any]) -> None:
    folder.mkdir()
    activation = type(getattr(nn, layer.activation)())
    config = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias,
        "activation_function": f"{activation.__module__}.{activation.__qualname__}",
    }
    _write_json(folder / "config.json", config | more)
    save_file(_weights(layer), folder / "model.safetensors")


def _weights(module: nn.Module) -> dict[str, Any]:
    return {name: value.contiguous() for name, value in module.state_dict().items()}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A new folder beside ``output`` that takes its place when all is written, and goes when something fails."""
    output = output.resolve()  # the place that a link names
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    old = output.parent / f".{output.name}.old-{os.getpid()}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if output.exists():
            output.rename(old)
        partial.rename(output)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"--output {output} could not be written ({reason(error)}); nothing half-written "
            "stays; allowed is a folder with room for the model: free some space or choose another disk"
        ) from error
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def _refusal(what: str, allowed: str) -> InputError:
    return InputError(
        f"{what}: no other library would compute the same, so it is not exported; allowed are {allowed}; "
        "load_retriever reads the run folder as it is"
    )
