"""TREC files: runs (``qid Q0 docid rank score tag``) and qrels (``qid 0 docid grade``)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ifir_lightning import durable
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Qrels, Run, ranks, refuse_nan

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Layout(Generic[Number]):
    """What a line holds, and how the one field that we keep besides the ids is read."""

    line: str
    column: str
    number: Callable[[str], Number]
    allowed: str


def _score(text: str) -> float:
    score = float(text)
    if score != score:
        raise ValueError("nan")
    return score


RUN: Layout[float] = Layout("qid Q0 docid rank score tag", "score", _score, "a number, not nan")
QRELS: Layout[int] = Layout("qid 0 docid grade", "grade", int, "a whole number")


def read_run(path: str | Path) -> Run:
    """The scores of a run file. Its rank column is ignored, as by trec_eval: scores and ids decide."""
    return _read(Path(path), RUN)


def read_qrels(path: str | Path) -> Qrels:
    """The grades of a qrels file."""
    return _read(Path(path), QRELS)


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a run by rank: read back, it has the identical scores. The file is there whole or not at all."""
    refuse_nan(run)
    lines = [
        _line(query_id, "Q0", doc_id, str(rank), repr(float(scores[doc_id])), tag)
        for query_id, scores in run.items()
        for doc_id, rank in ranks(scores).items()
    ]
    _write(Path(path), lines)


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write grades, whole or not at all."""
    lines = [
        _line(query_id, "0", doc_id, str(grade))
        for query_id, grades in qrels.items()
        for doc_id, grade in grades.items()
    ]
    _write(Path(path), lines)


def _read(path: Path, layout: Layout[Number]) -> dict[str, dict[str, Number]]:
    table: dict[str, dict[str, Number]] = {}
    for number, line in _numbered_lines(path):
        try:
            query_id, doc_id, value = _fields(line, layout)
            if doc_id in table.setdefault(query_id, {}):
                raise InputError(
                    f"query {query_id!r}, passage {doc_id!r} for the second time; allowed is one line per"
                    " pair: remove one"
                )
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        table[query_id][doc_id] = value
    if not table:
        raise InputError(f"{path}: holds 0 lines; allowed are lines {layout.line!r}: check what wrote the file")
    return table


def _fields(line: str, layout: Layout[Number]) -> tuple[str, str, Number]:
    names, values = layout.line.split(), line.split()
    if len(values) != len(names):
        raise InputError(f"{line!r} has {len(values)} fields; allowed is {layout.line!r}: correct the line")
    fields = dict(zip(names, values, strict=True))
    text = fields[layout.column]
    try:
        return fields["qid"], fields["docid"], layout.number(text)
    except ValueError as error:
        raise InputError(f"{layout.column} {text!r}; allowed is {layout.allowed}: correct the line") from error


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, counted from 1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; allowed is a TREC text file: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; allowed is a TREC text file: unpack or convert it") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _line(*fields: str) -> str:
    """One line, provided that it would be read back as these fields."""
    for field in fields:
        if field.split() != [field]:
            raise InputError(f"TREC field {field!r}; allowed are names without spaces, not empty: rename it")
    return " ".join(fields) + "\n"


def _write(path: Path, lines: list[str]) -> None:
    durable.write_text(path, "".join(lines))
