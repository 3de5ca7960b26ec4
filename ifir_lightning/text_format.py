"""How the texts of a checkpoint are written: prefixes, markers, limits, skiplist, expansion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ifir_lightning.errors import InputError

QueryExpansion = Literal["none", "attended", "unattended"]


@dataclass(frozen=True)
class TextFormat:
    """How texts are written for one checkpoint. It belongs to the weights: change it and scores change.

    A query is ``query_prefix + query + " " + instruction``, a passage ``passage_prefix + title + " " + text``; the
    marker's token comes second, behind the first special token (behind the first word where a tokenizer has none, as in
    PyLate).

    Args:
        query_prefix: Text before every query, e.g. "query: ".
        passage_prefix: Text before every passage.
        query_marker: One token that marks queries, e.g. "[Q] " of a ColBERT model; "" for none.
        passage_marker: The same for passages.
        max_query_length: Limit in tokens, special tokens and marker included. Text beyond it is cut at the right
            and counted; the final special token stays. Instructions need about 256 or more.
        max_passage_length: The same for passages.
        passage_skiplist: Words whose tokens late interaction drops from passages after encoding (ColBERT drops
            punctuation). Pooling to one vector does not look at it.
        query_expansion: Fill every query up to its limit with [MASK] tokens, which count in MaxSim (ColBERT,
            section 3.2); the other tokens see them (attended) or not.
    """

    query_prefix: str = ""
    passage_prefix: str = ""
    query_marker: str = ""
    passage_marker: str = ""
    max_query_length: int = 304
    max_passage_length: int = 512
    passage_skiplist: tuple[str, ...] = ()
    query_expansion: QueryExpansion = "none"

    def __post_init__(self) -> None:
        for name in ("query_prefix", "passage_prefix", "query_marker", "passage_marker"):
            if not isinstance(text := getattr(self, name), str):
                raise InputError(f"model.text.{name} is {text!r}; allowed is text: correct it")
        words = self.passage_skiplist
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise InputError(f"model.text.passage_skiplist is {words!r}; allowed is a list of words: correct it")
        for name in ("max_query_length", "max_passage_length"):
            if not isinstance(limit := getattr(self, name), int):
                raise InputError(f"model.text.{name} is {limit!r}; allowed is a number of tokens: correct it")
        if self.query_expansion not in get_args(QueryExpansion):
            raise InputError(
                f"model.text.query_expansion is {self.query_expansion!r}; allowed are "
                f"{', '.join(get_args(QueryExpansion))}: choose one"
            )

    def __str__(self) -> str:
        """The limits, and what else differs from plain texts: ``query limit 304, passage limit 512``."""
        plain = vars(TextFormat())
        limits = [f"{_NAMES[name]} {getattr(self, name)}" for name in ("max_query_length", "max_passage_length")]
        others = {name: value for name, value in vars(self).items() if "length" not in name and value != plain[name]}
        return ", ".join(limits + [f"{_NAMES[name]} {_shown(value)}" for name, value in others.items()])


@dataclass(frozen=True)
class TextSettings:
    """What a recipe says of the format of texts; None leaves it to the checkpoint, and then to ``TextFormat``.

    Args:
        query_prefix: As in ``TextFormat``, like all that follow.
        passage_prefix: Text before every passage.
        query_marker: One token that marks queries; added to a tokenizer that lacks it.
        passage_marker: The same for passages.
        max_query_length: Limit in tokens.
        max_passage_length: Limit in tokens.
        passage_skiplist: Words that late interaction drops from passages.
        query_expansion: Fill queries with [MASK] tokens.
    """

    query_prefix: str | None = None
    passage_prefix: str | None = None
    query_marker: str | None = None
    passage_marker: str | None = None
    max_query_length: int | None = None
    max_passage_length: int | None = None
    passage_skiplist: tuple[str, ...] | None = None
    query_expansion: QueryExpansion | None = None

    def over(self, said: Mapping[str, Any]) -> TextFormat:
        """The format of a checkpoint that says so much (fields of ``TextFormat``); the recipe wins."""
        return TextFormat(**{**said, **self._own()})

    def differences(self, said: Mapping[str, Any]) -> list[str]:
        """One line for everything that the recipe says otherwise than the checkpoint."""
        return [
            f"{_NAMES[name]} {_shown(said[name])} in the checkpoint, {_shown(value)} in the recipe"
            for name, value in self._own().items()
            if name in said and said[name] != value
        ]

    def _own(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


_NAMES = {
    "query_prefix": "query prefix",
    "passage_prefix": "passage prefix",
    "query_marker": "query marker",
    "passage_marker": "passage marker",
    "max_query_length": "query limit",
    "max_passage_length": "passage limit",
    "passage_skiplist": "passage skiplist",
    "query_expansion": "query expansion",
}


def _shown(value: object) -> str:
    """A setting as a message shows it: a list by its length."""
    if isinstance(value, tuple):
        return f"of {len(value)} words"
    return repr(value) if value == "" or str(value).strip() != value else str(value)
