"""Results of a study's trials -> its numbers as one plain object: what the page shows, and JSON and CSV hold."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ifir_lightning.studies import analysis
from ifir_lightning.studies.plan import Study, is_number
from ifir_lightning.studies.search import num_trials

METRICS = {"p_mrr": "p-MRR", "score_b": "Score B"}
RANGES = {"p_mrr": (-100.0, 100.0), "score_b": (0.0, 100.0)}
Result = Mapping[str, Any]


def answer(study: Study, results: Sequence[Result]) -> dict[str, Any]:
    """All numbers of a study, whether or not every trial has ended."""
    finished = [result for result in results if result["status"] == "finished"]
    content: dict[str, Any] = {
        "question": study.question,
        "kind": study.kind,
        "budget_queries": study.budget,
        "seeds": list(study.seeds),
        "points_drawn": study.points is not None,
        "trials": {"planned": num_trials(study), "ended": len(results)}
        | {status: sum(r["status"] == status for r in results) for status in ("finished", "failed", "diverged")},
        "seconds": sum(result["seconds"] for result in results),
        "points": points(study, finished),
        "differences": differences(study, finished) if study.search == "random" else [],
        "changes": [] if study.cross else changes(study, finished),
        "results": list(results),
    }
    if study.kind == "sensitivity":
        content["sensitivity"] = {head: _sensitivity(study, head, results) for head in study.heads}
    if study.kind == "search":
        whole = [point for point in content["points"] if point["p_mrr"]["count"] == len(study.seeds)]
        content["best"] = [best for head in study.heads if (best := _best(whole, head)) is not None]
        content["chosen_from"] = {head: sum(point["head"] == head for point in whole) for head in study.heads}
    if study.kind == "data-demand":
        content["data_demand"] = _demand(study, content["points"], finished)
    return content


def _best(found: Sequence[dict[str, Any]], head: str) -> dict[str, Any] | None:
    """The point of the highest mean p-MRR. Being chosen for it, its own mean is too high an estimate."""
    own = [point for point in found if point["head"] == head]
    return max(own, key=lambda point: point["p_mrr"]["mean"], default=None)


def points(study: Study, finished: Sequence[Result]) -> list[dict[str, Any]]:
    """Mean and interval over seeds of every head at every point."""
    found: list[dict[str, Any]] = []
    for head in study.heads:
        for point in sorted({result["point"] for result in finished}):
            seeds = [result for result in finished if (result["head"], result["point"]) == (head, point)]
            if seeds:
                numbers = {
                    key: asdict(analysis.interval([result[key] for result in seeds], RANGES[key])) for key in METRICS
                }
                found.append({"head": head, "point": point, "values": dict(seeds[0]["values"]), **numbers})
    return found


def differences(study: Study, finished: Sequence[Result]) -> list[dict[str, Any]]:
    """Every head minus the first one, point by point, paired by seed: mean difference and interval."""
    first, *others = study.heads
    return [
        {"head": head, "minus": first, "point": point} | found
        for head in others
        for point in sorted({result["point"] for result in finished})
        if (found := _paired(study, finished, (head, point), (first, point)))
    ]


def changes(study: Study, finished: Sequence[Result]) -> list[dict[str, Any]]:
    """What a change along one axis does to each head: every point minus point 0, paired by seed."""
    return [
        {"head": head, "point": point} | found
        for head in study.heads
        for point in sorted({result["point"] for result in finished} - {0})
        if (found := _paired(study, finished, (head, point), (head, 0)))
    ]


def _paired(
    study: Study, finished: Sequence[Result], ours: tuple[str, int], theirs: tuple[str, int]
) -> dict[str, Any] | None:
    """Mean and interval over seeds of one head and point minus another; None where no seed has both."""
    by_place = {(result["head"], result["point"], result["seed"]): result for result in finished}
    places = [((*ours, seed), (*theirs, seed)) for seed in study.seeds]
    pairs = [(by_place[a], by_place[b]) for a, b in places if a in by_place and b in by_place]
    if not pairs:
        return None
    numbers = {
        key: asdict(analysis.interval([a[key] - b[key] for a, b in pairs], (low - high, high - low)))
        for key, (low, high) in RANGES.items()
    }
    return {"values": dict(pairs[0][0]["values"]), **numbers}


def _sensitivity(study: Study, head: str, results: Sequence[Result]) -> dict[str, Any]:
    """Over the head's configurations, each the mean over its seeds."""
    own = [result for result in results if result["head"] == head]
    finished = [result for result in own if result["status"] == "finished"]
    configurations = points(study, finished)
    content: dict[str, Any] = {
        f"{status}_share": sum(result["status"] == status for result in own) / len(own) if own else 0.0
        for status in ("diverged", "failed")
    }
    if len(configurations) < 2:
        return content
    for key in METRICS:
        values = [each[key]["mean"] for each in configurations]
        low, high = analysis.best_of_band(values)
        content[key] = {
            "best": max(values),
            "worst": min(values),
            "best_of": analysis.best_of(values).tolist(),
            "best_of_low": low.tolist(),
            "best_of_high": high.tolist(),
            "share_within_1": analysis.share_near_best(values),
            "importance": {
                axis: analysis.importance([each["values"][axis] for each in configurations], values)
                for axis in configurations[0]["values"]
            },
        }
    return content


