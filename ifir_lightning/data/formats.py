"""Training tables in the layout of ``samaya-ai/msmarco-w-instructions``: open, check at the door, read rows.

Columns: query_id, only_query, only_instruction, has_instruction, positive_passages, negative_passages (hard
negatives), new_negatives (instruction negatives), and ``query``, which has query and instruction joined. A
passage has docid, text and, where there is one, title. Other columns and fields are not read.
"""

import contextlib
import glob
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.json as paj
from datasets.exceptions import DatasetsError
from pyarrow.dataset import ParquetFragmentScanOptions

from ifir_lightning.data.columns import (
    PASSAGE_COLUMNS,
    REQUIRED_COLUMNS,
    check_columns,
    check_rows,
    flags,
    list_lengths,
)
from ifir_lightning.data.synthetic import training_rows
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage, Row

_log = logging.getLogger(__name__)

Rows = Literal["all", "with_instruction", "without_instruction"]

NUM_SYNTHETIC_ROWS = 20_000
JSONL_BLOCK_BYTES = 16 << 20  # no line may be longer
_ROWS_IN_DIGEST = 1000
_READ_COLUMNS = (*REQUIRED_COLUMNS, "only_query", "query", "teacher_scores")
"""What becomes a ``Row``."""
_PART = 10_000
"""Rows of which texts are read at a time."""
JSONL_FEATURES = datasets.Features(
    {
        **dict.fromkeys(("query_id", "query", "only_query", "only_instruction"), datasets.Value("string")),
        "has_instruction": datasets.Value("bool"),
        **{
            name: datasets.List({field: datasets.Value("string") for field in ("docid", "title", "text")})
            for name in PASSAGE_COLUMNS
        },
        "teacher_scores": datasets.List(datasets.Value("float64")),
    }
)


def open_table(path: str, revision: str | None = None) -> datasets.Dataset:
    """The training table behind a name, memory-mapped: no more of it is in memory than is being read.

    ``path`` is a ``.parquet`` or ``.jsonl`` file, a folder that holds such files at any depth (parquet before
    jsonl; only those named ``train*`` where there are any, else those in folders named so where there are any),
    ``synthetic`` or ``synthetic:NUM_ROWS`` (the instruction world of ``data/synthetic.py``, in memory), or a hub id
    (its split train at ``revision``). Files are converted once, into the cache of ``datasets``.
    """
    if path.split(":")[0] == "synthetic":
        return datasets.Dataset.from_list(list(training_rows(_num_synthetic_rows(path), seed=0)))
    local = Path(path).expanduser()
    if not local.exists():
        return _open_hub(path, revision)
    if revision is not None:
        _log.warning("revision %r is ignored: %s is a local path", revision, path)
    files = _table_files(local)
    with _no_progress_bars(), _readable(path, "intact .parquet or .jsonl files of one layout"):
        return _open_jsonl(files) if files[0].endswith(".jsonl") else _open_parquet(files)


def _num_synthetic_rows(path: str) -> int:
    _, colon, number = path.partition(":")
    if not colon:
        return NUM_SYNTHETIC_ROWS
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"{path!r}: after 'synthetic:' stands a number of rows, at least 1: write synthetic:2000")
    return int(number)


@contextlib.contextmanager
def _readable(path: str, allowed: str) -> Iterator[None]:
    """Whatever the readers raise becomes one line; ``datasets`` hides the cause one level down."""
    try:
        yield
    except (DatasetsError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise InputError(
            f"{path} cannot be read ({reason}): looked for {allowed}: repair it or name another"
        ) from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence for ``datasets``' own bars here only, and only where the environment does not decide it."""
    if datasets.are_progress_bars_disabled() or datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _open_hub(path: str, revision: str | None) -> datasets.Dataset:
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) or path.endswith((".parquet", ".jsonl")):
        raise InputError(
            f"{path}: no such file or folder, and no hub id (owner/name): allowed are a .parquet or .jsonl "
            "file, a folder of such files, a hub id, or synthetic[:NUM_ROWS]: correct the path"
        )
    with _readable(path, "a hub data set with a split train, since there is no such file or folder"):
        return datasets.load_dataset(path, split="train", revision=revision)


def _table_files(local: Path) -> list[str]:
    """The parquet or jsonl files of a path, sorted by name."""
    if local.is_file() and local.suffix in (".parquet", ".jsonl"):
        return [str(local.resolve())]
    for suffix in (".parquet", ".jsonl") if local.is_dir() else ():
        found = [Path(name) for name in sorted(glob.glob(f"**/*{suffix}", root_dir=local, recursive=True))]
        files = [file for file in found if not (local / file).is_dir()]
        named = [file for file in files if file.name.startswith("train")]
        within = [file for file in files if any(part.startswith("train") for part in file.parent.parts)]
        if files:
            return [str(local.resolve() / file) for file in named or within or files]
    raise InputError(
        f"{local}: neither a .parquet or .jsonl file nor a folder that holds some (looked at every depth): "
        "correct the path"
    )


def _open_parquet(files: list[str]) -> datasets.Dataset:
    """Without the buffer of pyarrow, with which the conversion holds a whole file in memory."""
    names, options = [glob.escape(name) for name in files], ParquetFragmentScanOptions(pre_buffer=False)
    return datasets.load_dataset("parquet", data_files=names, split="train", fragment_scan_options=options)


