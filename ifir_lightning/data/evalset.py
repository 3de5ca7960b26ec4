"""Tasks in FollowIR's layout: queries asked with an original and a changed instruction, and their candidates.

Three layouts are in circulation. Each is read as tables (config name -> records) and becomes one ``Task``:

- v2 (``jhu-clsp/core17-instructions-mteb``): queries 310-og and 310-changed; configs corpus, queries,
  instruction, default (the qrels), qrel_diff, top_ranked;
- its re-upload (``mteb/Core17InstructionRetrieval``, for mteb >= 2.10.7): qrels in config default or qrels;
- v1 (``jhu-clsp/core17-instructions``): query 310 with instruction_og and instruction_changed; qrels_og and
  qrels_changed; top_ranked with one row per pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data import synthetic, tables
from ifir_lightning.data.source import Source
from ifir_lightning.data.tables import Tables
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import CHANGED, ORIGINAL, Metric, Metrics, Qrels, Run, base_ids, evaluate_run

V2_CONFIGS = ("corpus", "queries", "instruction", "default", "qrels", "qrel_diff", "top_ranked")
V1_QRELS = {"qrels_og": ORIGINAL, "qrels_changed": CHANGED}
V1_CONFIGS = ("corpus", "queries", *V1_QRELS, "top_ranked")
SYNTHETIC = "synthetic/"


@dataclass(frozen=True)
class Task(RankingTask):
    """A task of FollowIR. Every query id is a key of ``queries``, ``instructions``, ``candidates`` and ``qrels``.

    Attributes:
        passages: those that some candidate list names, by id.
        candidates: the passages to rank for each query.
        qrels: grades; empty for a query without judgements.
        changed: for EVERY base id the passages whose relevance the changed instruction changes, if any.
        metric: what the task's Score is.
    """

    candidates: dict[str, tuple[str, ...]]
    qrels: Qrels
    changed: dict[str, tuple[str, ...]]
    metric: Metric

    benchmark: ClassVar[str] = "followir"
    headline: ClassVar[Mapping[str, str]] = {
        "p_mrr": "p-MRR",
        "score_b": "Score B",
        "score_a": "Score A",
        "score_c": "Score C",
    }

    @property
    def base_ids(self) -> tuple[str, ...]:
        """The distinct base queries: 310 for 310-og and 310-changed."""
        return tuple(self.changed)

    def evaluate(self, run: Run) -> Metrics:
        """p-MRR, and MAP@1000, nDCG@5 and the Score on three scales (``metrics.py``)."""
        return evaluate_run(run, self.qrels, self.changed, self.name, self.metric)


def load_task(path_or_id: str) -> Task:
    """Read a task from a folder (one folder of parquet or jsonl files per config), from the hub
    (``owner/name`` or ``owner/name@revision``) or from the built-in world (``synthetic/NAME``; a folder with
    that path is reached as ``./synthetic/NAME``).
    """
    return task_from_tables(task_name(path_or_id), read_tables(path_or_id))


def task_name(path_or_id: str) -> str:
    """A short name for metrics and files: core17, followir-mini-core17, synthetic-travel."""
    return tables.task_name(path_or_id.replace("/", "-") if path_or_id.startswith(SYNTHETIC) else path_or_id)


def read_tables(path_or_id: str) -> Tables:
    """The records of each config that a task needs, wherever they lie."""
    if path_or_id.startswith(SYNTHETIC):
        return synthetic.task_tables(path_or_id.removeprefix(SYNTHETIC))
    return tables.read_tables(path_or_id, {*V2_CONFIGS, *V1_CONFIGS})


class _Parts(NamedTuple):
    """What a layout says about its queries, each asked with both instructions."""

    queries: dict[str, str]
    instructions: dict[str, str]
    candidates: dict[str, tuple[str, ...]]
    qrels: Qrels
    changed: dict[str, tuple[str, ...]]


def task_from_tables(name: str, tables: Tables) -> Task:
    """Check and join the tables of any layout; what they say of unknown queries is left out."""
    is_v1 = not V1_QRELS.keys().isdisjoint(tables)
    source = Source(name, tables, V1_CONFIGS if is_v1 else V2_CONFIGS)
    parts = _from_v1(source) if is_v1 else _from_v2(source)
    _check_queries(name, parts)
    candidates = {query_id: tuple(dict.fromkeys(parts.candidates[query_id])) for query_id in parts.queries}
    corpus = source.corpus()
    passages = source.listed_passages(candidates, corpus)
    source.check_judged(parts.qrels, parts.queries, corpus)
    _check_changed(source, parts)
    return Task(
        name=name,
        queries=parts.queries,
        instructions={query_id: parts.instructions[query_id] for query_id in parts.queries},
        passages=passages,
        candidates=candidates,
        qrels={query_id: parts.qrels.get(query_id, {}) for query_id in parts.queries},
        changed={base: parts.changed.get(base, ()) for base in base_ids(parts.queries)},
        metric="ndcg_5" if "news21" in name.lower() else "map_1000",
    )


def _from_v2(source: Source) -> _Parts:
    return _Parts(
        queries=source.texts("queries", "_id", "text"),
        instructions=source.texts("instruction", "query-id", "instruction"),
        candidates=source.lists("top_ranked"),
        qrels=source.qrels(source.qrels_config()),
        changed=source.lists("qrel_diff"),
    )


def _from_v1(source: Source) -> _Parts:
    """One query becomes two; changed are the passages whose grade differs, as mteb 1.x finds them."""
    texts = source.texts("queries", "_id", "text")
    listed: dict[str, list[str]] = {base: [] for base in texts}
    for base, doc_id in zip(source.ids("top_ranked", "qid"), source.ids("top_ranked", "pid"), strict=True):
        listed.setdefault(base, []).append(doc_id)
    parts = _Parts({}, {}, {}, {}, {})
    for config, end in V1_QRELS.items():
        instructions = source.texts("queries", "_id", config.replace("qrels", "instruction"))
        qrels = source.qrels(config)
        parts.qrels.update({base + end: grades for base, grades in qrels.items()})
        for base, text in texts.items():
            parts.queries[base + end] = text
            parts.instructions[base + end] = instructions[base]
            parts.candidates[base + end] = tuple(listed[base])
    for base in texts:
        before, after = (parts.qrels.get(base + end, {}) for end in (ORIGINAL, CHANGED))
        parts.changed[base] = tuple(doc_id for doc_id in before if before[doc_id] != after.get(doc_id, 0))
    return parts


def _check_changed(source: Source, parts: _Parts) -> None:
    """A changed passage that is not ranked has the same rank in both runs."""
    changed = [(base, doc_id) for base, doc_ids in parts.changed.items() for doc_id in doc_ids]
    ranked = {base: {*parts.candidates[base + ORIGINAL], *parts.candidates[base + CHANGED]} for base in parts.changed}
    lost = [doc_id for base, doc_id in changed if doc_id not in ranked[base]]
    fault = "changed passages are not among the candidates of their query"
    source.refuse_or_count(lost, len(changed), fault, "they count 0 in p-MRR")


def _check_queries(name: str, parts: _Parts) -> None:
    queries, bases = set(parts.queries), base_ids(parts.queries)
    pairs = {base + end for base in bases for end in (ORIGINAL, CHANGED)}
    both = f"allowed are pairs BASE{ORIGINAL} and BASE{CHANGED}"
    empty = {query_id for query_id, text in parts.queries.items() if not text.strip()}
    ranked = {query_id for query_id, doc_ids in parts.candidates.items() if doc_ids}
    for query_ids, fault in (
        (queries - pairs, f"has neither ending; {both}: rename it"),
        (pairs - queries, f"is missing, its other variant is there; {both}: add it"),
        (empty, "has an empty text; every query needs one: fill it in or remove both variants"),
        (queries - set(parts.instructions), "has no instruction; allowed is '': add a record to instruction"),
        (queries - ranked, "has no candidates; allowed are 1 or more: add them to top_ranked"),
        (set(parts.changed) - set(bases), f"of qrel_diff is unknown; allowed are {bases[:3]} ...: remove it"),
    ):
        if query_ids:
            raise InputError(f"task {name!r}, query {min(query_ids)!r} {fault}")
