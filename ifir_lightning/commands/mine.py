"""The command ``mine``: a training table whose hard negatives a retriever found."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from ifir_lightning import durable
from ifir_lightning.commands.places import output_folder, usable_device
from ifir_lightning.data import formats
from ifir_lightning.data.pool import fingerprint_pool, read_pool, table_pool
from ifir_lightning.data.teacher_cache import fingerprint
from ifir_lightning.errors import InputError
from ifir_lightning.mining import STATE, Choice, Miner, check_pool
from ifir_lightning.records import Passage
from ifir_lightning.retriever import Retriever, load_retriever
from ifir_lightning.teachers import retriever_identity
from ifir_lightning.text_format import TextSettings

_log = logging.getLogger(__name__)

MANIFEST, TABLE = "mining.json", "train.parquet"
_COLUMN = "negative_passages"
_PASSAGES = pa.list_(pa.struct([("docid", pa.string()), ("text", pa.string()), ("title", pa.string())]))
_ROWS_PER_GROUP = 10_000


def mine(
    checkpoint: str,
    data: str,
    output: str,
    pool: str | None = None,
    choice: Choice = Choice(),  # noqa: B008  (frozen)
    text: TextSettings = TextSettings(),  # noqa: B008
    max_tokens: int = 16384,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write the table anew with mined hard negatives; started again, it continues where it was interrupted.

    Args:
        checkpoint: the retriever: a run folder, a .ckpt file, or any folder or hub id that model.checkpoint takes.
        data: the training table, as data.path of a recipe. All but its hard negatives stays as it is.
        output: folder of the new table: new, or one that the same command began.
        pool: a .jsonl or .parquet file, or a folder of them, with docid (or _id, id), text and, if you like, title; by
            default the positives and hard negatives of the table.
        choice: ranks and margins.
        text: limits of texts, prefixes and what else the checkpoint says otherwise.
        max_tokens: tokens encoded at a time.
        device: where it computes, e.g. cuda:1; by default a GPU if there is one.
        trust_remote_code: allow the checkpoint to run code of its own.
    """
    folder, place = output_folder(output), usable_device(device)
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; allowed is 1 or more: raise it")
    table = formats.open_table(data)
    formats.check_table(table, data)
    passages = table_pool(table, data) if pool is None else read_pool(pool)
    check_pool(passages, choice)
    retriever = load_retriever(checkpoint, text=text, device=place, trust_remote_code=trust_remote_code)
    _begin(folder, _identity(checkpoint, retriever, table, passages, choice))
    if not (folder / TABLE).exists():
        without = table.remove_columns([_COLUMN])  # which nobody reads, and which would fill the memory
        rows = [formats.to_row({**record, _COLUMN: None}) for record in without]
        negatives = Miner(retriever, passages, choice, max_tokens)(rows, folder)
        _write_table(table, negatives, folder / TABLE)
        _report(negatives, choice)
    (folder / STATE).unlink(missing_ok=True)
    Console(soft_wrap=True, markup=False).print(f"wrote {output}; train with --data.path {quote(output)}")


def _identity(
    checkpoint: str, retriever: Retriever, table: datasets.Dataset, pool: Sequence[Passage], choice: Choice
) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint,
        "data": fingerprint(table),
        "pool": fingerprint_pool(pool),
        **asdict(choice),
        **retriever_identity(retriever),
    }


def _begin(folder: Path, identity: dict[str, Any]) -> None:
    """Write what is going to be mined, or see that the folder holds the same."""
    if durable.is_new(folder):
        durable.clear(folder)
        durable.write_text(folder / MANIFEST, json.dumps(identity, indent=2) + "\n")
        return
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds something else (no readable {MANIFEST}); allowed is a new or empty folder, or one that "
            "mine began: name another --output"
        ) from error
    for name, value in identity.items():
        if written.get(name) != value:
            raise InputError(
                f"{folder} was mined with {name} {written.get(name)!r}, now it is {value!r}; allowed is to continue "
                "the same: name another --output, or remove the folder"
            )
    durable.clear(folder)


def _write_table(table: datasets.Dataset, negatives: Sequence[Sequence[Passage]], path: Path) -> None:
    """The table with other hard negatives, and without teacher scores, which would be those of the old ones."""
    bare = table.remove_columns([name for name in ("teacher_scores",) if name in table.column_names])
    partial = durable.partial_of(path)
    with pq.ParquetWriter(partial, _replaced(bare.data.table.slice(0, 0), []).schema) as file:
        for part, own in _parts(bare, negatives):
            file.write_table(_replaced(part, own))
    durable.flush(partial)
    durable.commit(path)


def _parts(table: datasets.Dataset, negatives: Sequence[Sequence[Passage]]) -> Iterator[tuple[pa.Table, Any]]:
    for start in range(0, len(table), _ROWS_PER_GROUP):
        yield table.data.table.slice(start, _ROWS_PER_GROUP), negatives[start : start + _ROWS_PER_GROUP]


def _replaced(part: pa.Table, negatives: Sequence[Sequence[Passage]]) -> pa.Table:
    records = [[{"docid": p.id, "text": p.text, "title": p.title} for p in own] for own in negatives]
    number = part.schema.get_field_index(_COLUMN)
    return part.set_column(number, _COLUMN, pa.array(records, _PASSAGES)).replace_schema_metadata(None)


def _report(negatives: Sequence[Sequence[Passage]], choice: Choice) -> None:
    counts = [len(own) for own in negatives]
    _log.info("%.1f hard negatives a row (%d to %d)", sum(counts) / len(counts), min(counts), max(counts))
    if bare := counts.count(0):
        _log.warning(
            "%d of %d rows have no hard negative left: within ranks %d to %d all others score too high; lower the "
            "margins, raise choice.rank_to, or train on rows that have some",
            bare,
            len(counts),
            choice.rank_from,
            choice.rank_to,
        )
