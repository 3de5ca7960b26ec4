"""Training tables, small and written to disk, that the tests of formats share."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifir_lightning.data.formats import (
    check_table,
    open_table,
    to_row,
)
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage, Row

REAL_TABLES = Path(__file__).parents[2] / "shared" / "data"


def plain(docid: str) -> dict:
    return {"docid": docid, "text": f"text {docid}", "title": ""}


def scored(docid: str) -> dict:
    return {**plain(docid), "title": "t", "explanation": "", "followir_score": 0.5, "joint_id": ""}


def record(query_id: str, query: str, instruction: str, positives: str, hard: str, broken: str) -> dict[str, Any]:
    """A record of the published layout; every passage is one letter."""
    return {
        "query_id": query_id,
        "query": f"{query} {instruction}".strip(),
        "positive_passages": [scored(docid) for docid in positives],
        "negative_passages": [plain(docid) for docid in hard],
        "only_instruction": instruction,
        "only_query": query,
        "has_instruction": bool(instruction),
        "new_negatives": [scored(docid) for docid in broken],
    }


RECORDS = [
    record("1", "who sang it", "", "ab", "cde", ""),
    record("2-instruct", "who wrote it", "Only books count.", "f", "g", "hi"),
    {**record("3", "what is a café", "", "j", "", ""), "only_query": ""},
]
A, B, F, H, I, J = (Passage(docid, "t", f"text {docid}") for docid in "abfhij")
C, D, E, G = (Passage(docid, "", f"text {docid}") for docid in "cdeg")
ROWS = [
    Row("1", "who sang it", "", (A, B), (C, D, E), ()),
    Row("2-instruct", "who wrote it", "Only books count.", (F,), (G,), (H, I)),
    Row("3", "what is a café", "", (J,), (), ()),
]


def write_parquet(file: Path, records: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema=pa.Table.from_pylist(RECORDS).schema), file)
    return file


def write_jsonl(file: Path, records: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def rows_of(path: Path) -> list[Row]:
    table = open_table(str(path))
    check_table(table, str(path))
    return [to_row(record) for record in table]


def changed(index: int, **columns: Any) -> list[dict]:
    """The records with one of them changed."""
    records = copy.deepcopy(RECORDS)
    records[index].update(columns)
    return records


def refused(records: list[dict]) -> str:
    """The one line in which a table of these records is refused."""
    with pytest.raises(InputError, match=r"^some/table[^\n]*$") as error:
        check_table(datasets.Dataset.from_list(records), "some/table")
    return str(error.value)
