"""The command ``evaluate``: every figure of a run, whatever system made it."""

import sys
from json import dumps

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data.evalset import Task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Metrics, Run
from ifir_lightning.trec import read_run

MEASURE_NAMES = {"map_1000": "MAP@1000", "ndcg_5": "nDCG@5"}


def evaluate(task: str, run: str, json: bool = False) -> None:
    """Print the metrics of a run, all x100: for FollowIR p-MRR and the Scores.

    Args:
        task: a task of FollowIR as a folder, hub id (owner/name[@revision]) or synthetic/NAME; one of another
            benchmark as BENCHMARK:PATH, e.g. instructir:mteb/InstructIR-mteb.
        run: a TREC run file: lines "qid Q0 docid rank score tag"; of FollowIR, query ids are BASE-og and BASE-changed.
        json: print one JSON object instead of the table.
    """
    scores, loaded = read_run(run), named_task(task)
    ranked = _ranked(scores, loaded)
    if ranked and loaded.passages.keys().isdisjoint(ranked):
        raise InputError(
            f"{run}: {loaded.name} knows none of its {len(ranked)} passages (first {ranked[0]!r}); allowed are ids "
            f"like {next(iter(loaded.passages))!r}: check that the run is of this task"
        )
    metrics = loaded.evaluate(scores)
    if mismatch := _mismatch(scores, ranked, loaded, metrics):
        sys.stderr.write(f"{run}: {mismatch}\n")
    if json:
        sys.stdout.write(dumps(metrics, indent=2) + "\n")
    else:
        Console().print(_followir_table(metrics, loaded) if isinstance(loaded, Task) else _table(metrics, loaded))


def _ranked(run: Run, task: RankingTask) -> list[str]:
    """The distinct passages that the run has for queries of the task."""
    return list(dict.fromkeys(id_ for query_id in task.queries for id_ in run.get(query_id, ())))


def _mismatch(run: Run, ranked: list[str], task: RankingTask, metrics: Metrics) -> str:
    """What the run lacks and what the task does not know, in one line; "" where they fit."""
    faults = []
    if lacking := [query_id for query_id in task.queries if query_id not in run]:
        faults.append(
            f"lacks {len(lacking)} of {len(task.queries)} queries of {task.name} (first {lacking[0]!r}): they"
            f" count 0 in MAP and nDCG{_skipped(metrics)}"
        )
    if unknown := [query_id for query_id in run if query_id not in task.queries]:
        faults.append(f"has {len(unknown)} query ids that {task.name} does not know (first {unknown[0]!r}): ignored")
    if strange := [id_ for id_ in ranked if id_ not in task.passages]:
        faults.append(
            f"ranks {len(strange)} passages that {task.name} does not know (first {strange[0]!r}): they take ranks, "
            "and none is relevant"
        )
    candidates = task.candidates or {}
    absent = [(id_, base) for base, ids in candidates.items() if base in run for id_ in ids if id_ not in run[base]]
    if absent:
        faults.append(
            f"lacks {len(absent)} of {sum(map(len, candidates.values()))} candidates (first {absent[0][0]!r} of query "
            f"{absent[0][1]!r}): they take the rank behind its last, and count 0 in MAP and nDCG"
        )
    return "; ".join(faults)


def _skipped(metrics: Metrics) -> str:
    """What p-MRR, WISE and SICR make of a query that lacks a run."""
    skipped = metrics.get("skipped_queries")
    return "" if skipped is None else f", and measures of change skip {skipped} base queries"


def _table(metrics: Metrics, task: RankingTask) -> Table:
    """Every metric, those first that the benchmark is known for."""
    counts = {key: value for key, value in metrics.items() if isinstance(value, int)}
    table = Table(
        title=escape(f"{task.name} ({task.benchmark}), x100"), caption=", ".join(f"{k} {v}" for k, v in counts.items())
    )
    table.add_column("")
    table.add_column("", justify="right")
    for key in dict.fromkeys([*task.headline, *(k for k, value in metrics.items() if isinstance(value, float))]):
        table.add_row(task.headline.get(key, key), f"{metrics[key]:.2f}")
    return table


def _followir_table(metrics: Metrics, task: Task) -> Table:
    title = f"{task.name}: p-MRR {metrics['p_mrr']:+.2f}, Score B {metrics['score_b']:.2f}"
    counts = (
        f"all x100; Score = {MEASURE_NAMES[task.metric]}\n{metrics['num_queries']} queries"
        f" ({metrics['skipped_queries']} skipped), {metrics['num_changed_passages']} changed passages"
    )
    table = Table(title=escape(title), caption=counts)
    for column in ("", "A", "B", "C"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("instruction of the run", "original", "original", "changed")
    table.add_row("judged by the qrels of", "changed", "original", "changed", end_section=True)
    for key, label in {**MEASURE_NAMES, "score": "Score"}.items():
        table.add_row(label, *(f"{metrics[f'{key}_{scale}']:.2f}" for scale in "abc"))
    return table
