"""From the diagnosed pairs of a task to its figures: shares by span, rankings by other operators, in %."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from ifir_lightning.diagnostics import SCORERS, SPAN_NAMES
from ifir_lightning.metrics import (
    CHANGED,
    MEASURES,
    ORIGINAL,
    Changed,
    Metric,
    Qrels,
    Run,
    base_ids,
    on_scale,
    p_mrr,
    trec_values,
)

RANKINGS = {
    **{name: f"scorer/{name}" for name in SCORERS},
    "without_instruction_tokens": "without_instruction_tokens",
    "without_instruction": "without_instruction",
}
"""Figures that are scores -> the names of their p-MRR and Score B."""


@dataclass(frozen=True)
class Pairs:
    """All candidates of a task: figures [K] by name, of (query, passage) pairs."""

    query_ids: Sequence[str]
    passage_ids: Sequence[str]
    figures: dict[str, Tensor]

    def run(self, name: str) -> Run:
        """One figure as the scores of a run."""
        run: Run = {}
        for query_id, passage_id, score in zip(
            self.query_ids, self.passage_ids, self.figures[name].tolist(), strict=True
        ):
            run.setdefault(query_id, {})[passage_id] = score
        return run


def ranking_figures(pairs: Pairs, qrels: Qrels, changed: Changed, metric: Metric) -> dict[str, float]:
    """p-MRR and Score B, x100, of the rankings that other operators or less of the query would have made."""
    bases = list(dict.fromkeys([*changed, *base_ids(qrels)]))
    figures: dict[str, float] = {}
    for name, title in RANKINGS.items():
        if name in pairs.figures:
            run = pairs.run(name)
            scores = trec_values(*on_scale(run, qrels, bases, "b"), MEASURES[metric])
            figures |= {
                f"{title}/p_mrr": 100 * p_mrr(run, changed).mean,
                f"{title}/score_b": 100 * fmean(scores.values()),
            }
    return figures


def share_figures(pairs: Pairs, num_instruction_tokens: dict[str, int]) -> dict[str, float]:
    """What carries the scores, in % of the sum of all scores, and what happens to the instruction's tokens.

    The four ``score_share`` add up to 100; ``special_share``: of the score, what special tokens and markers of query
    or passage carry; ``negative_similarity``: of the instruction's tokens, those without any similar passage token.
    """
    sums = {name: float(values.sum()) for name, values in pairs.figures.items()}
    total = sum(sums[name] for name in SPAN_NAMES.values()) or 1.0
    num_tokens = sum(num_instruction_tokens[query_id] for query_id in pairs.query_ids)
    return {
        **{f"score_share/{name}": 100 * sums[name] / total for name in SPAN_NAMES.values()},
        "special_share": 100 * sums["special"] / total,
        "winner_entropy": 100 * sums["winner_entropy"] / len(pairs.query_ids),
        "negative_similarity": 100 * sums["negative"] / max(1, num_tokens),
    }


def change_figures(pairs: Pairs, changed: Changed) -> dict[str, float]:
    """What the spans contribute to s(changed) - s(original) of the passages whose relevance changed, x100.

    Means over the changed passages of a query, then over queries, as in p-MRR. ``change/<span>`` adds up to the change
    of the score; ``relative_change/<span>`` is the same less the mean change of all candidates of the query: only that
    moves ranks, and below 0 is down.
    """
    row = {pair: number for number, pair in enumerate(zip(pairs.query_ids, pairs.passage_ids, strict=True))}
    listed: dict[str, list[int]] = {}
    for number, query_id in enumerate(pairs.query_ids):
        listed.setdefault(query_id, []).append(number)
    figures: dict[str, float] = {}
    for name in SPAN_NAMES.values():
        values = pairs.figures[name].double().numpy()
        moves, relative = [], []
        for base, passage_ids in changed.items():
            ends = (base + ORIGINAL, base + CHANGED)
            known = [id_ for id_ in passage_ids if all((end, id_) in row for end in ends)]
            if known:
                before, after = (values[[row[end, id_] for id_ in known]].mean() for end in ends)
                around_before, around_after = (values[listed[end]].mean() for end in ends)
                moves.append(float(after - before))
                relative.append(float((after - around_after) - (before - around_before)))
        if moves:
            figures |= {f"change/{name}": 100 * fmean(moves), f"relative_change/{name}": 100 * fmean(relative)}
    return figures


def mean_figures(tasks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Plain means over the tasks that have the figure."""
    names = dict.fromkeys(name for figures in tasks for name in figures)
    return {name: fmean(figures[name] for figures in tasks if name in figures) for name in names}


def joined_pairs(query_ids: Sequence[str], parts: Sequence[tuple[list[int], list[str], dict[str, Tensor]]]) -> Pairs:
    """The pairs of all ranks: each gives numbers of queries, ids of passages, and figures."""
    filled = [part for part in parts if part[1]]
    return Pairs(
        [query_ids[number] for numbers, _, _ in filled for number in numbers],
        [id_ for _, ids, _ in filled for id_ in ids],
        {name: torch.cat([figures[name] for *_, figures in filled]) for name in filled[0][2]},
    )
