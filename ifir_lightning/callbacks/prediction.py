"""TrecPrediction: what ``predict`` writes."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console

from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.commands.places import output_file
from ifir_lightning.data.record_files import read_records
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import ranks
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Passage
from ifir_lightning.search import run_task, search
from ifir_lightning.trec import write_run


class TrecPrediction(Callback):
    """Ranks the candidates of a task, or every passage of a file for every query of another; writes a TREC run.

    Args:
        task: A task as ``followir.tasks`` names it: folder, hub id, ``synthetic/NAME`` or ``BENCHMARK:PATH``.
        queries: Instead of a task: a ``.jsonl`` file, one ``{"_id": ..., "text": ..., "instruction": ...}`` a line
            (the instruction may be missing).
        passages: With ``queries``: a ``.jsonl`` file, one ``{"_id": ..., "title": ..., "text": ...}`` a line (the
            title may be missing).
        output: The run file to write; one that is there is replaced.
        top_k: Passages kept for each query.
    """

    def __init__(
        self,
        task: str | None = None,
        queries: str | None = None,
        passages: str | None = None,
        output: str = "run.trec",
        top_k: int = 1000,
    ) -> None:
        if (task is None) == (queries is None) or (queries is None) != (passages is None):
            raise InputError(
                f"predict got task {task!r}, queries {queries!r}, passages {passages!r}; allowed is a task, or "
                "queries and passages: give --task, or --queries and --passages"
            )
        if top_k < 1:
            raise InputError(f"predict got top_k {top_k}; allowed is 1 or more: raise --top_k")
        self.output, self.top_k = output_file(output), top_k
        self.task = None if task is None else named_task(task)
        if queries is not None and passages is not None:
            self.queries = {id_: (r["text"], r.get("instruction") or "") for id_, r in _records(queries).items()}
            self.passages = {
                id_: Passage(id_, r.get("title") or "", r["text"]) for id_, r in _records(passages).items()
            }

    def on_predict_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Rank and write."""
        assert isinstance(module, RetrieverModule)
        with trainer.precision_plugin.forward_context():
            if self.task is not None:
                run, cut = run_task(module.retriever, self.task, depth=self.top_k)
            else:
                run, cut = search(module.retriever, self.queries, self.passages, self.top_k)
        kept = {
            query_id: {id_: scores[id_] for id_ in list(ranks(scores))[: self.top_k]}
            for query_id, scores in run.items()
        }
        if trainer.is_global_zero:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            done = "replaced" if self.output.exists() else "wrote"
            write_run(self.output, kept, tag="ifir_lightning")
            Console(soft_wrap=True, markup=False).print(
                f"{done} {self.output}: {len(kept)} queries, {sum(map(len, kept.values()))} lines; "
                f"{100 * cut:.1f}% of the passage tokens lay beyond the limit"
            )


def _records(path: str) -> dict[str, dict[str, Any]]:
    """The objects of a .jsonl file by ``_id``: each has a text, and title and instruction are texts too, if any."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; allowed is a .jsonl file with _id and text: check the path")
    records: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(read_records(Path(path), ".jsonl"), start=1):
        if fault := _fault(record):
            raise InputError(f"{path}: object {number} {fault}")
        id_ = str(record["_id"])
        if id_ in records:
            raise InputError(f"{path}: object {number} has the _id {id_!r} again; allowed is once: rename one")
        records[id_] = record
    if not records:
        raise InputError(f"{path}: the file is empty; allowed is one JSON object a line: check the path")
    return records


def _fault(record: dict[str, Any]) -> str:
    """What keeps a record from being ranked; "" if nothing does."""
    for name in ("text", "title", "instruction"):
        if not isinstance(record.get(name), str | None):
            return f"has {name} {record[name]!r:.60}; allowed is a string: correct it"
    id_ = record.get("_id")
    if id_ is None or not (record.get("text") or "").strip():
        return "lacks _id or text; both are needed: add them"
    if not isinstance(id_, str | int) or str(id_).split() != [str(id_)]:
        return f"has the _id {id_!r:.60}; allowed are whole numbers and names without white space: rename it"
    return ""
