"""InfoSearch: a query asked without a condition, with it, and with its reverse (arXiv 2410.23841).

Hub layout (``jianqunZ/Audience-v1`` and its five sisters): configs corpus (_id or id, title, text), queries (_id, text,
instruction_og, instruction_changed, instruction_reversed) and qrels_og, qrels_changed, qrels_reversed (query-id,
corpus-id, score). Each of the three runs ranks the whole corpus.

A gold passage of a query is relevant with and without the condition. R_ori, R_ins and R_rev are its ranks when the
query is asked originally, with the instruction and with the reversed one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean
from typing import ClassVar

from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data.source import Source
from ifir_lightning.data.tables import read_tables, task_name
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Metrics, Qrels, Run, ranks, refuse_nan, trec_values

ORIGINAL, INSTRUCTED, REVERSED = "-og", "-changed", "-reversed"
RUNS = {ORIGINAL: "original", INSTRUCTED: "instructed", REVERSED: "reversed"}
CONFIGS = ("corpus", "queries", "qrels_og", "qrels_changed", "qrels_reversed")
K = 20
"""Down to this original rank, a gain of ranks is rewarded by its size."""


@dataclass(frozen=True)
class InfoSearch(RankingTask):
    """Queries BASE-og, BASE-changed and BASE-reversed. ``qrels`` has a key for each."""

    qrels: Qrels

    benchmark: ClassVar[str] = "infosearch"
    headline: ClassVar[Mapping[str, str]] = {"wise": "WISE", "sicr": "SICR", "ndcg_10_instructed": "nDCG@10 instructed"}
    depth: ClassVar[int] = 2**31
    """All of them: a gold passage may stand anywhere."""

    def evaluate(self, run: Run) -> Metrics:
        """WISE and SICR: means over the gold passages of a query, then over queries; nDCG@10 of each of the runs.

        A query of which a run is missing is skipped in WISE and SICR (and counted); one without a gold passage drops
        out.
        """
        refuse_nan(run)
        bases = [query_id.removesuffix(ORIGINAL) for query_id in self.queries if query_id.endswith(ORIGINAL)]
        golds = {base: gold for base in bases if (gold := self._gold(base))}
        usable = {base: gold for base, gold in golds.items() if all(run.get(base + end) for end in RUNS)}
        if not usable:
            raise InputError(
                f"{self.name}: WISE and SICR have no usable query: the run lacks one of {', '.join(RUNS)} of each; its "
                f"first query id is {next(iter(run), 'none')!r}: check that the run is of this task"
            )
        values = [self._query(run, base, gold) for base, gold in usable.items()]
        return {
            "task": self.name,
            "wise": 100 * fmean(wise for wise, _ in values),
            "sicr": 100 * fmean(sicr for _, sicr in values),
            **{f"ndcg_10_{name}": 100 * self._ndcg(run, end) for end, name in RUNS.items()},
            "num_queries": len(usable),
            "skipped_queries": len(golds) - len(usable),
        }

    def _gold(self, base: str) -> list[str]:
        return [id_ for id_, grade in self.qrels[base + ORIGINAL].items() if grade > 0 and self._satisfies(base, id_)]

    def _satisfies(self, base: str, passage_id: str) -> bool:
        return self.qrels[base + INSTRUCTED].get(passage_id, 0) > 0

    def _query(self, run: Run, base: str, gold: list[str]) -> tuple[float, float]:
        """WISE and SICR of one query."""
        num_relevant = sum(grade > 0 for grade in self.qrels[base + ORIGINAL].values())
        scores = [run[base + end] for end in RUNS]
        rankings = [ranks(each) for each in scores]
        wises, sicrs = [], []
        for id_ in gold:
            places = [ranking.get(id_, len(ranking) + 1) for ranking in rankings]
            wises.append(wise(places[0], places[1], places[2], num_relevant))
            sicrs.append(complies(places, [each.get(id_, -inf) for each in scores]))
        return fmean(wises), fmean(sicrs)

    def _ndcg(self, run: Run, end: str) -> float:
        """Mean over the queries that are judged for this run."""
        qrels = {query_id: grades for query_id, grades in self.qrels.items() if grades and query_id.endswith(end)}
        return fmean(trec_values(run, qrels, "ndcg_cut_10").values())


def wise(original: int, instructed: int, reversed_: int, num_relevant: int) -> float:
    """Weighted Instruction Sensitivity Evaluation of one gold passage, in [-1, 1], from its three ranks.

    Reward where R_ins <= R_ori < R_rev: 1 if R_ori <= N and R_ins = 1 (N: passages relevant to the original query),
    else (1 - sqrt(R_ori - R_ins) / K) / sqrt(R_ins) if R_ori <= K, else 0.01. Penalty otherwise, the first that
    applies: -1 if R_rev < R_ori < R_ins; (R_ori - R_ins) / R_ins if R_ori <= R_ins; (R_rev - R_ori) / R_ori.

    The code that the authors published differs: no square root over the gain, R_ori < N, and a -1 that no ranks reach.
    """
    if instructed <= original < reversed_:
        if original <= num_relevant and instructed == 1:
            return 1.0
        return (1 - sqrt(original - instructed) / K) / sqrt(instructed) if original <= K else 0.01
    if reversed_ < original < instructed:
        return -1.0
    if original <= instructed:
        return (original - instructed) / instructed
    return (reversed_ - original) / original


def complies(places: list[int], scores: list[float]) -> bool:
    """Whether a gold passage counts in SICR, the Strict Instruction Compliance Ratio.

    R_ins < R_ori < R_rev, and the scores ordered likewise; original, instructed, reversed. The code that the authors
    published also counts one that stays at rank 1; by the definition a passage at rank 1 cannot comply.
    """
    return places[1] < places[0] < places[2] and scores[1] > scores[0] > scores[2]


def load(path_or_id: str) -> InfoSearch:
    """Read one of the six attributes from a folder or the hub; a query that ``qrels_og`` lacks is left out, as by the
    authors.
    """
    name = task_name(path_or_id)
    source = Source(name, read_tables(path_or_id, CONFIGS), CONFIGS)
    judged = {end: source.qrels(f"qrels_{end[1:]}") for end in RUNS}
    asked = source.texts("queries", "_id", "text")
    texts = {base: text for base, text in asked.items() if base in judged[ORIGINAL]}
    task = InfoSearch(name, {}, {}, source.corpus(), None, {})
    for end in RUNS:
        instructions = source.texts("queries", "_id", f"instruction_{end[1:]}")
        source.check_judged(judged[end], texts, task.passages)
        for base, text in texts.items():
            task.queries[base + end], task.instructions[base + end] = text, instructions[base]
            task.qrels[base + end] = judged[end].get(base, {})
    return task
