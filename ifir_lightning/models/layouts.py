"""What the folders of other libraries say: transformers, sentence-transformers, PyLate, Stanford ColBERT.

Sources: sentence-transformers 2 to 6 (``modules.json`` and a folder per module), PyLate 1.6 (the same, a Dense layer
per token, settings in ``config_sentence_transformers.json``), ColBERTv2 (``artifact.metadata``, ``linear.weight``).
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.dense import Activation, Dense
from ifir_lightning.models.description import rebuild
from ifir_lightning.models.files import OWN_SETTINGS, TOKEN_WEIGHTS, flag, load_into, read_json, read_tensor
from ifir_lightning.models.late_texts import multi_vector_text, pylate_text, stanford_text
from ifir_lightning.models.pooling import CLSPooling, LastTokenPooling, MeanPooling, Pooling, Projected, TokenProjection
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, Scorer
from ifir_lightning.models.transformer import load_tokenizer, load_transformer, num_positions

_log = logging.getLogger(__name__)
_POOLINGS: dict[str, Callable[[], Pooling]] = {"cls": CLSPooling, "mean": MeanPooling, "lasttoken": LastTokenPooling}
_FLAGS = {  # of sentence-transformers before version 6
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ORDERS = ("Transformer( Pooling)?( Dense)*( Normalize)?", "Transformer( Dense)*( MultiVectorMask)?( Normalize)?")
_SCORERS: dict[str, Callable[[], Scorer]] = {"cosine": Cosine, "dot": Dot, "dot_score": Dot, "cos_sim": Cosine}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: weights, and what it says of everything else.

    Attributes:
        name: As the user gave it, for messages.
        transformer: The encoder.
        tokenizer: Its tokenizer.
        pooling: Built and with its weights; None where the checkpoint has none, or none that we have.
        scorer: The same for the scorer.
        text: Fields of ``TextFormat`` of which the checkpoint speaks.
        lacks: Why ``pooling`` or ``scorer`` is None, for the message to a recipe that gives none either.
    """

    name: str
    transformer: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: Pooling | None = None
    scorer: Scorer | None = None
    text: Mapping[str, Any] = field(default_factory=dict)
    lacks: str = "it is a plain encoder"


def read_folder(folder: Path, name: str, trust_remote_code: bool = False) -> Checkpoint:
    """The checkpoint in a folder, whose layout decides how it is read; messages call it ``name``."""
    if (folder / "modules.json").is_file():
        return _read_modules(folder, name, trust_remote_code)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"checkpoint {name!r} holds neither modules.json nor config.json; allowed are folders of transformers, "
            "sentence-transformers, PyLate or ColBERT, a run folder (not its checkpoints/) or a .ckpt file: check it"
        )
    parts = load_transformer(str(folder), name, trust_remote_code), load_tokenizer(str(folder), name, trust_remote_code)
    architectures = read_json(folder / "config.json", name).get("architectures") or []
    if (folder / "artifact.metadata").is_file() or "HF_ColBERT" in architectures:
        return _read_stanford(folder, name, *parts)
    return Checkpoint(name, *parts)


