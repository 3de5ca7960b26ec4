"""From a run and its judgements to p-MRR, MAP@1000, nDCG@5 and the FollowIR Scores.

A base query is asked twice: ``BASE-og`` with its original instruction, ``BASE-changed`` with the changed one.
p-MRR compares the ranks of the passages whose relevance changed. A Score judges one ranking by one of the two
sets of qrels; three scales are in use and must not be compared with each other:

    scale  run       qrels
    a      original  changed   the papers of FollowIR and Promptriever, mteb 1.x
    b      original  original  mteb >= 2.0 "og"; our headline
    c      changed   changed   mteb >= 2.0 "changed"

Values are fractions per query, so that a bootstrap can draw queries; x100 only in ``evaluate_run``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pytrec_eval import RelevanceEvaluator

from ifir_lightning.errors import InputError

Run = dict[str, dict[str, float]]  # query id -> passage id -> score
Qrels = dict[str, dict[str, int]]  # query id -> passage id -> grade, relevant from 1 on
Changed = Mapping[str, Sequence[str]]  # base id -> ids of the passages whose relevance changed
Metric = Literal["map_1000", "ndcg_5"]
Scale = Literal["a", "b", "c"]
Metrics = dict[str, str | float]

ORIGINAL, CHANGED = "-og", "-changed"
MEASURES: dict[Metric, str] = {"map_1000": "map_cut_1000", "ndcg_5": "ndcg_cut_5"}
SCALES: dict[Scale, tuple[str, str]] = {
    "a": (ORIGINAL, CHANGED),
    "b": (ORIGINAL, ORIGINAL),
    "c": (CHANGED, CHANGED),
}
BENCHMARK_KEYS = ("p_mrr", "score_a", "score_b", "score_c")


@dataclass(frozen=True)
class PMRR:
    """p-MRR as fractions in (-1, 1); positive: the instruction was followed.

    ``skipped`` are the base queries of which the run lacks a variant. One without changed passages is in
    neither field.
    """

    per_query: dict[str, float]
    skipped: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The unweighted mean over queries."""
        return fmean(self.per_query.values())


def base_ids(query_ids: Iterable[str]) -> list[str]:
    """The distinct base queries of ids like ``310-og`` and ``310-changed``, in their order."""
    variants = (ORIGINAL, CHANGED)
    cut = (query_id.removesuffix(suffix) for query_id in query_ids for suffix in variants if query_id.endswith(suffix))
    return list(dict.fromkeys(cut))


def ranks(scores: Mapping[str, float]) -> dict[str, int]:
    """The 1-based rank of each passage, best first; equal scores in DESCENDING order of id (trec_eval's)."""
    ordered = sorted(scores, key=lambda doc_id: (scores[doc_id], doc_id), reverse=True)
    return {doc_id: rank for rank, doc_id in enumerate(ordered, start=1)}


def rank_change(original: int, changed: int) -> float:
    """p-MRR of one passage: 1 -> 2 is +0.5, 2 -> 1 is -0.5, 99 -> 100 is +0.01, no move is 0."""
    return changed / original - 1 if original >= changed else 1 - original / changed


def p_mrr(run: Run, changed: Changed) -> PMRR:
    """p-MRR of each base query (FollowIR, arXiv 2403.15246, section 4; equal to mteb >= 2.19.5).

    A passage that a run lacks takes the rank after its last. Raises InputError on a NaN score and if no query
    is left.
    """
    refuse_nan(run)
    skipped = tuple(base for base in changed if _lacks(run, base))
    usable = {base: doc_ids for base, doc_ids in changed.items() if doc_ids and base not in set(skipped)}
    if not usable:
        raise InputError(_no_usable_query(run, changed, skipped))
    return PMRR({base: _mean_change(run, base, doc_ids) for base, doc_ids in usable.items()}, skipped)


def on_scale(run: Run, qrels: Qrels, bases: Sequence[str], scale: Scale) -> tuple[Run, Qrels]:
    """The run and the qrels of a scale, by base id; a query that the run lacks has none."""
    asked, judged = SCALES[scale]
    asked_run = {base: run[base + asked] for base in bases if run.get(base + asked)}
    return asked_run, {base: qrels.get(base + judged, {}) for base in bases}


def query_values(run: Run, qrels: Qrels, bases: Sequence[str], scale: Scale) -> dict[Metric, dict[str, float]]:
    """MAP@1000 and nDCG@5 (linear gain) of every base query on a scale, by trec_eval.

    A query that the run lacks, or without a relevant passage, counts 0. trec_eval holds scores in float32:
    scores that differ by less are ties here, though not in p-MRR.
    """
    refuse_nan(run)
    asked_run, judged = on_scale(run, qrels, bases, scale)
    return {metric: trec_values(asked_run, judged, measure) for metric, measure in MEASURES.items()}


def trec_values(run: Run, qrels: Qrels, measure: str) -> dict[str, float]:
    """One of trec_eval's measures, e.g. ``ndcg_cut_10``, of every query of the qrels; 0 where the run lacks it."""
    refuse_nan(run)
    found = RelevanceEvaluator(qrels, {measure}).evaluate(
        {query_id: run[query_id] for query_id in run if run[query_id]}
    )
    return {query_id: found.get(query_id, {}).get(measure, 0.0) for query_id in qrels}


def evaluate_run(run: Run, qrels: Qrels, changed: Changed, name: str, metric: Metric) -> Metrics:
    """All figures of one task, x100. ``metric`` is the one that its Score means."""
    bases = list(dict.fromkeys([*changed, *base_ids(qrels)]))
    result = p_mrr(run, {base: changed.get(base, ()) for base in bases})
    per_scale = {scale: query_values(run, qrels, bases, scale) for scale in SCALES}
    metrics: Metrics = {"task": name, "p_mrr": 100 * result.mean}
    for key in MEASURES:
        metrics |= {f"{key}_{scale}": 100 * fmean(values[key].values()) for scale, values in per_scale.items()}
    metrics |= {f"score_{scale}": metrics[f"{metric}_{scale}"] for scale in SCALES}
    num_changed = sum(len(doc_ids) for doc_ids in changed.values())
    return metrics | {
        "num_queries": len(bases),
        "num_changed_passages": num_changed,
        "skipped_queries": len(result.skipped),
    }


def refuse_nan(run: Run) -> None:
    """A NaN has no place in a ranking: it would be sorted anywhere."""
    for query_id, scores in run.items():
        for doc_id, score in scores.items():
            if math.isnan(score):
                raise InputError(
                    f"query {query_id!r}, passage {doc_id!r}: the score is nan; allowed are numbers: look for"
                    " an overflow or a division by zero in the model that made the run"
                )


def _lacks(run: Run, base: str) -> bool:
    return not (run.get(base + ORIGINAL) and run.get(base + CHANGED))


def _mean_change(run: Run, base: str, doc_ids: Sequence[str]) -> float:
    original, changed = ranks(run[base + ORIGINAL]), ranks(run[base + CHANGED])
    after_original, after_changed = len(original) + 1, len(changed) + 1
    return fmean(
        rank_change(original.get(doc_id, after_original), changed.get(doc_id, after_changed)) for doc_id in doc_ids
    )


def _no_usable_query(run: Run, changed: Changed, skipped: Sequence[str]) -> str:
    has, wants = next(iter(run), "none"), next(iter(changed), "BASE") + ORIGINAL
    return (
        f"p-MRR has no usable query: the run lacks {len(skipped)} of {len(changed)} base queries, the others"
        f" have no changed passage; its first query id is {has!r}, allowed are ids like {wants!r}: check that"
        " the run is of this task"
    )
