"""TrecPrediction: what ``predict`` writes."""

import json
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from rich.console import Console

from ifir_lightning.benchmarks.names import named_task
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
        output: The run file to write.
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
        self.output, self.top_k = Path(output), top_k
        self.task = None if task is None else named_task(task)
        if queries is not None and passages is not None:
            self.queries = {r["_id"]: (r["text"], r.get("instruction") or "") for r in _records(queries)}
            self.passages = {r["_id"]: Passage(r["_id"], r.get("title") or "", r["text"]) for r in _records(passages)}

    def on_predict_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Rank and write."""
        assert isinstance(module, RetrieverModule)
        with trainer.precision_plugin.forward_context():
            if self.task is not None:
                run, cut = run_task(module.retriever, self.task)
            else:
                run, cut = search(module.retriever, self.queries, self.passages, self.top_k)
        kept = {
            query_id: {id_: scores[id_] for id_ in list(ranks(scores))[: self.top_k]}
            for query_id, scores in run.items()
        }
        if trainer.is_global_zero:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            write_run(self.output, kept, tag="ifir_lightning")
            Console().print(
                f"wrote {self.output}: {len(kept)} queries, {sum(map(len, kept.values()))} lines; "
                f"{100 * cut:.1f}% of the passage tokens lay beyond the limit"
            )


def _records(path: str) -> list[dict[str, str]]:
    """The objects of a .jsonl file, each with the keys _id and text."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: no such file; allowed is a .jsonl file with _id and text: check the path")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); allowed is UTF-8 text: convert the file") from error
    records = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line, f"{path}:{number}")
        if record["_id"] in seen:
            raise InputError(f"{path}:{number}: _id {record['_id']!r} occurs twice; allowed is once: rename one")
        seen.add(record["_id"])
        records.append(record)
    if not records:
        raise InputError(f"{path}: the file is empty; allowed is one JSON object a line: check the path")
    return records


def _record(line: str, place: str) -> dict[str, str]:
    try:
        record = dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}: {line[:60]!r} is no JSON object: write one object a line") from error
    if not record.get("_id") or not str(record.get("text") or "").strip():
        raise InputError(f"{place}: {line[:60]!r} lacks _id or text; both are needed: add them")
    if str(record["_id"]).split() != [str(record["_id"])]:
        raise InputError(f"{place}: _id {record['_id']!r} holds white space, which a run file cannot: rename it")
    return {key: str(value) for key, value in record.items() if value is not None}
