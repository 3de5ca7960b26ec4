"""Plain retrieval: a guard, since a model that learns to follow instructions must not forget how to retrieve.

Layouts: BEIR's folder (corpus.jsonl, queries.jsonl, qrels/test.tsv), or configs on the hub and in folders: corpus (_id,
title, text), queries (_id, text), default or qrels (query-id, corpus-id and, where not every listed passage has grade
1, score) and, where candidates are given, top_ranked (query-id, corpus-ids); e.g. ``mteb/scifact`` or
``zeta-alpha-ai/NanoMSMARCO``. A split each, or one called test.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data.source import Source
from ifir_lightning.data.tables import read_tables, task_name
from ifir_lightning.metrics import Metrics, Qrels, Run, trec_values

CONFIGS = ("corpus", "queries", "default")


@dataclass(frozen=True)
class Retrieval(RankingTask):
    """Queries without instructions. Their ids are those of ``qrels``."""

    qrels: Qrels

    benchmark: ClassVar[str] = "beir"
    headline: ClassVar[Mapping[str, str]] = {"ndcg_10": "nDCG@10"}

    def evaluate(self, run: Run) -> Metrics:
        """nDCG@10 (BEIR, arXiv 2104.08663; linear gain, as trec_eval), x100; a query that the run lacks counts 0."""
        values = trec_values(run, self.qrels, "ndcg_cut_10")
        return {"task": self.name, "ndcg_10": 100 * fmean(values.values()), "num_queries": len(values)}


def load(path_or_id: str) -> Retrieval:
    """Read a data set from a folder or the hub: its judged queries, and their candidates if it lists any."""
    name = task_name(path_or_id)
    source = Source(name, read_tables(path_or_id, {*CONFIGS, "qrels", "top_ranked"}), CONFIGS)
    qrels = source.qrels(source.qrels_config(), default_grade=1)
    queries = source.judged_texts("queries", "_id", "text", qrels)
    no_instructions, corpus = dict.fromkeys(queries, ""), source.corpus()
    source.check_judged(qrels, queries, corpus)
    if "top_ranked" not in source.tables:
        return Retrieval(name, queries, no_instructions, corpus, None, qrels)
    listed = source.lists("top_ranked")
    if lacking := [query_id for query_id in queries if not listed.get(query_id)]:
        raise source.error("top_ranked", f"query {lacking[0]!r} has no candidates; allowed are 1 or more: add them")
    candidates = {query_id: tuple(dict.fromkeys(listed[query_id])) for query_id in queries}
    return Retrieval(name, queries, no_instructions, source.listed_passages(candidates, corpus), candidates, qrels)
