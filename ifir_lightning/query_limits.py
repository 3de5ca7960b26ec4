"""One checkpoint under several query limits: what survives the cut, and what p-MRR becomes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ifir_lightning.data.evalset import Task
from ifir_lightning.metrics import Run, evaluate_run
from ifir_lightning.reranking import Encoded, Reranker, as_run
from ifir_lightning.retriever import Retriever
from ifir_lightning.spans import Span, query_spans
from ifir_lightning.text import TextTokenizer
from ifir_lightning.truncation import audit_queries

UNLIMITED = 2**30


@dataclass(frozen=True)
class LimitAudit:
    """A task under one query limit; percentages and metrics x100.

    Attributes:
        limit: ``max_query_length``.
        query_tokens: Share of the queries' own tokens that survive.
        instruction_tokens: Share of the instructions' tokens that survive.
        identical_pairs: Originals and changed that became the same tokens: their p-MRR is 0.
        p_mrr: Of the checkpoint with this limit.
        score_b: Score B beside it.
    """

    limit: int
    query_tokens: float
    instruction_tokens: float
    identical_pairs: int
    p_mrr: float
    score_b: float


def audit_limits(retriever: Retriever, task: Task, limits: Sequence[int]) -> tuple[list[LimitAudit], float]:
    """The audits, and the share of passage tokens that survive the retriever's passage limit, x100.

    Passages are encoded once; queries once per limit.
    """
    tokenizers = [_limited(retriever.tokenizer, limit) for limit in limits]
    runs, cut = _rank(retriever, task, tokenizers)
    audits = [_audit(task, tokenizer, run) for tokenizer, run in zip(tokenizers, runs, strict=True)]
    return audits, 100 * (1 - cut)


def _limited(tokenizer: TextTokenizer, limit: int) -> TextTokenizer:
    return TextTokenizer(tokenizer.tokenizer, replace(tokenizer.format, max_query_length=limit))


def _rank(retriever: Retriever, task: Task, tokenizers: Sequence[TextTokenizer]) -> tuple[list[Run], float]:
    """One run per tokenizer of queries, and the share of passage tokens that was cut."""
    queries = {id_: (text, task.instructions[id_]) for id_, text in task.queries.items()}
    query_ids = list(queries)
    encoded = [retriever.encode(tokenizer.queries(queries.values())) for tokenizer in tokenizers]
    pairs: list[tuple[int, str]] = []
    scores: list[list[Tensor]] = [[] for _ in tokenizers]

    def observe(chunk: Encoded) -> None:
        for parts, embeddings in zip(scores, encoded, strict=True):
            parts.append(retriever.scorer.pairs(embeddings, chunk.passages, chunk.index_K2))
        pairs.extend((query, chunk.ids[place]) for query, place in chunk.index_K2.tolist())

    _, cut = Reranker(retriever)(queries, task.passages, task.candidates, observe=observe)
    return [as_run(query_ids, pairs, parts) for parts in scores], cut


def _audit(task: Task, tokenizer: TextTokenizer, run: Run) -> LimitAudit:
    metrics = evaluate_run(run, task.qrels, task.changed, task.name, task.metric)
    kept, full = (_count(task, each) for each in (tokenizer, _limited(tokenizer, UNLIMITED)))
    survived = {span: 100 * kept[span] / full[span] if full[span] else 100.0 for span in kept}
    return LimitAudit(
        limit=tokenizer.format.max_query_length,
        query_tokens=survived[Span.QUERY],
        instruction_tokens=survived[Span.INSTRUCTION],
        identical_pairs=len(audit_queries(tokenizer, task.queries, task.instructions).identical),
        p_mrr=float(metrics["p_mrr"]),
        score_b=float(metrics["score_b"]),
    )


def _count(task: Task, tokenizer: TextTokenizer) -> dict[Span, int]:
    plain = TextTokenizer(tokenizer.tokenizer, replace(tokenizer.format, query_expansion="none"))
    spans_T = query_spans(plain, [(text, task.instructions[id_]) for id_, text in task.queries.items()])
    return {span: int((spans_T == span).sum()) for span in (Span.QUERY, Span.INSTRUCTION)}