def _read_modules(folder: Path, name: str, trust_remote_code: bool) -> Checkpoint:
    """sentence-transformers or PyLate: modules one after the other, the transformer first."""
    modules = [
        (entry["type"], folder / entry["path"])
        for entry in read_json(folder / "modules.json", name, keys=("type", "path"))["entries"]
    ]
    kinds = [module.rpartition(".")[2] for module, _ in modules]
    known = ("Transformer", "Pooling", "Dense", "Normalize", "MultiVectorMask")
    if unknown := [
        module
        for (module, _), kind in zip(modules, kinds, strict=True)
        if kind not in known or module.partition(".")[0] not in ("sentence_transformers", "pylate")
    ]:
        raise InputError(
            f"checkpoint {name!r} has a module {unknown[0]}; allowed are "
            f"{', '.join(known)} of sentence-transformers and PyLate: choose another checkpoint"
        )
    if not any(re.fullmatch(order, " ".join(kinds)) for order in _ORDERS):
        raise InputError(
            f"checkpoint {name!r} has the modules {', '.join(kinds) or 'none'}; allowed is one Transformer, then "
            "Pooling, any Dense and Normalize, or, for every token, any Dense, MultiVectorMask and Normalize, in "
            "this order: choose another checkpoint"
        )
    said = read_json(folder / "config_sentence_transformers.json", name, optional=True)
    own = read_json(folder / OWN_SETTINGS, name, keys=("scorer", "text"), optional=True)
    root = modules[0][1]
    transformer = load_transformer(str(root), name, trust_remote_code)
    tokenizer = load_tokenizer(str(root), name, trust_remote_code)
    settings = _transformer_settings(root, name, tokenizer)
    layers = [_read_dense(path, name) for kind, (_, path) in zip(kinds, modules, strict=True) if kind == "Dense"]
    read = Checkpoint(name, transformer, tokenizer)
    if "MultiVectorMask" in kinds:
        mask = read_json(modules[kinds.index("MultiVectorMask")][1] / "config.json", name)
        text = multi_vector_text(said, settings, mask, tokenizer.get_added_vocab(), name)
        read = _late_interaction(read, layers, said, text)
    elif "query_prefix" in said or any(module.startswith("pylate.") for module, _ in modules):
        weights = folder / TOKEN_WEIGHTS if own.get("token_weights") else None
        read = _late_interaction(read, layers, said, pylate_text(said, name), weights)
    else:
        pooling = modules[kinds.index("Pooling")][1] if "Pooling" in kinds else None
        read = _bi_encoder(read, pooling, layers, "Normalize" in kinds, said, settings)
    return _within_positions(_with_own_settings(read, own))


def _with_own_settings(read: Checkpoint, own: dict[str, Any]) -> Checkpoint:
    """What the other libraries have no word for, from a file of ours where we wrote the folder: the kind of MaxSim,
    and a bi-encoder's two limits, as long as the folder still says their larger one."""
    if not own or read.pooling is None:
        return read
    if not read.pooling.one_per_text:
        return replace(read, scorer=rebuild(own["scorer"], Scorer))
    limits = {name: own["text"][name] for name in ("max_query_length", "max_passage_length")}
    same = max(limits.values()) == read.text.get("max_query_length")
    return replace(read, text={**read.text, **limits}) if same else read


def _within_positions(read: Checkpoint) -> Checkpoint:
    """Limits beyond the encoder's positions, which no text could reach, lowered to them."""
    positions = num_positions(read.transformer)
    limits = {name: read.text.get(name) for name in ("max_query_length", "max_passage_length")}
    known = {name: limit for name, limit in limits.items() if isinstance(limit, int)}
    beyond = {name: limit for name, limit in known.items() if positions is not None and limit > positions}
    if beyond:
        _log.warning(
            "%s: its encoder has %d positions, which are the limit in tokens in place of the %s that it says",
            *(read.name, positions, " and ".join(str(limit) for limit in sorted(set(beyond.values())))),
        )
    return replace(read, text={**read.text, **dict.fromkeys(beyond, positions)})


