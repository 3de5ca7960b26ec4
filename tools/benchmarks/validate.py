"""One library's FollowIR validation, measured in a process of its own: validate.py SIDE MODEL TASK RUN THREADS

SIDE is ours or mteb, which evaluates through its PyLate wrapper at its default batch size of 32. Counted is the way
from texts in memory to scores: tokenising, encoding, scoring. Not counted: imports, loading the model and the task,
metrics. Writes the run to the file RUN and prints one line of JSON: CPU and wall seconds, and the peak memory of the
whole process.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Run = dict[str, dict[str, float]]


class Stopwatch:
    """Calls a function and remembers what it took and returned."""

    def __init__(self, search: Callable[..., Run]) -> None:
        self.search = search
        self.seconds: dict[str, float] = {}
        self.run: Run = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Run:
        cpu, wall = time.process_time(), time.perf_counter()
        self.run = self.search(*args, **kwargs)
        self.seconds = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        return self.run


def ours(model: str, folder: str) -> Stopwatch:
    from ifir_lightning.data.evalset import load_task
    from ifir_lightning.reranking import Reranker
    from ifir_lightning.retriever import load_retriever

    task, rerank = load_task(folder), Reranker(load_retriever(model))
    queries = {id_: (text, task.instructions[id_]) for id_, text in task.queries.items()}
    search = Stopwatch(lambda: rerank(queries, task.passages, task.candidates)[0])
    search()
    return search


def mteb(model: str, folder: str) -> Stopwatch:
    import mteb
    from mteb_evaluate import load, local_task

    wrapped = load(model, "pylate", "cpu")
    wrapped.search = search = Stopwatch(wrapped.search)
    mteb.evaluate(wrapped, local_task(Path(folder)), cache=None, show_progress_bar=False)
    return search


def main(side: str, model: str, task: str, run: str, threads: int) -> None:
    torch.set_num_threads(threads)
    done = {"ours": ours, "mteb": mteb}[side](model, task)
    Path(run).write_text(json.dumps(done.run), encoding="utf-8")
    print(json.dumps(done.seconds | {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


if __name__ == "__main__":
    main(*sys.argv[1:5], threads=int(sys.argv[5]))