def _demand(study: Study, found: Sequence[Mapping[str, Any]], finished: Sequence[Result]) -> list[dict[str, Any]]:
    """Along every axis of numbers: a power law of each metric for every head, and where each reaches the goal.

    A power law has no value at 0: such places are left out, and named.
    """
    content: list[dict[str, Any]] = []
    for axis in study.axes:
        places = [each for each in found if is_number(each["values"].get(axis))]
        own = [each for each in places if each["values"][axis] > 0]
        left_out = sorted({each["values"][axis] for each in places} - {each["values"][axis] for each in own})
        by_head = {head: [each for each in own if each["head"] == head] for head in study.heads}
        by_head = {head: each for head, each in by_head.items() if len({p["values"][axis] for p in each}) >= 3}
        if not by_head:
            continue
        for metric in METRICS:
            goal = min(max(point[metric]["mean"] for point in each) for each in by_head.values())
            heads = {head: _law(axis, metric, each, finished, goal) for head, each in by_head.items()}
            content.append({"axis": axis, "metric": metric, "goal": goal, "heads": heads, "left_out": left_out})
    return content


def _law(
    axis: str, metric: str, own: Sequence[Mapping[str, Any]], finished: Sequence[Result], goal: float
) -> dict[str, Any]:
    sizes = [float(point["values"][axis]) for point in own]
    law = analysis.fit_power_law(sizes, [point[metric]["mean"] for point in own], RANGES[metric])
    content: dict[str, Any] = {"law": asdict(law), "size_for_goal": _finite(law.size_for(goal))}
    seeds = [
        [result[metric] for result in finished if all(result[key] == point[key] for key in ("head", "point"))]
        for point in own
    ]
    if len({len(values) for values in seeds}) == 1 and len(seeds[0]) > 1:
        drawn = analysis.power_laws_over_seeds(sizes, np.array(seeds), RANGES[metric])
        content["intervals"] = {
            name: list(analysis.middle([asdict(each)[name] for each in drawn])) for name in asdict(law)
        }
        content["size_interval"] = [_finite(end) for end in analysis.middle([each.size_for(goal) for each in drawn])]
    return content


def _finite(size: float) -> float | None:
    """None for infinity, which JSON does not know."""
    return size if math.isfinite(size) else None


def as_csv(results: Sequence[Result]) -> str:
    """One line per trial; an axis is a column, empty where the head does without it."""
    axes = list(dict.fromkeys(name for result in results for name in result["values"]))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ("head", "point", "seed", "status", "step", "p_mrr", "score_a", "score_b", "score_c", "seconds")
    writer.writerow([*columns, *axes])
    for result in results:
        writer.writerow(
            [*(result.get(name, "") for name in columns), *(result["values"].get(name, "") for name in axes)]
        )
    return file.getvalue()