def _open_jsonl(files: list[str]) -> datasets.Dataset:
    """Types are set by the layout, not guessed from the first lines, where a list may happen to be empty."""
    stats = [Path(name).stat() for name in files]
    # So that a changed file is a new entry of the cache.
    stamps = [(stat.st_mtime_ns, stat.st_size) for stat in stats]
    return datasets.Dataset.from_generator(
        _jsonl_records, features=JSONL_FEATURES, gen_kwargs={"files": files, "stamps": stamps}
    )


def _jsonl_records(files: list[str], stamps: list[tuple[int, int]]) -> Iterator[dict]:
    """The lines of the files: columns that a line lacks are null, those outside the layout are dropped."""
    parse = paj.ParseOptions(
        explicit_schema=JSONL_FEATURES.arrow_schema.remove_metadata(), unexpected_field_behavior="ignore"
    )
    for file in files:
        try:
            for batch in paj.open_json(file, paj.ReadOptions(block_size=JSONL_BLOCK_BYTES), parse):
                yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            hint = '; ids are text, "12"' if "from string to number" in str(error) else ""
            raise ValueError(f"{file}: {error}{hint}") from error


def to_row(record: dict) -> Row:
    """A record of the table as a Row.

    Where only_query is missing or empty the query comes from ``query``, less the instruction at its end.
    """
    instruction = (record.get("only_instruction") or "") if record.get("has_instruction") else ""
    scores = record.get("teacher_scores")
    return Row(
        query_id=str(record["query_id"]),
        query=_query(record, instruction),
        instruction=instruction,
        positives=_passages(record["positive_passages"]),
        hard_negatives=_passages(record["negative_passages"]),
        instruction_negatives=_passages(record["new_negatives"]),
        teacher_scores=None if scores is None else tuple(scores),
    )


def _query(record: dict, instruction: str) -> str:
    joined = record.get("query") or ""
    return (record.get("only_query") or "").strip() or joined.removesuffix(instruction).strip() or joined


def _passages(records: list[dict] | None) -> tuple[Passage, ...]:
    return tuple(Passage(str(p["docid"]), p.get("title") or "", p["text"] or "") for p in records or ())


def check_table(table: datasets.Dataset, path: str) -> None:
    """See that a table can be trained on: before training, not in it (``data/columns.py``).

    Raises:
        InputError: It has no rows, lacks columns, or holds what cannot be trained on.
    """
    if not len(table):
        raise InputError(f"{path} has no rows: a training table needs at least one: name another")
    check_columns(_whole(table), path)
    check_rows(_whole(table), path)


def _whole(table: datasets.Dataset) -> pa.Table:
    assert table._indices is None, "whole tables only: a selection would be read as if it were the whole"
    return table.data


def fingerprint(table: datasets.Dataset) -> str:
    """A digest of all query ids in their order, and of everything in 1,000 rows spread over the table.

    Another table, or another version of it, has another, unless it differs in a few rows alone; to read a million rows
    whole takes minutes. However the table lies in row groups and files.
    """
    digest = hashlib.blake2b(digest_size=8)
    for chunk in _whole(table).column("query_id").chunks:
        digest.update("".join(f"{id_}\n" for id_ in chunk.to_pylist()).encode())
    rows = np.unique(np.linspace(0, len(table) - 1, _ROWS_IN_DIGEST).astype(int))
    for record in table.select_columns([name for name in _READ_COLUMNS if name in table.column_names]).select(rows):
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def query_ids(table: datasets.Dataset) -> Iterator[str]:
    """The query_id of each row."""
    for chunk in _whole(table).column("query_id").chunks:
        yield from map(str, chunk.to_pylist())


def query_texts(table: datasets.Dataset, rows: np.ndarray) -> Iterator[str]:
    """The query of each of the rows, without its instruction; a part of the table is in memory at a time."""
    names = [name for name in ("only_query", "query", "only_instruction") if name in table.column_names]
    named = table.select_columns(names)
    for begin in range(0, len(rows), _PART):
        columns = named[rows[begin : begin + _PART].tolist()]
        for values in zip(*columns.values(), strict=True):
            record = dict(zip(names, values, strict=True))
            yield _query(record, record.get("only_instruction") or "")


def has_instruction(table: datasets.Dataset) -> np.ndarray:
    """The has_instruction column [num_rows] as booleans; null counts as False."""
    return flags(_whole(table))


def select_rows(table: datasets.Dataset, rows: Rows) -> np.ndarray:
    """Indices of the rows to train on, in 4 bytes each: every epoch's order has their type."""
    if rows not in get_args(Rows):
        raise InputError(f"data.rows {rows!r}: allowed are {', '.join(get_args(Rows))}: choose one")
    flags = has_instruction(table)
    wanted = {"all": np.ones_like(flags), "with_instruction": flags, "without_instruction": ~flags}[rows]
    if not wanted.any():
        raise InputError(f"data.rows {rows!r} selects none of the {len(flags)} rows: choose all or another table")
    return np.flatnonzero(wanted).astype(np.int32)


def count_negatives(table: datasets.Dataset) -> np.ndarray:
    """Hard and instruction negatives of each row [num_rows]; one that is also a positive is still counted."""
    return list_lengths(_whole(table), "negative_passages") + list_lengths(_whole(table), "new_negatives")
