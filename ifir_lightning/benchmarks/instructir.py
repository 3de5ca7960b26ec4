"""InstructIR: several users ask the same query, each with an instruction of their own and a passage for it.

Hub layout (``mteb/InstructIR-mteb``): configs corpus (_id, title, text), queries (_id, text), instruction (query-id,
instruction) and default or qrels (query-id, corpus-id, score), a split each. A query id is BASE_NUMBER; the base is
what stands before the first "_". Every query is judged against the whole corpus.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data.source import Source
from ifir_lightning.data.tables import read_tables, task_name
from ifir_lightning.metrics import Metrics, Qrels, Run, trec_values

CONFIGS = ("corpus", "queries", "instruction", "default")
HEADLINE = {"robustness_10": "Robustness@10", "ndcg_10": "nDCG@10"}


@dataclass(frozen=True)
class InstructIR(RankingTask):
    """Each text is query + " " + instruction, as mteb 2 and our training have it."""

    qrels: Qrels

    benchmark: ClassVar[str] = "instructir"
    headline: ClassVar[Mapping[str, str]] = HEADLINE

    def evaluate(self, run: Run) -> Metrics:
        return {"task": self.name, **robustness(run, self.qrels)}


@dataclass(frozen=True)
class InstructionFirst(RankingTask):
    """Each text is instruction + " " + query: the order of the paper, which puts "[SEP]" between them."""

    qrels: Qrels

    benchmark: ClassVar[str] = "instructir-instruction-first"
    headline: ClassVar[Mapping[str, str]] = HEADLINE

    def evaluate(self, run: Run) -> Metrics:
        return {"task": self.name, **robustness(run, self.qrels)}


def load(path_or_id: str) -> InstructIR:
    """Read the benchmark from a folder or the hub."""
    return InstructIR(**_parts(path_or_id))


def load_instruction_first(path_or_id: str) -> InstructionFirst:
    """The same with the two texts of each query exchanged."""
    parts = _parts(path_or_id)
    return InstructionFirst(**parts | {"queries": parts["instructions"], "instructions": parts["queries"]})


def robustness(run: Run, qrels: Qrels) -> dict[str, float]:
    """Robustness@10 and mean nDCG@10, x100 (InstructIR, arXiv 2402.14334).

    Robustness@10 is the mean over base queries of the LOWEST nDCG@10 among the instructions of that query: one user
    who is failed counts as all. The paper's code groups queries by their text, mteb by the id before "_"; we do as
    mteb. A query that the run lacks counts 0.
    """
    values = trec_values(run, qrels, "ndcg_cut_10")
    lowest: dict[str, float] = {}
    for query_id, value in values.items():
        base = query_id.partition("_")[0]
        lowest[base] = min(value, lowest.get(base, value))
    return {
        "robustness_10": 100 * fmean(lowest.values()),
        "ndcg_10": 100 * fmean(values.values()),
        "num_queries": len(values),
        "num_base_queries": len(lowest),
    }


def _parts(path_or_id: str) -> dict[str, Any]:
    """The fields of either task; a query without judgements is left out, as by mteb."""
    name = task_name(path_or_id)
    source = Source(name, read_tables(path_or_id, {*CONFIGS, "qrels"}), CONFIGS)
    qrels = source.qrels(source.qrels_config())
    queries = source.judged_texts("queries", "_id", "text", qrels)
    instructions = source.judged_texts("instruction", "query-id", "instruction", qrels)
    corpus = source.corpus()
    source.check_judged(qrels, queries, corpus)
    return {
        "name": name,
        "queries": queries,
        "instructions": {query_id: instructions[query_id] for query_id in queries},
        "passages": corpus,
        "candidates": None,
        "qrels": qrels,
    }
