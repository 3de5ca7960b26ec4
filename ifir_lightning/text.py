"""How a query with its instruction, and a passage with its title, become token ids."""

from collections.abc import Iterable, Sequence
from itertools import chain
from types import UnionType
from typing import TypeVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage, Tokens
from ifir_lightning.text_format import TextFormat

T = TypeVar("T")


class TextTokenizer:
    """A tokenizer and the format of its texts; picklable, so that loader workers tokenise.

    Args:
        tokenizer: Any tokenizer of transformers.
        text_format: Prefixes, markers, limits, skiplist, expansion.

    Raises:
        InputError: A limit that leaves no room beside the special tokens, a marker or a skiplist word that is no
            token, an expansion without a mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_format: TextFormat) -> None:
        self.tokenizer = tokenizer
        self.format = text_format
        self._num_special, self._num_suffix = special_tokens(tokenizer)
        self._query_marker = self._marker("query_marker")
        self._passage_marker = self._marker("passage_marker")
        self._check_limit("max_query_length", text_format.max_query_length, self._query_marker)
        self._check_limit("max_passage_length", text_format.max_passage_length, self._passage_marker)
        self._skip_ids = torch.tensor(sorted(self._token_id(word) for word in text_format.passage_skiplist))
        self._expansion = None if text_format.query_expansion == "none" else self._expansion_id()

    def queries(self, texts: Iterable[tuple[str, str]]) -> Tokens:
        """Tokenise (query, instruction) pairs; an instruction may be ""."""
        texts_joined = [joined(self.format.query_prefix, *pair) for pair in texts]
        tokens = self._pack(texts_joined, self.format.max_query_length, self._query_marker)
        return tokens if self._expansion is None else self._expand(tokens)

    def passages(self, passages: Iterable[Passage]) -> Tokens:
        """Tokenise passages; tokens of the skiplist are marked in ``keep_T``."""
        texts = [joined(self.format.passage_prefix, passage.title, passage.text) for passage in passages]
        tokens = self._pack(texts, self.format.max_passage_length, self._passage_marker)
        if len(self._skip_ids):
            tokens.keep_T.logical_and_(~torch.isin(tokens.input_ids_T, self._skip_ids))
            self._refuse_bare(tokens, texts)
        return tokens

    def _pack(self, texts: Sequence[str], limit: int, marker: list[int]) -> Tokens:
        encoded = self._encode(texts)
        kept = [self._lay_out(ids, limit, marker) for ids in encoded]
        if not all(kept):
            raise InputError(
                f"text {texts[kept.index([])]!r} has no tokens; allowed are texts with at least one, "
                "or a tokenizer that adds special tokens: remove the empty text"
            )
        input_ids_T = torch.from_numpy(np.fromiter(chain.from_iterable(kept), np.int64))
        return Tokens(
            lengths_B=torch.tensor([len(ids) for ids in kept]),
            input_ids_T=input_ids_T,
            keep_T=torch.ones(len(input_ids_T), dtype=torch.bool),
            cut_B=torch.tensor([len(full) + len(marker) - len(ids) for full, ids in zip(encoded, kept, strict=True)]),
            attend_T=torch.ones(len(input_ids_T), dtype=torch.bool) if self._unattended else None,
        )

    def lay_out_query(self, full: list[T], marker: T, expansion: T) -> list[T]:
        """Anything that runs parallel to the ids of a tokenised query, as ``queries`` lays out the ids themselves.

        Args:
            full: One entry per token of the whole text, special tokens included.
            marker: The entry of the marker's token, where there is one.
            expansion: The entry of each token that fills the query.
        """
        limit = self.format.max_query_length
        kept = self._lay_out(full, limit, [marker] * len(self._query_marker))
        return kept if self._expansion is None else kept + [expansion] * (limit - len(kept))

    def _lay_out(self, full: list[T], limit: int, marker: list[T]) -> list[T]:
        """Cut at the right so that the final special tokens stay, the marker behind the first token."""
        room, num_suffix = limit - len(marker), self._num_suffix
        kept = full if len(full) <= room else full[: room - num_suffix] + full[len(full) - num_suffix :]
        return kept[:1] + marker + kept[1:] if marker else kept

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ``self.tokenizer(texts)``, where possible without offsets: they cost a quarter of the time."""
        tokenizer = self.tokenizer
        if not _is_plain(tokenizer):
            plain = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
            return tokenizer(list(texts), **plain)["input_ids"]
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # another user of the tokenizer may have set these three
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts))]

    @property
    def _unattended(self) -> bool:
        return self.format.query_expansion == "unattended"

    def _expand(self, tokens: Tokens) -> Tokens:
        """Every text filled to the limit; the filling is kept, and attended or not."""
        limit = self.format.max_query_length
        filled_BL = torch.arange(limit) < tokens.lengths_B[:, None]
        input_ids_BL = torch.full(filled_BL.shape, self._expansion or 0)
        input_ids_BL[filled_BL] = tokens.input_ids_T
        return Tokens(
            lengths_B=torch.full_like(tokens.lengths_B, limit),
            input_ids_T=input_ids_BL.flatten(),
            keep_T=torch.ones(filled_BL.numel(), dtype=torch.bool),
            cut_B=tokens.cut_B,
            attend_T=filled_BL.flatten() if self._unattended else None,
        )

    def _refuse_bare(self, tokens: Tokens, texts: Sequence[str]) -> None:
        """A passage of which the skiplist leaves nothing has no embedding (special tokens, where any, remain)."""
        kept_B = torch.segment_reduce(tokens.keep_T.float(), "sum", lengths=tokens.lengths_B)
        if len(bare := (kept_B == 0).nonzero()):
            raise InputError(
                f"passage {texts[int(bare[0])]!r} consists of words of model.text.passage_skiplist; allowed are "
                "passages with another token: remove the passage or shorten the skiplist"
            )

    def _check_limit(self, name: str, limit: int, marker: list[int]) -> None:
        fixed = self._num_special + len(marker)
        if limit <= fixed:
            raise InputError(
                f"model.text.{name} is {limit}, but {fixed} special tokens are part of every text; "
                f"allowed is {fixed + 1} or more: raise model.text.{name}"
            )

    def _marker(self, name: str) -> list[int]:
        """The marker as a list of no or one token."""
        marker = getattr(self.format, name)
        if marker and marker not in self.tokenizer.get_vocab():
            raise InputError(
                f"model.text.{name} is {marker!r}, which is no token of this tokenizer; allowed are tokens of its "
                "vocabulary: choose one, or put the text into the prefix"
            )
        return [self._token_id(marker)] if marker else []

    def _expansion_id(self) -> int:
        """[MASK], or the end-of-text token of a model without one, as in PyLate."""
        token_id = self.tokenizer.mask_token_id
        token_id = self.tokenizer.eos_token_id if token_id is None else token_id
        if token_id is None:
            raise InputError(
                f"model.text.query_expansion is {self.format.query_expansion}, but this tokenizer has neither a mask "
                "token nor an end-of-text token; allowed is none: set model.text.query_expansion to none"
            )
        return token_id

    def _token_id(self, word: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(word)
        if not isinstance(token_id, int):
            raise InputError(
                f"model.text.passage_skiplist names {word!r}, which is no token of this tokenizer and it has no "
                "unknown token; allowed are tokens of its vocabulary: remove the word"
            )
        return token_id


def joined(prefix: str, first: str, second: str) -> str:
    """Query and instruction, or title and text, behind their prefix; no white space around the whole."""
    return (prefix + " ".join(part for part in (first, second) if part)).strip()


def _is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its texts go to the tokenizers library as they are: some classes split words or languages before."""
    base, own = PreTrainedTokenizerFast, type(tokenizer)
    return issubclass(own, base) and own.__call__ is base.__call__ and own._encode_plus is base._encode_plus


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Number of special tokens around a text, and of those that end it."""
    empty, letter = tokenizer("")["input_ids"], tokenizer("a")["input_ids"]
    num_suffix = 0
    while num_suffix < len(empty) and empty[-1 - num_suffix] == letter[-1 - num_suffix]:
        num_suffix += 1
    return len(empty), num_suffix


def listed(texts: Iterable[T], what: str, kind: type | UnionType) -> list[T]:
    """A list, also of an array or a table's column; a single text is none.

    Raises:
        InputError: It is empty, or an item is not of ``kind``.
    """
    items = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else []
    wrong = [f"number {place} is {item!r:.60}" for place, item in enumerate(items) if not isinstance(item, kind)]
    if wrong or not items:
        got = wrong[0] if wrong else f"{texts!r:.60}"
        raise InputError(f"{what}: {got}; allowed is a list of one or more texts: pass a list of strings")
    return items
