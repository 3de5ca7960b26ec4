"""The transformer: loaded or built, run on packed texts."""

import logging
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ifir_lightning.errors import InputError
from ifir_lightning.models.attention import PACKED_ATTENTION, Attention, Kernel, choose_kernel, make_layout
from ifir_lightning.records import Hidden, Tokens, segment_rows

_log = logging.getLogger(__name__)
_PACKED_MODELS = ("modernbert",)
_COMPUTED_SETTINGS = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
"""Settings that ModernBERT takes but turns into others."""
_SPECIAL_TOKENS = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")


@final
class Backbone(nn.Module):
    """A transformer encoder and its tokenizer.

    ModernBERT runs packed: all texts of a batch as one sequence, attention within each. Other encoders (BERT,
    MiniLM, ...) are padded in here, in chunks of similar length, and come out packed.

    Args:
        checkpoint: Folder or hub id with weights and tokenizer.
        config: Instead of ``checkpoint``: the configuration of transformers for random weights, e.g.
            ``{model_type: modernbert, hidden_size: 128, ...}``. Vocabulary size and special tokens are those
            of the tokenizer unless given.
        tokenizer: Folder or hub id of the tokenizer; by default the checkpoint's.
        revision: Revision of the checkpoint on the hub.
        attention: Kernel of packed attention. ``auto`` takes flash-attn, torch's varlen kernel or per-text
            scaled-dot-product attention, the first that can run.
        trust_remote_code: Allow a checkpoint to run code of its own.
        max_padded_tokens: Size of a padded chunk (texts times longest text) for encoders that cannot run packed.

    Raises:
        InputError: Neither or both of checkpoint and config; a checkpoint that cannot be read.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        attention: Attention = "auto",
        trust_remote_code: bool = False,
        max_padded_tokens: int = 16384,
    ) -> None:
        super().__init__()
        if (checkpoint is None) == (config is None):
            raise InputError(
                f"model.backbone has checkpoint {checkpoint!r} and config {config!r}; allowed is exactly one: "
                "give a checkpoint for trained weights or a config for random ones"
            )
        self.attention = attention
        self.max_padded_tokens = max_padded_tokens
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.tokenizer = _load_tokenizer(tokenizer or checkpoint, {} if tokenizer else options)
        if checkpoint is not None:
            self.model = _load_model(checkpoint, options)
        else:
            assert config is not None
            self.model = _build_model(config, self.tokenizer)
        self.packed = self.model.config.model_type in _PACKED_MODELS
        self.kernel: Kernel = "sdpa"

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self.model.config.hidden_size

    @property
    def max_length(self) -> int | None:
        """Longest text, in tokens, that the position embeddings allow; None without such a limit."""
        table = dict(self.model.named_modules()).get("embeddings.position_embeddings")
        if isinstance(table, nn.Embedding):  # RoBERTa and MPNet count positions from padding_idx + 1
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        return self.model.config.to_dict().get("max_position_embeddings")

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Choose the attention kernel for where the model will run, and say which.

        Raises:
            InputError: The kernel that the recipe names cannot run there.
        """
        if self.packed:
            self.kernel = choose_kernel(self.attention, device, dtype, self.model.config.attention_dropout)
        elif self.attention not in ("auto", "sdpa"):
            raise InputError(
                f"model.backbone.attention is {self.attention}, but {self.model.config.model_type} runs padded; "
                f"allowed are auto and sdpa (packed: {', '.join(_PACKED_MODELS)}): set model.backbone.attention to auto"
            )
        _log.info("attention: %s, %s", self.kernel, "packed" if self.packed else "padded inside the backbone")

    def forward(self, tokens: Tokens) -> Hidden:
        """Hidden states of the last layer, one per token, in the order of the tokens."""
        order_B = tokens.lengths_B.argsort(stable=True)
        by_length = tokens.select(order_B)
        values_TD = self._run_packed(by_length) if self.packed else self._run_padded(by_length)
        rows_T = segment_rows(tokens.offsets_B[order_B], by_length.lengths_B).argsort()
        return Hidden(tokens.lengths_B, values_TD.index_select(0, rows_T.to(values_TD.device)), tokens.keep_T)

    def _run_packed(self, tokens: Tokens) -> Tensor:
        device = tokens.input_ids_T.device
        layout = make_layout(tokens.lengths_B, self.kernel, device)
        position_T = segment_rows(torch.zeros_like(tokens.lengths_B), tokens.lengths_B)
        outputs = self.model(
            input_ids=tokens.input_ids_T.unsqueeze(0),
            position_ids=position_T.to(device, non_blocking=True).unsqueeze(0),
            layout=layout,
        )
        return outputs.last_hidden_state[0]

    def _run_padded(self, tokens: Tokens) -> Tensor:
        """Texts sorted by length, in chunks of at most ``max_padded_tokens``."""
        sizes = list(_chunk_sizes(tokens.lengths_B.tolist(), self.max_padded_tokens))
        return torch.cat([self._run_rectangle(chunk) for chunk in tokens.split(*sizes)])

    def _run_rectangle(self, tokens: Tokens) -> Tensor:
        lengths_B = tokens.lengths_B.to(tokens.input_ids_T.device)
        mask_BL = torch.arange(int(tokens.lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
        input_ids_BL = torch.full(mask_BL.shape, self.tokenizer.pad_token_id or 0, device=lengths_B.device)
        input_ids_BL[mask_BL] = tokens.input_ids_T
        outputs = self.model(input_ids=input_ids_BL, attention_mask=mask_BL.long())
        return outputs.last_hidden_state[mask_BL]


def _chunk_sizes(lengths: list[int], max_padded_tokens: int) -> Iterator[int]:
    """Numbers of texts, ascending in length, that fill rectangles of at most ``max_padded_tokens``; at least 1."""
    size = 0
    for length in lengths:
        if size and (size + 1) * length > max_padded_tokens:
            yield size
            size = 0
        size += 1
    yield size


def _load_tokenizer(source: str | None, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    if source is None:
        raise InputError(
            "model.backbone.config comes without a tokenizer; allowed is a folder or hub id: "
            "set model.backbone.tokenizer"
        )
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # see _build_model
        raise _unreadable("tokenizer", source, error) from error


def _load_model(checkpoint: str, options: dict[str, Any]) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(checkpoint, **options)
        model, report = AutoModel.from_pretrained(
            checkpoint,
            config=config,
            dtype=torch.float32,
            attn_implementation=_implementation(config),
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # see _build_model
        raise _unreadable("checkpoint", checkpoint, error) from error
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise InputError(
            f"checkpoint {checkpoint!r} lacks {len(missing)} weights of its {config.model_type}, e.g. {missing[0]}, "
            "which would be random; allowed is a complete checkpoint: download it anew or choose another"
        )
    model.train()  # it comes in eval mode, and Lightning trains in the mode it finds: without dropout
    return _without_pooler(model, config)


def _build_model(settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    ids = {name: getattr(tokenizer, name) for name in _SPECIAL_TOKENS}
    try:
        known = {*AutoConfig.for_model(settings["model_type"]).to_dict(), *_COMPUTED_SETTINGS}
        if unknown := sorted(set(settings) - known):
            raise ValueError(f"{', '.join(unknown)}: no such setting")
        config = AutoConfig.for_model(**({"vocab_size": len(tokenizer)} | ids | settings))
        model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=_implementation(config))
    except Exception as error:  # what transformers and torch raise for a bad value has no common base
        raise InputError(
            f"model.backbone.config {settings} describes no model ({_first_line(error)}); allowed are the arguments "
            "of a transformers configuration with its model_type: correct model.backbone.config"
        ) from error
    return _without_pooler(model, config)


def _implementation(config: PretrainedConfig) -> str:
    return PACKED_ATTENTION if config.model_type in _PACKED_MODELS else "sdpa"


def _without_pooler(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """Drop BERT's pooler: it takes no part in retrieval, and DDP refuses parameters without a gradient."""
    assert model.config._attn_implementation == _implementation(config), "transformers ignored the attention asked for"
    if "pooler" in dict(model.named_children()):
        model.register_module("pooler", None)
    return model


def _unreadable(what: str, source: str, error: Exception) -> InputError:
    return InputError(
        f"{what} {source!r} cannot be read ({_first_line(error)}); allowed is a folder of transformers files or "
        "a hub id: check the name, or download it first where there is no network"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
