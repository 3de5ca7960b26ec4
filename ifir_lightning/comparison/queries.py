"""The queries on which a recipe gains or loses most against another, and the passages that moved."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ifir_lightning.comparison.results import Values
from ifir_lightning.comparison.run_folders import query_order
from ifir_lightning.data.evalset import Task
from ifir_lightning.metrics import CHANGED, ORIGINAL, Run, rank_change, ranks

MAX_PASSAGES = 3
MAX_CHARACTERS = 240


class QueryTable:
    """Looks up, for every query, what one or two recipes made of it.

    Args:
        tasks: The tasks.
        values: Of each recipe, per task, metric and query (means over seeds).
        runs: Of each recipe, per task, the run of each seed.
    """

    def __init__(
        self, tasks: Sequence[Task], values: Sequence[Values], runs: Sequence[Mapping[str, Sequence[Run]]]
    ) -> None:
        self.tasks, self.values, self.runs = tasks, values, runs

    def extremes(self, recipes: Sequence[int], num_queries: int) -> dict[str, list[dict[str, Any]]]:
        """The largest gains and losses in p-MRR of the first recipe against the second, as plain data.

        Of one recipe alone: its highest and lowest p-MRR.
        """
        scored = []
        for task in self.tasks:
            for index, base in enumerate(query_order(task, "p_mrr")):
                own = [float(self.values[recipe][task.name]["p_mrr"][index]) for recipe in recipes]
                scored.append((own[0] - own[1] if len(own) == 2 else own[0], own, task, base))
        scored.sort(key=lambda entry: -entry[0])
        best, worst = scored[:num_queries], scored[::-1][:num_queries]
        return {
            "gains": [self._entry(recipes, *entry) for entry in best if entry[0] > 0],
            "losses": [self._entry(recipes, *entry) for entry in worst if entry[0] < 0],
        }

    def _entry(
        self, recipes: Sequence[int], difference: float, p_mrrs: list[float], task: Task, base: str
    ) -> dict[str, Any]:
        position = query_order(task, "score_b").index(base)
        return {
            "task": task.name,
            "query_id": base,
            "query": task.queries[base + ORIGINAL],
            "original_instruction": task.instructions[base + ORIGINAL],
            "changed_instruction": task.instructions[base + CHANGED],
            "difference": difference,
            "p_mrr": p_mrrs,
            "score_b": [float(self.values[recipe][task.name]["score_b"][position]) for recipe in recipes],
            "num_changed_passages": len(task.changed[base]),
            "passages": self._passages(recipes, task, base),
        }

    def _passages(self, recipes: Sequence[int], task: Task, base: str) -> list[dict[str, Any]]:
        """Of the passages whose relevance changed, those with the largest share in the difference."""
        moves = [[_ranks_of(run, base) for run in self.runs[recipe][task.name]] for recipe in recipes]
        found = []
        for doc_id in task.changed[base]:
            per_seed = [[(original(doc_id), changed(doc_id)) for original, changed in seeds] for seeds in moves]
            shares = [fmean(rank_change(*pair) for pair in seeds) for seeds in per_seed]
            passage = task.passages.get(doc_id)
            text = f"{passage.title} {passage.text}".strip() if passage else ""
            entry = {
                "passage_id": doc_id,
                "text": text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + " ...",
                "ranks": [[fmean(pair[i] for pair in seeds) for i in (0, 1)] for seeds in per_seed],
            }
            found.append((abs(shares[0] - shares[1]) if len(shares) == 2 else abs(shares[0]), entry))
        found.sort(key=lambda pair: -pair[0])
        return [entry for _, entry in found[:MAX_PASSAGES]]


def _ranks_of(run: Run, base: str) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """Under the original and the changed instruction, the rank of a passage (after the last where it is missing)."""
    return _lookup(ranks(run[base + ORIGINAL])), _lookup(ranks(run[base + CHANGED]))


def _lookup(found: Mapping[str, int]) -> Callable[[str], int]:
    return lambda doc_id: found.get(doc_id, len(found) + 1)
