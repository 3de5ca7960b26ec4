"""The report of a comparison as one plain object: what ``--json`` prints and what terminal and HTML show."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

from ifir_lightning.bootstrap import CONFIDENCE, NUM_RESAMPLES
from ifir_lightning.comparison.queries import QueryTable
from ifir_lightning.comparison.recipes import Recipe, differing_settings, group_runs, warnings_about
from ifir_lightning.comparison.results import MEAN, RANGES, Values, average, curve, estimate, run_means, seed_pairs
from ifir_lightning.comparison.run_folders import (
    RunFolder,
    Which,
    load_tasks,
    query_order,
    read_task_run,
    values_per_query,
)
from ifir_lightning.data.evalset import Task
from ifir_lightning.metrics import Run

SIGNIFICANCE = 0.05
FEW_QUERIES = 10
METRICS = {"p_mrr": "p-MRR", "score_b": "Score B", "score_a": "Score A", "score_c": "Score C"}  # as they are shown


def build_report(runs: Sequence[RunFolder], which: Which, num_queries: int) -> dict[str, Any]:
    """Compare runs: recipes by falling p-MRR, and every pair of them, first minus second.

    Args:
        runs: Read run folders, each once.
        which: The validation that was chosen, for the record.
        num_queries: Gains, and losses, to list per pair.
    """
    tasks = load_tasks(runs)
    evaluated = [(recipe, *_evaluate(recipe, tasks)) for recipe in group_runs(runs)]
    evaluated.sort(key=lambda entry: -run_means(average(entry[1]))["p_mrr"])
    recipes = [recipe for recipe, _, _ in evaluated]
    seeds = [values for _, values, _ in evaluated]
    averages = [average(values) for values in seeds]
    of_recipes, of_pairs = estimate(averages)
    table = QueryTable(tasks, averages, [task_runs for _, _, task_runs in evaluated])
    means = [[run_means(values) for values in each] for each in seeds]
    pairs = [
        {"first": recipes[i].name, "second": recipes[j].name, "results": numbers}
        | {"seed_pairs": seed_pairs(means[i], means[j]), "queries": table.extremes([i, j], num_queries)}
        for (i, j), numbers in zip(combinations(range(len(recipes)), 2), of_pairs, strict=True)
    ]
    described = [
        _describe(recipe, per_seed) | {"results": numbers}
        for recipe, per_seed, numbers in zip(recipes, means, of_recipes, strict=True)
    ]
    report = {
        "validation": which,
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "tasks": [_task(task) for task in tasks],
        "recipes": described,
        "pairs": pairs,
        "settings": differing_settings(recipes),
        "warnings": warnings_about(recipes)
        + _limits_of_the_bootstrap(tasks, len(pairs))
        + _intervals_of_everything(described, pairs),
        "curves": [curve(recipe) for recipe in recipes],
    }
    if len(recipes) == 1:
        report["queries"] = table.extremes([0], num_queries)
    return {"summary": summarise(described, pairs)} | report


def _evaluate(recipe: Recipe, tasks: Sequence[Task]) -> tuple[list[Values], dict[str, list[Run]]]:
    """Per seed the values of every query, and per task the run of every seed."""
    runs = {task.name: [read_task_run(run, task) for run in recipe.runs] for task in tasks}
    values = [
        {task.name: values_per_query(run, task, runs[task.name][seed]) for task in tasks}
        for seed, run in enumerate(recipe.runs)
    ]
    return values, runs


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "score": task.metric,
        "num_queries": len(task.base_ids),
        "num_p_mrr_queries": len(query_order(task, "p_mrr")),
    }


def _limits_of_the_bootstrap(tasks: Sequence[Task], num_pairs: int) -> list[str]:
    """Where its answers are rough, or can only be that nothing is shown."""
    lines = []
    if (num_queries := sum(len(query_order(task, "p_mrr")) for task in tasks)) < FEW_QUERIES:
        lines.append(f"only {num_queries} queries have a p-MRR: intervals and p-values of so few are rough")
    if num_pairs and SIGNIFICANCE / num_pairs <= 1 / (NUM_RESAMPLES + 1):
        lines.append(
            f"{num_pairs} pairs are compared: to be real among so many a difference would need a smaller p than "
            f"{NUM_RESAMPLES} draws can give: compare fewer runs"
        )
    return lines


def _intervals_of_everything(recipes: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> list[str]:
    """What an interval means that holds every value there can be."""
    found: dict[str, None] = {}
    for each in (*recipes, *pairs):
        for (name, metrics), (key, (low, high)) in product(each["results"].items(), RANGES.items()):
            whole = (low - high, high - low) if "first" in each else (low, high)
            if (metrics[key]["low"], metrics[key]["high"]) == whole:
                found[f"{METRICS[key]} ({name})"] = None
    if not found:
        return []
    return [
        f"{', '.join(found)}: an interval that holds every possible value says that these queries cannot tell: "
        "they are too few, or all but a few agree"
    ]


def _describe(recipe: Recipe, means: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    runs = [
        {"folder": str(run.folder), "seed": run.seed, "step": run.step} | dict(values)
        for run, values in zip(recipe.runs, means, strict=True)
    ]
    return {
        "name": recipe.name,
        "initialisation": recipe.initialisation,
        "paradigm": recipe.paradigm,
        "runs": runs,
    }


def summarise(recipes: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers say, in sentences: who follows instructions best, and whether the difference is real.

    A difference counts as real if its p-value is below 0.05 divided by the number of pairs (Bonferroni).
    """
    best = recipes[0]
    p_mrr, score = (best["results"][MEAN][key] for key in ("p_mrr", "score_b"))
    threshold = SIGNIFICANCE / max(1, len(pairs))
    alone = {recipe["name"]: len(recipe["runs"]) == 1 for recipe in recipes}
    leads = [pair for pair in pairs if pair["first"] == best["name"]]
    ahead = all(_is_real(pair, threshold) for pair in leads)
    title = "follows instructions best" if ahead else "has the highest p-MRR"
    sentences = [
        f"{best['name']} {title if pairs else 'stands alone'}: p-MRR {with_interval(p_mrr)}, where 0 is no effect of a "
        f"changed instruction and below 0 the wrong one; Score B, the quality of the ranking, "
        f"{with_interval(score, signed=False)} of 100."
    ]
    return sentences + [_verdict(pair, threshold, alone[pair["first"]] and alone[pair["second"]]) for pair in leads]


