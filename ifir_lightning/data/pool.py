"""Passages among which hard negatives are searched: those of a training table, or a corpus of its own."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from ifir_lightning.data.formats import to_row
from ifir_lightning.data.record_files import read_records
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage

ID_COLUMNS = ("docid", "_id", "id")


def table_pool(table: datasets.Dataset, path: str) -> list[Passage]:
    """The distinct positives and hard negatives of a table, in its order.

    Instruction negatives are left out: each was made, or found, for one instruction.
    """
    rows = (to_row(record) for record in table.select_columns([*_NEEDED]))
    return _distinct((passage for row in rows for passage in (*row.positives, *row.hard_negatives)), path)


_NEEDED = ("query_id", "positive_passages", "negative_passages", "new_negatives")


def read_pool(path: str) -> list[Passage]:
    """The distinct passages of a ``.jsonl`` or ``.parquet`` file, or of a folder of them.

    Columns: ``text``, an id (docid, _id or id), and ``title`` where there is one.

    Raises:
        InputError: No such file, no passage, or columns that are missing.
    """
    place = Path(path).expanduser()
    files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file())
    files = [file for file in files if file.suffix in (".jsonl", ".parquet")]
    if not files:
        raise InputError(f"pool {path} is no .jsonl or .parquet file and holds none; allowed is either: correct --pool")
    return _distinct((_passage(record, file) for file in files for record in read_records(file)), path)


def fingerprint_pool(pool: Iterable[Passage]) -> str:
    """A digest of ids and texts, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for passage in pool:
        digest.update(f"{passage.id}\0{passage.title}\0{passage.text}\0".encode())
    return digest.hexdigest()


def _passage(record: dict[str, Any], file: Path) -> Passage:
    id_ = next((record[name] for name in ID_COLUMNS if record.get(name) is not None), None)
    if id_ is None or not isinstance(record.get("text"), str):
        raise InputError(
            f"pool {file}: a record has the columns {', '.join(record)}; needed are text and one of "
            f"{', '.join(ID_COLUMNS)}: rename them"
        )
    return Passage(str(id_), record.get("title") or "", record["text"])


def _distinct(passages: Iterable[Passage], path: str) -> list[Passage]:
    """Of passages with the same title and text the first; of those with the same id as well."""
    kept: dict[tuple[str, str], Passage] = {}
    ids: set[str] = set()
    for passage in passages:
        if passage.id not in ids and (passage.title, passage.text) not in kept and (passage.title or passage.text):
            kept[passage.title, passage.text] = passage
            ids.add(passage.id)
    if not kept:
        raise InputError(f"pool {path} has no passage; allowed is one or more: name another")
    return list(kept.values())
