"""Passages among which hard negatives are searched: those of a training table, or a corpus of its own."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from ifir_lightning.data.formats import to_row
from ifir_lightning.data.record_files import read_records
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage

_log = logging.getLogger(__name__)

ID_COLUMNS = ("docid", "_id", "id")


def table_pool(table: datasets.Dataset, path: str) -> list[Passage]:
    """The distinct positives and hard negatives of a table, in its order.

    Instruction negatives are left out: each was made, or found, for one instruction. Of an id that has several texts
    the first one is in the pool; such ids are counted.
    """
    rows = (to_row(record) for record in table.select_columns([*_NEEDED]))
    pool, ambiguous = _distinct((passage for row in rows for passage in (*row.positives, *row.hard_negatives)), path)
    if ambiguous:
        counted = (path, len(ambiguous), ambiguous[0])
        _log.warning("pool %s: %d ids have more than one text (first %r): the first of each can be found", *counted)
    return pool


_NEEDED = ("query_id", "positive_passages", "negative_passages", "new_negatives")


def read_pool(path: str) -> list[Passage]:
    """The distinct passages of a ``.jsonl`` or ``.parquet`` file, or of a folder of them.

    Columns: ``text``, an id (docid, _id or id), and ``title`` where there is one.

    Raises:
        InputError: No such file, no passage, columns that are missing or of another type, or an id with two texts.
    """
    place = Path(path).expanduser()
    files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file())
    files = [file for file in files if file.suffix in (".jsonl", ".parquet")]
    if not files:
        raise InputError(f"pool {path} is no .jsonl or .parquet file and holds none; allowed is either: correct --pool")
    pool, ambiguous = _distinct((_passage(record, file) for file in files for record in read_records(file)), path)
    if ambiguous:
        raise InputError(
            f"pool {path}: {len(ambiguous)} ids have more than one text (first {ambiguous[0]!r}); allowed is one: "
            "give every passage an id of its own"
        )
    return pool


def fingerprint_pool(pool: Iterable[Passage]) -> str:
    """A digest of ids and texts, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for passage in pool:
        digest.update(f"{passage.id}\0{passage.title}\0{passage.text}\0".encode())
    return digest.hexdigest()


def _passage(record: dict[str, Any], file: Path) -> Passage:
    id_ = next((record[name] for name in ID_COLUMNS if record.get(name) is not None), None)
    title, text = record.get("title"), record.get("text")
    if not (isinstance(id_, str | int) and isinstance(text, str)):
        raise InputError(
            f"pool {file}: a record has the columns {', '.join(record)}; needed are text, a string, and one of "
            f"{', '.join(ID_COLUMNS)}, a string or whole number: rename or correct them"
        )
    if not isinstance(title, str | None):
        raise InputError(f"pool {file}: {id_!r} has title {title!r:.60}; allowed are a string and null: correct it")
    return Passage(str(id_), title or "", text)


def _distinct(passages: Iterable[Passage], path: str) -> tuple[list[Passage], list[str]]:
    """Of passages with the same title and text the first, and the ids that have more than one.

    What is left out otherwise, the same text under another id and passages without text, is counted.
    """
    kept: dict[tuple[str, str], Passage] = {}
    by_id: dict[str, tuple[str, str]] = {}
    ambiguous, twins, empty = (dict[str, None]() for _ in range(3))
    for passage in passages:
        text = passage.title, passage.text
        if by_id.setdefault(passage.id, text) != text:
            ambiguous[passage.id] = None
        elif not (passage.title.strip() or passage.text.strip()):
            empty[passage.id] = None
        elif kept.setdefault(text, passage).id != passage.id:
            twins[passage.id] = None
    if not kept:
        raise InputError(f"pool {path} has no passage; allowed is one or more: name another")
    if twins or empty:
        counted = (path, len(twins), len(empty))
        _log.info("pool %s: left out are %d ids with a text that another has, and %d without text", *counted)
    return list(kept.values()), list(ambiguous)
