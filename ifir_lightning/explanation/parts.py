"""What an explanation consists of, whatever the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ifir_lightning.records import Passage
from ifir_lightning.spans import Span


@dataclass(frozen=True)
class Match:
    """A query token and the passage token that it matches best.

    ``place`` is that token's number in the passage, ``contribution`` what the pair adds to the score: similarity times
    weight, divided by the number of query tokens where the scorer takes the mean.
    """

    token: str
    span: Span
    place: int
    similarity: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class Part:
    """A part of the query: a token, or a span of text. Its contributions to the two scores; None where it is absent.

    ``span`` is None for what is left of a score when its spans are left out one at a time.
    """

    label: str
    span: Span | None
    original: float | None
    changed: float | None

    @property
    def change(self) -> float:
        """What it contributes to the change of the score."""
        return (self.changed or 0.0) - (self.original or 0.0)


@dataclass(frozen=True)
class Explanation:
    """One passage under both instructions. The contributions of ``parts`` add up to ``scores``.

    Attributes:
        scores: Under the original and the changed instruction.
        ranks: Likewise, among the candidates.
        mean_change: How far the scores of all candidates moved on average: ranks follow from what differs from it.
        excluded: Whether the changed instruction makes it irrelevant.
        parts: Those of the original query, and where they differ, those of the changed one behind them.
        passage_tokens: Those that late interaction keeps; none for a bi-encoder.
        matches: Of every token of the original and of the changed query; none for a bi-encoder.
    """

    passage: Passage
    scores: tuple[float, float]
    ranks: tuple[int, int]
    mean_change: float
    excluded: bool
    parts: list[Part]
    passage_tokens: list[str]
    matches: tuple[list[Match], list[Match]]


Contribution = tuple[str, Span | None, float]


def aligned(original: Sequence[Contribution], changed: Sequence[Contribution]) -> list[Part]:
    """Both queries as one list: what they share side by side, what only one has by itself."""
    before, after = ([each[:2] for each in side] for side in (original, changed))
    parts = []
    for operation, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if operation == "equal":
            both = zip(original[a:b], changed[c:d], strict=True)
            parts += [Part(label, span, first, second) for (label, span, first), (_, _, second) in both]
        else:
            parts += [Part(label, span, value, None) for label, span, value in original[a:b]]
            parts += [Part(label, span, None, value) for label, span, value in changed[c:d]]
    return parts