def _transformer_settings(root: Path, name: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """``sentence_bert_config.json`` (the middle word varies with the model)."""
    files = sorted(root.glob("sentence_*_config.json"))
    settings = read_json(files[0], name) if files else {}
    if settings.get("do_lower_case") and tokenizer("A")["input_ids"] != tokenizer("a")["input_ids"]:
        raise InputError(
            f"checkpoint {name!r} lowers the case of texts before tokenising (do_lower_case in {files[0].name}); "
            "allowed are tokenizers that do so themselves: add a Lowercase normalizer to its tokenizer.json"
        )
    return settings


def _bi_encoder(
    read: Checkpoint, folder: Path | None, layers: list[Dense], normalize: bool, said: dict[str, Any], settings: Any
) -> Checkpoint:
    """sentence-transformers: Transformer, Pooling, any number of Dense, perhaps Normalize."""
    config = read_json(folder / "config.json", read.name) if folder else {}
    modes = config.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    modes = [modes] if isinstance(modes, str) else list(modes)
    prompts = {key: value for key, value in (said.get("prompts") or {}).items() if value}
    if others := sorted(set(prompts) - {"query", "document"}):
        _log.warning(
            "%s: its prompts %s are not applied, as in encode_query and encode_document of sentence-transformers; "
            "model.text.query_prefix and passage_prefix set them",
            read.name,
            ", ".join(others),
        )
    text: dict[str, Any] = {"query_prefix": prompts.get("query", ""), "passage_prefix": prompts.get("document", "")}
    if limit := settings.get("max_seq_length") or _model_limit(read):
        text |= {"max_query_length": limit, "max_passage_length": limit}
    similarity = said.get("similarity_fn_name") or "cosine"
    scorer = _SCORERS[similarity]() if similarity in _SCORERS else None
    pooling: Pooling | None = None
    lacks = f"its similarity is {similarity}"
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        lacks = f"its pooling is {'+'.join(modes) or 'none'}"
    elif prompts and not config.get("include_prompt", True):
        lacks = "its pooling leaves out the prompt (include_prompt)"
    else:
        pooling = _POOLINGS[modes[0]]()
        pooling = Projected(pooling, layers, normalize) if layers or normalize else pooling
        pooling.build(read.transformer.config.hidden_size)
    return replace(read, pooling=pooling, scorer=scorer, text=text, lacks=lacks)


def _model_limit(read: Checkpoint) -> int | None:
    """sentence-transformers' limit where none is written down."""
    positions = num_positions(read.transformer)
    return None if positions is None else min(positions, read.tokenizer.model_max_length)


def _late_interaction(
    read: Checkpoint, layers: list[Dense], said: dict[str, Any], text: dict[str, Any], weights: Path | None = None
) -> Checkpoint:
    """PyLate and sentence-transformers 6: Dense layers for every token; ``weights`` is our file of token weights."""
    if not layers:
        raise InputError(
            f"checkpoint {read.name!r} has no Dense layer, which late interaction needs; allowed are one or more: "
            "choose another checkpoint, or start from its encoder"
        )
    if read.tokenizer.padding_side == "left":
        _log.warning(
            "%s: its tokenizer pads at the left, where PyLate puts markers and query expansion between or before a "
            "text's tokens; here a marker follows the first token and expansion the last, so scores differ",
            read.name,
        )
    pooling = TokenProjection(layers=layers, token_weights=weights is not None)
    pooling.build(read.transformer.config.hidden_size)
    if weights is not None and pooling.weight is not None:
        load_into(pooling.weight, weights, read.name)
    scorer = MaxSim("mean" if said.get("similarity_fn_name") == "meanmaxsim" else "sum")
    return replace(read, pooling=pooling, scorer=scorer, text=text)


def _read_dense(folder: Path, name: str) -> Dense:
    config = read_json(folder / "config.json", name, keys=("in_features", "out_features"))
    function = config.get("activation_function", "torch.nn.modules.activation.Tanh")  # as sentence-transformers 6
    activation = str(function).rpartition(".")[2]
    if not str(function).startswith("torch.nn.") or activation not in get_args(Activation):
        raise InputError(
            f"checkpoint {name!r} has a Dense layer with activation {function}; allowed are "
            f"{', '.join(get_args(Activation))} of torch.nn: choose another checkpoint"
        )
    widths = config["in_features"], config["out_features"]
    bias, use_residual = flag(config, "bias", True, name), flag(config, "use_residual", False, name)
    try:
        layer = Dense(*widths, bias, activation, use_residual)  # type: ignore[arg-type]
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"checkpoint {name!r} has a Dense layer from {widths[0]!r} to {widths[1]!r} ({reason(error)}); allowed are "
            f"widths of 1 or more: repair {folder.name}/config.json"
        ) from error
    file = "model.safetensors" if (folder / "model.safetensors").is_file() else "pytorch_model.bin"
    load_into(layer, folder / file, name)
    return layer


def _read_stanford(
    folder: Path, name: str, transformer: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Checkpoint:
    """ColBERTv2: ``artifact.metadata`` beside one file with the encoder's weights and ``linear.weight``."""
    said = read_json(folder / "artifact.metadata", name, optional=True)
    if said.get("similarity", "cosine") != "cosine":
        raise InputError(
            f"checkpoint {name!r} has the similarity {said['similarity']}; allowed is cosine: choose another checkpoint"
        )
    weight = read_tensor(folder, "linear.weight", name)
    layer = Dense(weight.shape[1], weight.shape[0], bias=False)
    layer.linear.load_state_dict({"weight": weight})
    pooling = TokenProjection(layers=[layer])
    pooling.build(transformer.config.hidden_size)
    text = stanford_text(said, name)
    return _within_positions(Checkpoint(name, transformer, tokenizer, pooling, MaxSim("sum"), text))
