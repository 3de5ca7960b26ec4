"""How a query with its instruction, and a passage with its title, become token ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage, Tokens


@dataclass(frozen=True)
class TextFormat:
    """How texts are written for one checkpoint. It belongs to the weights: change it and scores change.

    A query is ``query_prefix + query + " " + instruction``, a passage ``passage_prefix + title + " " + text``.

    Args:
        query_prefix: Put before every query, e.g. "query: " or the marker "[Q] " of a ColBERT model.
        passage_prefix: Put before every passage.
        max_query_length: Limit in tokens, special tokens included. Text beyond it is cut at the right and
            counted; the final special token stays. Instructions need about 256 or more.
        max_passage_length: The same for passages.
        passage_skiplist: Words whose tokens late interaction drops from passages after encoding (ColBERT drops
            punctuation). Pooling to one vector does not look at it.
    """

    query_prefix: str = ""
    passage_prefix: str = ""
    max_query_length: int = 304
    max_passage_length: int = 512
    passage_skiplist: tuple[str, ...] = ()


class TextTokenizer:
    """A tokenizer and the format of its texts; picklable, so that loader workers tokenise.

    Args:
        tokenizer: Any tokenizer of transformers.
        text_format: Prefixes, limits, skiplist.

    Raises:
        InputError: A limit that leaves no room beside the special tokens, or a skiplist word that is no token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_format: TextFormat) -> None:
        self.tokenizer = tokenizer
        self.format = text_format
        self._num_special, self._suffix = _special_tokens(tokenizer)
        for name in ("max_query_length", "max_passage_length"):
            self._check_limit(name, getattr(text_format, name))
        self._skip_ids = torch.tensor(sorted(self._token_id(word) for word in text_format.passage_skiplist))

    def queries(self, texts: Iterable[tuple[str, str]]) -> Tokens:
        """Tokenise (query, instruction) pairs; an instruction may be ""."""
        prefix = self.format.query_prefix
        joined = [prefix + f"{query} {instruction}".strip() for query, instruction in texts]
        return self._pack(joined, self.format.max_query_length)

    def passages(self, passages: Iterable[Passage]) -> Tokens:
        """Tokenise passages; tokens of the skiplist are marked in ``keep_T``."""
        prefix = self.format.passage_prefix
        joined = [prefix + f"{passage.title} {passage.text}".strip() for passage in passages]
        tokens = self._pack(joined, self.format.max_passage_length)
        if len(self._skip_ids):
            tokens.keep_T.logical_and_(~torch.isin(tokens.input_ids_T, self._skip_ids))
            self._refuse_bare(tokens, joined)
        return tokens

    def _pack(self, texts: Sequence[str], limit: int) -> Tokens:
        encoded = self.tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False)[
            "input_ids"
        ]
        kept = [ids if len(ids) <= limit else ids[: limit - len(self._suffix)] + self._suffix for ids in encoded]
        if not all(kept):
            raise InputError(
                f"text {texts[kept.index([])]!r} has no tokens; allowed are texts with at least one, "
                "or a tokenizer that adds special tokens: remove the empty text"
            )
        input_ids_T = torch.tensor([token for ids in kept for token in ids])
        return Tokens(
            lengths_B=torch.tensor([len(ids) for ids in kept]),
            input_ids_T=input_ids_T,
            keep_T=torch.ones(len(input_ids_T), dtype=torch.bool),
            cut_B=torch.tensor([len(full) - len(ids) for full, ids in zip(encoded, kept, strict=True)]),
        )

    def _refuse_bare(self, tokens: Tokens, texts: Sequence[str]) -> None:
        """A passage of which the skiplist leaves nothing has no embedding (special tokens, where any, remain)."""
        kept_B = torch.segment_reduce(tokens.keep_T.float(), "sum", lengths=tokens.lengths_B)
        if len(bare := (kept_B == 0).nonzero()):
            raise InputError(
                f"passage {texts[int(bare[0])]!r} consists of words of model.text.passage_skiplist; allowed are "
                "passages with another token: remove the passage or shorten the skiplist"
            )

    def _check_limit(self, name: str, limit: int) -> None:
        if limit <= self._num_special:
            raise InputError(
                f"model.text.{name} is {limit}, but {self._num_special} special tokens are part of every text; "
                f"allowed is {self._num_special + 1} or more: raise model.text.{name}"
            )

    def _token_id(self, word: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(word)
        if not isinstance(token_id, int):
            raise InputError(
                f"model.text.passage_skiplist names {word!r}, which is no token of this tokenizer and it has no "
                "unknown token; allowed are tokens of its vocabulary: remove the word"
            )
        return token_id


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, list[int]]:
    """Number of special tokens around a text, and those that end it."""
    empty, letter = tokenizer("")["input_ids"], tokenizer("a")["input_ids"]
    num_suffix = 0
    while num_suffix < len(empty) and empty[-1 - num_suffix] == letter[-1 - num_suffix]:
        num_suffix += 1
    return len(empty), empty[len(empty) - num_suffix :]
