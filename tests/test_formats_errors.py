"""A table that cannot be trained on is refused at the door, in one line."""

import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
from tables import RECORDS, changed, plain, refused, rows_of, write_jsonl

from ifir_lightning.data.formats import (
    check_table,
    count_negatives,
    open_table,
    to_row,
)
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage


@pytest.mark.parametrize(
    "column",
    [
        "query_id",
        "only_instruction",
        "has_instruction",
        "positive_passages",
        "negative_passages",
        "new_negatives",
    ],
)
@pytest.mark.parametrize("way", ["missing", "all null"])
def test_a_missing_column_is_named(column: str, way: str) -> None:
    records = copy.deepcopy(RECORDS)
    for record in records:
        record[column] = None
        if way == "missing":
            del record[column]
    message = refused(records)
    assert f"lacks {column}:" in message
    assert "add what is missing" in message


def test_missing_columns_and_fields_are_named_together() -> None:
    records = copy.deepcopy(RECORDS)
    for record in records:
        del record["query"], record["only_query"], record["query_id"]
        for passage in record["negative_passages"]:
            del passage["docid"]
    assert "lacks query_id, only_query, negative_passages[].docid: a training table has" in refused(records)


def with_passages(column: str, **fields: Any) -> list[dict]:
    """The records with fields of all passages of a column changed."""
    records = copy.deepcopy(RECORDS)
    for passage in (passage for record in records for passage in record[column]):
        passage.update(fields)
    return records


@pytest.mark.parametrize(("field", "other"), [("docid", "id"), ("text", "contents")])
def test_fields_of_passages_that_jsonl_calls_otherwise_are_missing(field: str, other: str, tmp_path: Path) -> None:
    text = write_jsonl(tmp_path / "a.jsonl", RECORDS).read_text().replace(f'"{field}"', f'"{other}"')
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(InputError, match=rf"lacks positive_passages\[\].{field}, negative_passages\[\].{field}, new"):
        rows_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("column", ["only_query", "query", "only_instruction"])
