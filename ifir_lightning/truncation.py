"""What a query limit takes from the instructions of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ifir_lightning.metrics import CHANGED, ORIGINAL, base_ids
from ifir_lightning.text import TextTokenizer


@dataclass(frozen=True)
class QueryCuts:
    """Tokens that the limit cut from the queries of one task.

    Attributes:
        limit: ``max_query_length``.
        share: Share of all query tokens that were cut, in [0, 1].
        cut: Ids of the queries that lost a part of their instruction.
        identical: Base ids whose original and changed instruction are different texts but the same tokens: their
            p-MRR is 0 whatever the model.
    """

    limit: int
    share: float
    cut: tuple[str, ...]
    identical: tuple[str, ...]

    def warning(self, task: str) -> str | None:
        """One line if an instruction was cut or a pair reads the same, else None."""
        if self.cut:
            same = f", {len(self.identical)} pairs of original and changed became identical" if self.identical else ""
            return (
                f"{task}: the limit of {self.limit} query tokens cuts {len(self.cut)} instructions, e.g. that of "
                f"{self.cut[0]!r}{same}; {100 * self.share:.1f}% of the query tokens are lost: raise "
                "model.text.max_query_length"
            )
        if self.identical:
            return (
                f"{task}: {len(self.identical)} pairs of original and changed instruction are identical to this "
                f"tokenizer, e.g. {self.identical[0]!r}, though none is cut: look at its vocabulary"
            )
        return None


def audit_queries(tokenizer: TextTokenizer, queries: Mapping[str, str], instructions: Mapping[str, str]) -> QueryCuts:
    """Tokenise the queries of a task (id -> text, id -> instruction) and count what the limit cuts."""
    tokenizer = TextTokenizer(tokenizer.tokenizer, replace(tokenizer.format, query_expansion="none"))
    tokens = tokenizer.queries((text, instructions[id_]) for id_, text in queries.items())
    texts = [part.input_ids_T.tolist() for part in tokens.split(*[1] * len(tokens))]
    seen = dict(zip(queries, texts, strict=True))
    lost = int(tokens.cut_B.sum())
    return QueryCuts(
        limit=tokenizer.format.max_query_length,
        share=lost / (lost + int(tokens.lengths_B.sum())),
        cut=tuple(
            id_ for id_, count in zip(queries, tokens.cut_B.tolist(), strict=True) if count and instructions[id_]
        ),
        identical=tuple(
            base
            for base in base_ids(queries)
            if base + ORIGINAL in seen
            and base + CHANGED in seen
            and instructions[base + ORIGINAL] != instructions[base + CHANGED]
            and seen[base + ORIGINAL] == seen[base + CHANGED]
        ),
    )
