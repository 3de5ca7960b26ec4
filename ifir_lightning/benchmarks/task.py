"""RankingTask: what a benchmark's task is, whatever it measures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from ifir_lightning.metrics import Metrics, Run
from ifir_lightning.records import Passage


@dataclass(frozen=True)
class RankingTask(ABC):
    """What to encode, what to score, and the way from a run to numbers.

    A benchmark of your own is a subclass with ``benchmark``, ``headline`` and ``evaluate``, and a function from a
    path to it (``benchmarks/instructir.py`` is a short example).

    Attributes:
        name: Distinct among the tasks of a benchmark; metrics and files carry it.
        queries: id -> text.
        instructions: id -> instruction, for every query; "" for none. A model reads text + " " + instruction.
        passages: id -> passage.
        candidates: The passages to score for each query; None for all passages, of which the best ``depth`` are kept.
    """

    name: str
    queries: dict[str, str]
    instructions: dict[str, str]
    passages: dict[str, Passage]
    candidates: dict[str, tuple[str, ...]] | None

    benchmark: ClassVar[str]
    """Where its metrics and runs are found: ``<benchmark>/<name>/<metric>`` in loggers, ``<benchmark>/`` in a run."""
    headline: ClassVar[Mapping[str, str]]
    """Metric -> label of those that tables show, and whose mean over tasks is logged as ``<benchmark>/<metric>``."""
    depth: ClassVar[int] = 100
    """Passages that a search through all of them keeps for each query: more than the metrics look at."""

    @abstractmethod
    def evaluate(self, run: Run) -> Metrics:
        """The task's name as ``task``, then its metrics as floats, x100, and counts as integers."""


def mean_metrics(headline: Mapping[str, str], results: Sequence[Metrics]) -> dict[str, float]:
    """The plain means over the tasks of one benchmark: the benchmark's values."""
    return {key: fmean(float(metrics[key]) for metrics in results) for key in headline}
