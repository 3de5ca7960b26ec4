"""metrics.csv on disk: a header and a line a step. A line that a dying process left torn counts as not written."""

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from ifir_lightning import durable
from ifir_lightning.errors import InputError

_log = logging.getLogger(__name__)


def read(path: Path) -> tuple[list[str], dict[int, list[str]], bool]:
    """The header, the fields of each step, and whether the file is whole; nothing of a file that is empty or missing.

    Raises:
        InputError: It has no column ``step``.
    """
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    lines, _, torn = text.rpartition("\n")
    header, *rows = [row for row in csv.reader(io.StringIO(lines)) if row] or [[]]
    if header and "step" not in header:
        raise InputError(f"{path} has no column step; allowed is a file that fit wrote: move it out of the run folder")
    at = header.index("step") if header else 0
    whole = [row for row in rows if len(row) == len(header) and row[at].isdigit()]
    dropped = len(rows) - len(whole) + bool(torn)
    if dropped:
        _log.warning("%s: %d torn lines are left out, of a process that died or a disk that was full", path, dropped)
    return header, {int(row[at]): row for row in whole}, not dropped


def write(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """The whole file, header first."""
    durable.write_text(path, _as_text(rows))


def append(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Lines at its end, in one piece."""
    with open(path, "ab") as file:
        file.write(_as_text(rows).encode())


def _as_text(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
