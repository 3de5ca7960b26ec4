"""The command ``explain``: why passages of one query move when its instruction changes."""

from rich.console import Console

from ifir_lightning.benchmarks.mfollowir import MFollowIR
from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.commands.places import output_file, usable_device
from ifir_lightning.data.evalset import Task
from ifir_lightning.errors import InputError
from ifir_lightning.explanation.explain import explain_passages
from ifir_lightning.explanation.page import write_page
from ifir_lightning.explanation.picture import draw_changes
from ifir_lightning.metrics import CHANGED, ORIGINAL, Run, rank_change, ranks
from ifir_lightning.reranking import Reranker
from ifir_lightning.retriever import load_retriever

NUM_PASSAGES = 3
"""Passages explained where none is named."""


def explain(
    checkpoint: str,
    task: str,
    query: str,
    passage: tuple[str, ...] = (),
    output: str = "explain.html",
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> None:
    """Write an HTML file, and a picture beside it.

    Args:
        checkpoint: A run folder, a .ckpt file, or any folder or hub id that model.checkpoint takes.
        task: A task of FollowIR, or mfollowir-fas:PATH.
        query: The base id, e.g. 310 for 310-og and 310-changed.
        passage: Ids of candidates of the query; by default the three whose rank changes most, on p-MRR's scale.
        output: The HTML file; the picture has the same name and ends in .png.
        trust_remote_code: Allow the checkpoint to run code of its own.
        device: Where to compute, e.g. cuda.
    """
    loaded = _with_changes(task)
    candidates = _check(loaded, query, passage)
    page = output_file(output, ".html", ".htm")
    retriever = load_retriever(checkpoint, device=usable_device(device), trust_remote_code=trust_remote_code)
    ids = (query + ORIGINAL, query + CHANGED)
    queries = {id_: (loaded.queries[id_], loaded.instructions[id_]) for id_ in ids}
    run, _ = Reranker(retriever)(queries, loaded.passages, dict.fromkeys(ids, candidates))
    chosen = passage or _most_moved(run, ids)
    both = (queries[ids[0]], queries[ids[1]])
    explained = explain_passages(
        retriever,
        both,
        [loaded.passages[id_] for id_ in chosen],
        (run[ids[0]], run[ids[1]]),
        loaded.changed[query],
    )
    title = f"{loaded.name}, query {query}"
    write_page(page, title, checkpoint, both, explained)
    draw_changes(page.with_suffix(".png"), title, explained)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for each in explained:
        console.print(f"{each.passage.id}: rank {each.ranks[0]} -> {each.ranks[1]}, score {_change(each.scores)}")
    console.print(f"wrote {page} and {page.with_suffix('.png')}")


def _with_changes(task: str) -> Task | MFollowIR:
    loaded = named_task(task)
    if not isinstance(loaded, Task | MFollowIR):
        raise InputError(
            f"task {task!r} ({loaded.benchmark}) has no changed instructions; allowed are tasks of FollowIR and "
            "mFollowIR: name one of these"
        )
    return loaded


def _check(task: Task | MFollowIR, query: str, passages: tuple[str, ...]) -> tuple[str, ...]:
    """The candidates of the query under either instruction."""
    if query not in task.changed:
        raise InputError(f"query {query!r} is not in {task.name}; allowed are {_some(tuple(task.changed))}: choose one")
    candidates = tuple(dict.fromkeys(task.candidates[query + ORIGINAL] + task.candidates[query + CHANGED]))
    if unknown := [id_ for id_ in passages if id_ not in candidates]:
        raise InputError(
            f"passage {unknown[0]!r} is no candidate of query {query!r}; allowed are {_some(candidates)}: choose some"
        )
    return candidates


def _some(ids: tuple[str, ...], limit: int = 20) -> str:
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def _most_moved(run: Run, ids: tuple[str, str]) -> tuple[str, ...]:
    original, changed = ranks(run[ids[0]]), ranks(run[ids[1]])
    by_change = sorted(original, key=lambda id_: (-abs(rank_change(original[id_], changed[id_])), original[id_]))
    return tuple(by_change[:NUM_PASSAGES])


def _change(scores: tuple[float, float]) -> str:
    return f"{scores[0]:.4f} -> {scores[1]:.4f} ({scores[1] - scores[0]:+.4f})"
