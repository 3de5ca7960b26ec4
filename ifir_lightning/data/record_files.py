"""Records from a file: parquet, JSON lines, or BEIR's tab-separated qrels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ifir_lightning.errors import InputError, reason

Records = list[dict[str, Any]]


def read_records(file: Path, kind: str | None = None) -> Records:
    """The records of a file of a ``kind`` in ``READERS``, by default what its name ends in.

    Text that no tokenizer or file could take, half a character written as ``"\\ud800"``, is refused here.

    Raises:
        InputError: What cannot be read, and where.
    """
    kind = kind or file.suffix
    try:
        return READERS[kind](file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{file}: {reason(error)}; allowed are intact {kind} files: correct it") from error


def _read_json_lines(file: Path) -> Records:
    with open(file, encoding="utf-8-sig", newline="\n") as lines:
        return [_json_object(line, number) for number, line in enumerate(lines, start=1) if not line.isspace()]


def _json_object(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if "\\ud" in line or "\\uD" in line:
            json.dumps(record, ensure_ascii=False).encode()
    except ValueError as error:
        raise ValueError(f"line {number} is not one JSON object in Unicode ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"line {number} is no JSON object: {line.strip()!r:.60}")
    return record


def _read_qrels(file: Path) -> Records:
    """BEIR's: a header, then values between tabs. A quote is a character like any other."""
    header, *lines = (line.rstrip("\r").split("\t") for line in file.read_text(encoding="utf-8-sig").split("\n"))
    if not {"query-id", "corpus-id"} <= set(header):
        raise ValueError(
            f"the first line, {header!r:.60}, is not the header query-id, corpus-id and (unless every grade is 1) "
            "score, with tabs between"
        )
    return [_qrel(header, line, number) for number, line in enumerate(lines, start=2) if line != [""]]


def _qrel(header: list[str], line: list[str], number: int) -> dict[str, Any]:
    if len(line) != len(header):
        raise ValueError(f"line {number} has {len(line)} values, the header {len(header)}")
    record: dict[str, Any] = dict(zip(header, line, strict=True))
    try:
        if "score" in record:
            record["score"] = float(record["score"])
    except ValueError as error:
        raise ValueError(f"line {number} has the score {record['score']!r:.60}, which is no number") from error
    return record


READERS: dict[str, Callable[[Path], Records]] = {
    ".parquet": lambda file: pq.read_table(file, partitioning=None).to_pylist(),
    ".jsonl": _read_json_lines,
    ".tsv": _read_qrels,
}
