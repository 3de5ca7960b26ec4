"""The transformer and its tokenizer: read from a checkpoint, or built from a configuration with random weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.files import check_finite
from ifir_lightning.models.modernbert import pack_layers

PACKED_MODELS = ("modernbert",)
"""Model types whose attention runs on packed texts."""
_COMPUTED_SETTINGS = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
"""Settings that ModernBERT takes but turns into others."""
_SPECIAL_TOKENS = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")


def split_revision(name: str) -> tuple[str, str | None]:
    """A folder, or the hub id and the revision of ``owner/name[@revision]``."""
    source, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    return source, revision or None


def load_tokenizer(
    source: str, name: str, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder (or hub id), which messages call ``name``."""
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, revision=revision or "main")
    except Exception as error:  # see build_transformer
        raise _unreadable("tokenizer", name, error) from error


def load_transformer(folder: str, name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The encoder of a folder, in float32, which messages call ``name``.

    safetensors where there are any; a pickle file is read with ``weights_only=True``, so that it cannot run code.
    """
    if (Path(folder) / "adapter_config.json").is_file():
        raise InputError(
            f"checkpoint {name!r} holds an adapter of peft (adapter_config.json), with which nothing else would learn; "
            "allowed are plain weights: merge it with merge_and_unload of peft, or move its files away"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model, report = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            weights_only=True,
        )
    except Exception as error:  # see build_transformer
        raise _unreadable("checkpoint", name, error) from error
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(
            f"checkpoint {name!r} lacks {len(missing)} weights of its {config.model_type}, e.g. {missing[0]}, "
            "which would be random; allowed is a complete checkpoint: download it anew or choose another"
        )
    model = _for_retrieval(model, config)
    for key, weights in model.named_parameters():
        check_finite(weights, key, name)
    return model


def build_transformer(settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An encoder with random weights, of the settings of a transformers configuration."""
    ids = {name: getattr(tokenizer, name) for name in _SPECIAL_TOKENS}
    try:
        known = {*AutoConfig.for_model(settings["model_type"]).to_dict(), *_COMPUTED_SETTINGS}
        if unknown := sorted(set(settings) - known):
            raise ValueError(f"{', '.join(unknown)}: no such setting")
        config = AutoConfig.for_model(**({"vocab_size": len(tokenizer)} | ids | settings))
        return from_config(config)
    except Exception as error:  # what transformers and torch raise for a bad value has no common base
        raise InputError(
            f"model.backbone.config {settings} describes no model ({reason(error)}); allowed are the arguments "
            "of a transformers configuration with its model_type: correct model.backbone.config"
        ) from error


def from_config(config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """An encoder of a configuration, its weights random."""
    model = AutoModel.from_config(
        config,
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
    )
    return _for_retrieval(model, config)


def is_packed(model: PreTrainedModel) -> bool:
    """Whether it can run on packed texts: by a forward pass of ours, so not where it has code of its own."""
    return model.config.model_type in PACKED_MODELS and model._auto_class is None


def num_positions(model: PreTrainedModel) -> int | None:
    """Longest text, in tokens, that the position embeddings allow; None without such a limit."""
    table = dict(model.named_modules()).get("embeddings.position_embeddings")
    if isinstance(table, nn.Embedding):  # RoBERTa and MPNet count positions from padding_idx + 1
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    positions = getattr(model.config, "max_position_embeddings", None)  # GPT-2's n_positions too; XLNet's is -1
    return None if positions is None or positions < 1 else positions


def _for_retrieval(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """In training mode (Lightning trains in the mode it finds: without dropout) and without BERT's pooler, which
    takes no part in retrieval: DDP refuses parameters without a gradient."""
    if config.is_encoder_decoder:
        raise InputError(
            f"{config.model_type} is an encoder-decoder; allowed are encoders and decoders: choose another checkpoint"
        )
    if is_packed(model):
        pack_layers(model)
    if "pooler" in dict(model.named_children()):
        model.register_module("pooler", None)
    return model.train()


def _unreadable(what: str, source: str, error: Exception) -> InputError:
    return InputError(
        f"{what} {source!r} cannot be read ({reason(error)}); allowed is a folder of transformers files or "
        "a hub id: check the name, or download it first where there is no network"
    )
