"""The transformer: loaded or built, run on packed texts."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ifir_lightning.errors import InputError
from ifir_lightning.models.attention import Attention, Kernel, choose_kernel, make_layout
from ifir_lightning.models.lora import LoraSettings, add_adapters, merge_adapters
from ifir_lightning.models.modernbert import encode_packed
from ifir_lightning.models.transformer import PACKED_MODELS, is_packed, num_positions
from ifir_lightning.records import Hidden, Tokens, on_device, segment_rows

_log = logging.getLogger(__name__)

COMPILER = "inductor"
"""What ``compile`` compiles with."""


@dataclass(frozen=True)
class BackboneSettings:
    """How the transformer comes about and runs.

    Args:
        config: Instead of a checkpoint: the configuration of transformers for random weights, e.g.
            ``{model_type: modernbert, hidden_size: 128, ...}``. Vocabulary size and special tokens are those
            of the tokenizer unless given.
        tokenizer: Folder or hub id of the tokenizer; by default the checkpoint's.
        attention: Kernel of packed attention. ``auto`` takes ``triton``, a kernel of our own that rotates too, on a
            Hopper GPU; else flash-attn, torch's varlen kernel or per-text scaled-dot-product attention, the first that
            can run.
        trust_remote_code: Allow a checkpoint to run code of its own.
        max_padded_tokens: Size of a padded chunk (texts times longest text) for encoders that cannot run packed.
        max_tokens_per_chunk: Encode a training batch in chunks of at most so many tokens (a longer text is a chunk of
            its own) and compute each again in the backward pass: less memory for a third more time. By default the
            batch is encoded at once.
        compile: Let torch.compile fuse what lies around attention in each layer of a packed model (rotation, gated MLP,
            norms, residuals), once for all lengths. For a GPU and any attention but ``sdpa``.
        lora: Train low-rank adapters of the transformer's layers instead of its weights; by default the weights.
    """

    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    attention: Attention = "auto"
    trust_remote_code: bool = False
    max_padded_tokens: int = 16384
    max_tokens_per_chunk: int | None = None
    compile: bool = False
    lora: LoraSettings | None = None


@final
class Backbone(nn.Module):
    """A transformer encoder and its tokenizer.

    ModernBERT runs packed: all texts of a batch as one sequence, attention within each. Other encoders (BERT,
    MiniLM, ...) are padded in here, in chunks of similar length, and come out packed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: BackboneSettings = BackboneSettings(),
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, _laid_out_as_here(tokenizer)
        self.attention, self.max_padded_tokens = settings.attention, settings.max_padded_tokens
        if settings.max_tokens_per_chunk is not None and settings.max_tokens_per_chunk < 1:
            raise InputError(
                f"model.backbone.max_tokens_per_chunk is {settings.max_tokens_per_chunk}; allowed is 1 or more, e.g. "
                "16384, or null: raise it"
            )
        self.max_tokens_per_chunk = settings.max_tokens_per_chunk
        self.trust_remote_code, self.compile_layers = settings.trust_remote_code, settings.compile
        self.lora = settings.lora
        self.packed = is_packed(model)
        self.kernel: Kernel = "sdpa"
        self.tokens_encoded = self.tokens_computed = 0

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self.model.config.hidden_size

    @property
    def max_length(self) -> int | None:
        """Longest text, in tokens, that the position embeddings allow; None without such a limit."""
        return num_positions(self.model)

    def add_tokens(self, tokens: list[str]) -> list[str]:
        """Add those tokens that the vocabulary lacks, with new embeddings; returns them."""
        vocabulary = self.tokenizer.get_vocab()
        if lacking := [token for token in dict.fromkeys(tokens) if token not in vocabulary]:
            self.tokenizer.add_tokens(lacking)
            if len(self.tokenizer) > self.model.config.vocab_size:
                self.model.resize_token_embeddings(len(self.tokenizer))
        return lacking

    def adapt(self) -> None:
        """Add the adapters that the settings ask for, drawn from torch's generator; they change nothing yet."""
        if self.lora is not None:
            add_adapters(self.model, self.lora)

    def save(self, folder: Path) -> None:
        """In the files of transformers, adapters merged into the weights."""
        weights = None if self.lora is None else merge_adapters(self.model.state_dict(), self.lora)
        self.model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    def prepare(self, device: torch.device, dtype: torch.dtype, unattended: bool = False) -> None:
        """Choose the attention kernel for where and on what the model will run, and say which.

        Args:
            device: Where it will run.
            dtype: What attention will compute in.
            unattended: Whether queries will have tokens that the others do not see (``TextFormat``).

        Raises:
            InputError: The kernel that the recipe names cannot run there.
        """
        if self.packed:
            config = self.model.config
            width = config.hidden_size // config.num_attention_heads
            self.kernel = choose_kernel(self.attention, device, dtype, config.attention_dropout, unattended, width)
        elif self.attention not in ("auto", "sdpa"):
            raise InputError(
                f"model.backbone.attention is {self.attention}, but {self.model.config.model_type} runs padded; "
                f"allowed are auto and sdpa (packed: {', '.join(PACKED_MODELS)}): set model.backbone.attention to auto"
            )
        if self.compile_layers:
            self._compile()
        _log.info("attention: %s, %s", self.kernel, "packed" if self.packed else "padded inside the backbone")

    def _compile(self) -> None:
        if not self.packed or self.kernel == "sdpa":
            raise InputError(
                f"model.backbone.compile is true, but attention is {self.kernel} and the model "
                f"{'packed' if self.packed else 'padded'}; allowed is it with a packed model and flash_attention_2, "
                "varlen or triton attention, on a GPU in bfloat16: set model.backbone.compile to false"
            )
        layers: Any = self.model.layers
        for layer in layers:
            layer.compile(dynamic=True, fullgraph=True, backend=COMPILER)

    def forward(self, tokens: Tokens) -> Hidden:
        """Hidden states of the last layer, one per token, in the order of the tokens.

        ``sdpa`` runs texts of equal length together, and padded models texts of similar length: both are sorted.
        """
        if self.packed and (self.kernel != "sdpa" or bool((tokens.lengths_B.diff() <= 0).all())):
            return Hidden(tokens.lengths_B, self._run_packed(tokens), tokens.keep_T)
        order_B = tokens.lengths_B.argsort(stable=True)
        by_length = tokens.select(order_B)
        values_TD = self._run_packed(by_length) if self.packed else self._run_padded(by_length)
        rows_T = segment_rows(tokens.offsets_B[order_B], by_length.lengths_B).argsort()
        return Hidden(tokens.lengths_B, values_TD.index_select(0, on_device(rows_T, values_TD.device)), tokens.keep_T)

    def _run_packed(self, tokens: Tokens) -> Tensor:
        self._count(len(tokens.input_ids_T), len(tokens.input_ids_T))
        layout = make_layout(tokens.lengths_B, self.kernel, tokens.input_ids_T.device, tokens.attend_T)
        if self.compile_layers:
            # A layer is compiled anew as the first, for local and global attention, for gradients and for none, and for
            # each precision; torch keeps the limit by thread: a chunk computed again is in one of the backward pass.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            # DDP would cut a layer in two where a bucket of gradients is full; whole layers send theirs early enough.
            torch._dynamo.config.optimize_ddp = False
            # The compiler takes an attribute's size for fixed until it has seen another.
            for each in (layout.cumulative, layout.tiles):
                if each is not None:
                    torch._dynamo.maybe_mark_dynamic(each, 0)
        return encode_packed(self.model, tokens.input_ids_T, tokens.lengths_B, layout)

    def _count(self, num_encoded: int, num_computed: int) -> None:
        """Real tokens, and those computed for them, with padding; a chunk computed again counts again in both."""
        self.tokens_encoded += num_encoded
        self.tokens_computed += num_computed

    def _run_padded(self, tokens: Tokens) -> Tensor:
        """Texts sorted by length, in chunks of at most ``max_padded_tokens``."""
        sizes = list(_chunk_sizes(tokens.lengths_B.tolist(), self.max_padded_tokens))
        return torch.cat([self._run_rectangle(chunk) for chunk in tokens.split(*sizes)])

    def _run_rectangle(self, tokens: Tokens) -> Tensor:
        lengths_B = tokens.lengths_B.to(tokens.input_ids_T.device)
        mask_BL = torch.arange(int(tokens.lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
        input_ids_BL = torch.full(mask_BL.shape, self.tokenizer.pad_token_id or 0, device=lengths_B.device)
        input_ids_BL[mask_BL] = tokens.input_ids_T
        attend_BL = mask_BL.long()
        if tokens.attend_T is not None:
            attend_BL[mask_BL] = tokens.attend_T.long()
        self._count(len(tokens.input_ids_T), mask_BL.numel())
        outputs = self.model(input_ids=input_ids_BL, attention_mask=attend_BL)
        return outputs.last_hidden_state[mask_BL]


def _laid_out_as_here(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that other libraries, given what we write, fill and cut with as we do: at the right.

    We need no token to fill with, they do: where there is none, it is the one that ends a text.
    """
    if tokenizer.truncation_side == "left":
        _log.warning(
            "the tokenizer of %s cuts long texts at the left (truncation_side); here, and in what is written from here "
            "on, they are cut at the right",
            tokenizer.name_or_path,
        )
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _chunk_sizes(lengths: list[int], max_padded_tokens: int) -> Iterator[int]:
    """Numbers of texts, ascending in length, that fill rectangles of at most ``max_padded_tokens``; at least 1."""
    size = 0
    for length in lengths:
        if size and (size + 1) * length > max_padded_tokens:
            yield size
            size = 0
        size += 1
    yield size
