"""mFollowIR: FollowIR in Persian, Russian and Chinese (arXiv 2501.19264).

Hub layout (``jhu-clsp/mFollowIR-parquet-mteb``, or with English queries
``jhu-clsp/mFollowIR-cross-lingual-parquet-mteb``): FollowIR's v2 layout once per language, its configs named
corpus-fas, queries-fas, instruction-fas, default-fas, qrel_diff-fas and top_ranked-fas; likewise rus and zho.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data.evalset import V2_CONFIGS, task_from_tables
from ifir_lightning.data.tables import read_tables
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import SCALES, Metrics, Qrels, Run, on_scale, p_mrr, trec_values

LANGUAGES = ("fas", "rus", "zho")


@dataclass(frozen=True)
class MFollowIR(RankingTask):
    """One language. ``changed`` are, for every base id, the passages whose relevance changes."""

    candidates: dict[str, tuple[str, ...]]
    qrels: Qrels
    changed: dict[str, tuple[str, ...]]

    benchmark: ClassVar[str] = "mfollowir"
    headline: ClassVar[Mapping[str, str]] = {"p_mrr": "p-MRR", "ndcg_20_b": "nDCG@20 B"}

    def evaluate(self, run: Run) -> Metrics:
        """p-MRR and nDCG@20, x100, the latter on the three scales of ``metrics.py``."""
        result, bases = p_mrr(run, self.changed), list(self.changed)
        values = {scale: trec_values(*on_scale(run, self.qrels, bases, scale), "ndcg_cut_20") for scale in SCALES}
        return {
            "task": self.name,
            "p_mrr": 100 * result.mean,
            **{f"ndcg_20_{scale}": 100 * fmean(each.values()) for scale, each in values.items()},
            "num_queries": len(bases),
            "skipped_queries": len(result.skipped),
        }


def load(language: str, path_or_id: str) -> MFollowIR:
    """Read a language from a folder or the hub; its name is fas, or eng-fas where the queries are English."""
    end = f"-{language}"
    tables = read_tables(path_or_id, {config + end for config in V2_CONFIGS})
    if not tables:
        needed = ", ".join(config + end for config in V2_CONFIGS if config != "qrels")
        raise InputError(f"task {path_or_id!r} has nothing in {language}; needed are {needed}: check the layout")
    name = f"eng-{language}" if "cross-lingual" in path_or_id else language
    task = task_from_tables(name, {config.removesuffix(end): records for config, records in tables.items()})
    return MFollowIR(name, task.queries, task.instructions, task.passages, task.candidates, task.qrels, task.changed)
