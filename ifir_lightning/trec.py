"""TREC runs: lines ``qid Q0 docid rank score tag``."""

from math import isnan, nan
from pathlib import Path

from ifir_lightning import durable
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Run, ranks, refuse_nan

LINE = "qid Q0 docid rank score tag"


def read_run(path: str | Path) -> Run:
    """The scores of a run file. Its rank column is ignored, as by trec_eval: scores and ids decide."""
    run: Run = {}
    for number, line in _numbered_lines(Path(path)):
        try:
            query_id, doc_id, score = _fields(line)
            if doc_id in run.setdefault(query_id, {}):
                raise InputError(
                    f"query {query_id!r}, passage {doc_id!r} for the second time; allowed is one line per"
                    " pair: remove one"
                )
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        run[query_id][doc_id] = score
    if not run:
        raise InputError(f"{path}: holds 0 lines; allowed are lines {LINE!r}: check what wrote the file")
    return run


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a run by rank: read back, it has the identical scores. The file is there whole or not at all."""
    refuse_nan(run)
    lines = [
        _line(query_id, "Q0", doc_id, str(rank), repr(float(scores[doc_id])), tag)
        for query_id, scores in run.items()
        for doc_id, rank in ranks(scores).items()
    ]
    durable.write_text(Path(path), "".join(lines))


def _fields(line: str) -> tuple[str, str, float]:
    """Query, passage and score."""
    fields = line.split()
    if len(fields) != len(LINE.split()):
        raise InputError(f"{line!r} has {len(fields)} fields; allowed is {LINE!r}: correct the line")
    query_id, _, doc_id, _, text, _ = fields
    try:
        score = float(text)
    except ValueError:
        score = nan
    if isnan(score):
        raise InputError(f"score {text!r}; allowed is a number, not nan: correct the line")
    return query_id, doc_id, score


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