@pytest.mark.parametrize("value", [7, ["x"], b"x", 0.5])
def test_columns_of_another_type_are_refused(column: str, value: Any) -> None:
    message = refused([{**record, column: value} for record in RECORDS])
    assert f"some/table: {column} is " in message
    assert "allowed are text" in message


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([{**record, "negative_passages": "a text"} for record in RECORDS], "negative_passages is string"),
        ([{**record, "negative_passages": ["a text"]} for record in RECORDS], "negative_passages is list<"),
        (with_passages("positive_passages", text=5), "positive_passages[].text is int64"),
        (with_passages("negative_passages", title=float("nan")), "negative_passages[].title is double"),
        (with_passages("new_negatives", docid=0.5), "new_negatives[].docid is double"),
        ([{**record, "query_id": 0.5} for record in RECORDS], "query_id is double"),
        ([{**record, "has_instruction": "False"} for record in RECORDS], "has_instruction is string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_of_another_type_are_refused(records: list[dict], named: str) -> None:
    assert named in refused(records)


def test_ids_may_be_numbers() -> None:
    records = [{**record, "query_id": 1} for record in with_passages("negative_passages", docid=7)]
    check_table(datasets.Dataset.from_list(records), "some/table")


@pytest.mark.parametrize("flag", [2, 0.5, float("nan")])
def test_flags_that_are_neither_true_nor_false_are_refused(flag: float) -> None:
    records = [{**record, "has_instruction": float(record["has_instruction"])} for record in RECORDS]
    records[2]["has_instruction"] = flag
    assert f"has_instruction is {float(flag)} in some row; allowed are true and false, or 1 and 0" in refused(records)


@pytest.mark.parametrize("passage", [None, {"docid": None, "text": "text", "title": ""}])
def test_a_passage_without_docid_is_refused(passage: dict | None) -> None:
    message = refused(changed(1, negative_passages=[plain("g"), passage]))
    assert "row 1 (query_id '2-instruct') has a passage without docid in negative_passages (1 of 3 rows)" in message


def test_a_row_without_id_is_refused() -> None:
    assert "row 1 (query_id None) has no query_id (1 of 3 rows): every row needs one" in refused(
        changed(1, query_id=None)
    )


@pytest.mark.parametrize("text", ["", None])
def test_some_empty_passages_are_told(text: str | None, caplog: pytest.LogCaptureFixture) -> None:
    records = changed(1, negative_passages=[{"docid": "g", "text": text, "title": ""}])
    check_table(datasets.Dataset.from_list(records), "some/table")
    told = "1 of 4 passages in negative_passages are empty, the first in row 1: they are trained on like others"
    assert caplog.messages == [f"some/table: {told}"]


def test_a_column_of_empty_passages_is_refused() -> None:
    assert "all passages in negative_passages are empty" in refused(with_passages("negative_passages", text=""))
    check_table(datasets.Dataset.from_list(with_passages("positive_passages", text="")), "passages that have titles")


@pytest.mark.parametrize("instruction", ["", " \n", None])
def test_flagged_rows_without_instruction_are_told(instruction: str, caplog: pytest.LogCaptureFixture) -> None:
    records = changed(0, has_instruction=True, only_instruction=instruction)
    check_table(datasets.Dataset.from_list(records), "some/table")
    told = "1 of 2 rows with has_instruction have an empty only_instruction, the first is row 0: they are trained on"
    assert caplog.messages == [f"some/table: {told} without one"]


def test_instructions_without_a_flag_are_told(caplog: pytest.LogCaptureFixture) -> None:
    records = changed(0, has_instruction=False, only_instruction="Name a date.")
    check_table(datasets.Dataset.from_list(records), "some/table")
    told = "1 rows have an only_instruction but not has_instruction, the first is row 0: they are trained on without it"
    assert caplog.messages == [f"some/table: {told}"]


def test_flags_without_any_instruction_are_refused() -> None:
    message = refused(changed(1, only_instruction=""))
    assert "no row with has_instruction has text in only_instruction; allowed are rows that have both" in message


def test_columns_that_are_not_read_may_be_missing() -> None:
    records = copy.deepcopy(RECORDS)
    for record in records:
        del record["query"]
        record["only_query"] = "q"
        for passage in record["positive_passages"]:
            del passage["title"], passage["explanation"], passage["joint_id"], passage["followir_score"]
    table = datasets.Dataset.from_list(records)
    check_table(table, "some/table")
    assert to_row(table[1]).positives == (Passage("f", "", "text f"),)


def test_tables_in_which_a_list_is_always_empty_are_fine() -> None:
    table = datasets.Dataset.from_list([RECORDS[0], RECORDS[2]])
    check_table(table, "some/table")
    assert count_negatives(table).tolist() == [3, 0]


@pytest.mark.parametrize("positives", [[], None])
def test_a_row_without_positives_is_named(positives: list | None) -> None:
    message = refused(changed(1, positive_passages=positives))
    assert "row 1 (query_id '2-instruct') has no positives (1 of 3 rows)" in message
    assert "every row needs a passage in positive_passages: add it or remove such rows" in message


@pytest.mark.parametrize("empty", ["", " \n\t", None])
def test_an_empty_query_is_named(empty: str | None) -> None:
    message = refused(changed(2, only_query=empty, query=empty))
    assert "row 2 (query_id '3') has an empty query (1 of 3 rows)" in message
    assert "every row needs text in only_query or query: add it or remove such rows" in message


def test_faulty_rows_are_counted_over_all_parts_of_a_table() -> None:
    part = datasets.Dataset.from_list(changed(2, only_query="", query=""))
    with pytest.raises(InputError, match=r"row 2 \(query_id '3'\) has an empty query \(2 of 6 rows\)"):
        check_table(datasets.concatenate_datasets([part, part]), "some/table")


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"some/table has no rows: .* at least one"):
        check_table(datasets.Dataset.from_list(RECORDS).select(range(0)), "some/table")


def cannot_open(path: Path | str) -> str:
    with pytest.raises(InputError) as error:
        open_table(str(path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_missing_path_says_what_was_looked_for(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", "./no/such", "tables/train.parquet", "nothing"):
        assert "no such file or folder, and no hub id" in cannot_open(path)


def test_an_unreachable_hub_id_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = cannot_open("data/train")
    assert "(ConnectionError: no network)" in message
    assert "a hub data set with a split train, since there is no such file or folder" in message


def test_a_folder_or_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.csv").write_text("a,b")
    for path in (tmp_path / "folder", tmp_path / "folder" / "notes.csv"):
        assert "neither a .parquet or .jsonl file nor a folder that holds some" in cannot_open(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", "PAR1 and nothing more", "ArrowInvalid"),
        ("a.jsonl", '{"query_id": "1"}\n{"query_id": \n', "JSON parse error"),
        ("a.jsonl", '{"query_id": 1}\n', 'from string to number in row 0; ids are text, "12"'),
        ("a.jsonl", '{"query_id": 1}\n', "query_id"),
        ("a.jsonl", "", "a.jsonl: Empty JSON"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    message = cannot_open(tmp_path / name)
    assert reason in message
    assert "repair it or name another" in message


@pytest.mark.parametrize("path", ["synthetic:", "synthetic:0", "synthetic:-3", "synthetic:many"])
def test_a_bad_number_of_synthetic_rows_is_refused(path: str) -> None:
    assert "at least 1: write synthetic:2000" in cannot_open(path)
