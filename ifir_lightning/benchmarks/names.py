"""The names by which a recipe and the command line ask for tasks."""

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from ifir_lightning.benchmarks import infosearch, instructir, mfollowir, retrieval
from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.data.evalset import load_task
from ifir_lightning.errors import InputError
from ifir_lightning.plugins import VARIABLE, is_plugin

BENCHMARKS: dict[str, Callable[[str], RankingTask]] = {
    "followir": load_task,
    "instructir": instructir.load,
    "instructir-instruction-first": instructir.load_instruction_first,
    "infosearch": infosearch.load,
    **{f"mfollowir-{language}": partial(mfollowir.load, language) for language in mfollowir.LANGUAGES},
    "beir": retrieval.load,
}
NAMED = re.compile(r"(?P<name>\w[\w.-]*):(?P<path>.*)")


def named_task(task: str) -> RankingTask:
    """The task ``NAME:PATH``, where PATH is a folder or hub id; without ``NAME:`` it is one of FollowIR.

    NAME is one of ``BENCHMARKS`` or the dotted name of a function, path -> RankingTask, in a package that
    the environment allows (``ifir_lightning.plugins``).

    Raises:
        InputError: An unknown name, what the reader of that benchmark refuses, a function that makes no task, or ids
            that no run file can hold.
    """
    named = NAMED.fullmatch(task)
    if named is None:
        if is_plugin(task) and not Path(task).exists():
            raise InputError(
                f"task {task!r} has no path; allowed is module.function:PATH: add :PATH, where its data are"
            )
        return load_task(task)
    name, path = named["name"], named["path"]
    return BENCHMARKS[name](path) if name in BENCHMARKS else _checked(_own(name)(path), task)


def _checked(own: RankingTask, task: str) -> RankingTask:
    """The readers of published layouts look at ids themselves."""
    if not isinstance(own, RankingTask):
        raise InputError(f"task {task!r}: its function returned {own!r}; allowed is a RankingTask: return one")
    for id_ in (*own.queries, *own.passages):
        if id_.split() != [id_]:
            raise InputError(
                f"task {task!r} has the id {id_!r}; runs are TREC files, so allowed are ids without spaces, not empty: "
                "rename it"
            )
    return own


def _own(name: str) -> Callable[[str], RankingTask]:
    """The function ``module.function``."""
    module, _, function = name.rpartition(".")
    try:
        if not is_plugin(name):
            raise ImportError(f"it is in no package that {VARIABLE} names")
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"no benchmark is called {name!r} ({error}); allowed are {', '.join(BENCHMARKS)} and functions "
            f"module.function in packages that {VARIABLE} names, in front of :PATH: correct the name, or set {VARIABLE}"
        ) from error
