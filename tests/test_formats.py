"""Training tables: every form of a table reads to the same rows, and a faulty one is refused in one line."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifir_lightning.data import formats
from ifir_lightning.data.formats import (
    check_table,
    count_negatives,
    has_instruction,
    open_table,
    select_rows,
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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of ``datasets`` for this test alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


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


def test_every_form_reads_the_same_rows(tmp_path: Path) -> None:
    parquet = write_parquet(tmp_path / "one.parquet", RECORDS)
    jsonl = write_jsonl(tmp_path / "one.jsonl", RECORDS)
    write_parquet(tmp_path / "folder [1]" / "data" / "train-00000-of-00002.parquet", RECORDS[:1])
    write_parquet(tmp_path / "folder [1]" / "data" / "train-00001-of-00002.parquet", RECORDS[1:])
    write_jsonl(tmp_path / "lines" / "a.jsonl", RECORDS[:2])
    write_jsonl(tmp_path / "lines" / "deeper" / "b.jsonl", RECORDS[2:])
    for path in (parquet, jsonl, tmp_path / "folder [1]", tmp_path / "lines"):
        assert rows_of(path) == ROWS


def test_train_files_are_preferred_and_parquet_comes_before_jsonl(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t" / "data" / "train-0.parquet", RECORDS[:1])
    write_parquet(tmp_path / "t" / "data" / "test-0.parquet", RECORDS[1:])
    write_jsonl(tmp_path / "t" / "train.jsonl", RECORDS)
    assert rows_of(tmp_path / "t") == ROWS[:1]


def test_tables_are_memory_mapped_and_unformatted(tmp_path: Path, cache: Path) -> None:
    for path in (write_parquet(tmp_path / "a.parquet", RECORDS), write_jsonl(tmp_path / "a.jsonl", RECORDS)):
        table = open_table(str(path))
        assert [Path(file["filename"]).is_relative_to(cache) for file in table.cache_files] == [True]
        assert table.format["type"] is None


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for write, name in ((write_parquet, "a.parquet"), (write_jsonl, "a.jsonl")):
        assert len(rows_of(write(tmp_path / name, RECORDS))) == 3
        assert len(rows_of(write(tmp_path / name, RECORDS[:2]))) == 2


def test_jsonl_may_lack_values_and_have_more_columns(tmp_path: Path) -> None:
    records = [{**record, "source": {"any": [1]}} for record in RECORDS]
    del records[0]["only_instruction"], records[0]["new_negatives"], records[2]["only_query"]
    assert rows_of(write_jsonl(tmp_path / "a.jsonl", records)) == ROWS


def test_synthetic_rows_by_number() -> None:
    table = open_table("synthetic:12")
    check_table(table, "synthetic:12")
    assert len(table) == 12
    assert all(to_row(record).positives for record in table)
    assert table[:5] == open_table("synthetic:5")[:]


def test_synthetic_has_a_default_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(formats, "training_rows", lambda num_rows, seed: asked.append((num_rows, seed)) or RECORDS)
    assert len(open_table("synthetic")) == 3
    assert asked == [(20_000, 0)]


def test_a_hub_id_opens_its_split_train_at_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **settings: (args, settings))
    opened: Any = open_table("samaya-ai/msmarco-w-instructions", revision="abc")
    assert opened == (("samaya-ai/msmarco-w-instructions",), {"split": "train", "revision": "abc"})


def test_a_revision_of_a_local_path_is_ignored_aloud(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", RECORDS)
    with pytest.warns(UserWarning, match="revision 'abc' is ignored"):
        open_table(str(path), revision="abc")


def test_progress_bars_are_as_before(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert not datasets.are_progress_bars_disabled()
    open_table(str(write_parquet(tmp_path / "a.parquet", RECORDS)))
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("record", "query", "instruction"),
    [
        ({"only_query": None, "query": "q", "has_instruction": False, "only_instruction": ""}, "q", ""),
        ({"query": "q", "has_instruction": False, "only_instruction": "x"}, "q", ""),
        ({"only_query": " ", "query": "q i", "has_instruction": True, "only_instruction": "i"}, "q", "i"),
        ({"only_query": "q", "query": "q i", "has_instruction": True, "only_instruction": None}, "q", ""),
        ({"only_query": "q", "query": None, "has_instruction": None, "only_instruction": "i"}, "q", ""),
    ],
)
def test_query_and_instruction(record: dict, query: str, instruction: str) -> None:
    row = to_row({**RECORDS[1], "only_query": "", **record})
    assert (row.query, row.instruction) == (query, instruction)


def test_teacher_scores_are_read_where_there_are_any() -> None:
    assert to_row(RECORDS[0]).teacher_scores is None
    assert to_row({**RECORDS[0], "teacher_scores": None}).teacher_scores is None
    assert to_row({**RECORDS[0], "teacher_scores": [1.0, 0.5]}).teacher_scores == (1.0, 0.5)


def test_rows_by_instruction_and_numbers_of_negatives() -> None:
    table = datasets.Dataset.from_list(RECORDS)
    assert has_instruction(table).tolist() == [False, True, False]
    assert select_rows(table, "all").tolist() == [0, 1, 2]
    assert select_rows(table, "with_instruction").tolist() == [1]
    assert select_rows(table, "without_instruction").tolist() == [0, 2]
    assert count_negatives(table).tolist() == [3, 3, 0]
    assert count_negatives(datasets.concatenate_datasets([table, table])).tolist() == [3, 3, 0, 3, 3, 0]


def test_a_selection_that_leaves_nothing_is_one_line() -> None:
    table = datasets.Dataset.from_list(RECORDS[:1])
    with pytest.raises(InputError, match="rows 'with_instruction' selects none of the 1 rows: choose all"):
        select_rows(table, "with_instruction")
    with pytest.raises(InputError, match="rows 'some': allowed are all, with_instruction, without_instruction"):
        select_rows(table, "some")  # type: ignore[arg-type]


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


@pytest.mark.parametrize("passages", ["a text", ["a text"]])
def test_passages_of_another_type_are_refused(passages: Any) -> None:
    records = [{**record, "negative_passages": passages} for record in RECORDS]
    assert "lacks negative_passages[].docid, negative_passages[].text" in refused(records)


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


@pytest.mark.parametrize(("name", "num_rows", "num_with"), [("terms", 3348, 2829), ("instructions", 1702, 1002)])
def test_real_tables(name: str, num_rows: int, num_with: int) -> None:
    folder = REAL_TABLES / f"train-msmarco-{name}"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    table = open_table(str(folder))
    check_table(table, str(folder))
    assert (len(table), len(select_rows(table, "with_instruction"))) == (num_rows, num_with)
    rows = [to_row(table[index]) for index in range(0, num_rows, 100)]
    counted = count_negatives(table)[::100]
    assert np.array_equal(counted, [len(row.hard_negatives) + len(row.instruction_negatives) for row in rows])
    assert all(
        row.query and bool(row.instruction) == flag
        for row, flag in zip(rows, has_instruction(table)[::100], strict=True)
    )