def _is_real(pair: dict[str, Any], threshold: float) -> bool:
    return bool(pair["results"][MEAN]["p_mrr"]["p_value"] < threshold)


def _verdict(pair: dict[str, Any], threshold: float, one_seed_each: bool) -> str:
    p_mrr, score = (pair["results"][MEAN][key] for key in ("p_mrr", "score_b"))
    judged = "is real" if _is_real(pair, threshold) else "is not shown by these queries"
    ends = pair["seed_pairs"]["p_mrr"]
    scatter = (
        "one seed each, so what another seed would give is not known"
        if one_seed_each
        else f"between single seeds {ends['low']:+.2f} to {ends['high']:+.2f}"
    )
    return (
        f"Its lead in p-MRR over {pair['second']} {judged}: {with_interval(p_mrr, 'difference')}, "
        f"{p_text(p_mrr['p_value'])}; {scatter}. Score B differs by {with_interval(score, 'difference')}, "
        f"{p_text(score['p_value'])}."
    )


def with_interval(numbers: Mapping[str, float], name: str = "value", signed: bool = True) -> str:
    """``+1.23 [+0.10, +2.36]``."""
    sign = "+" if signed else ""
    return f"{numbers[name]:{sign}.2f} [{numbers['low']:{sign}.2f}, {numbers['high']:{sign}.2f}]"


def p_text(p_value: float) -> str:
    """``p = 0.012``; the smallest that the draws can give is less than 0.001."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
