"""Every published form of a training table gives the same rows."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.arrow_writer import ArrowWriter
from datasets.table import InMemoryTable
from tables import REAL_TABLES, RECORDS, ROWS, record, rows_of, write_jsonl, write_parquet

from ifir_lightning.data import formats, teacher_cache
from ifir_lightning.data.columns import PASSAGE_COLUMNS
from ifir_lightning.data.formats import (
    check_table,
    count_negatives,
    has_instruction,
    open_table,
    select_rows,
    to_row,
)
from ifir_lightning.errors import InputError


def test_every_form_reads_the_same_rows(tmp_path: Path) -> None:
    parquet = write_parquet(tmp_path / "one.parquet", RECORDS)
    jsonl = write_jsonl(tmp_path / "one.jsonl", RECORDS)
    write_parquet(tmp_path / "folder [1]" / "data" / "train-00000-of-00002.parquet", RECORDS[:1])
    write_parquet(tmp_path / "folder [1]" / "data" / "train-00001-of-00002.parquet", RECORDS[1:])
    write_jsonl(tmp_path / "lines" / "a.jsonl", RECORDS[:2])
    write_jsonl(tmp_path / "lines" / "deeper" / "b.jsonl", RECORDS[2:])
    for path in (parquet, jsonl, tmp_path / "folder [1]", tmp_path / "lines"):
        assert rows_of(path) == ROWS


@pytest.mark.parametrize("digest", [formats.fingerprint, teacher_cache.fingerprint])
def test_fingerprints_do_not_see_row_groups(digest: Callable[[datasets.Dataset], str]) -> None:
    def in_parts(*stops: int) -> datasets.Dataset:
        parts = [whole.slice(start, stop - start) for start, stop in zip((0, *stops), (*stops, 3), strict=True)]
        return datasets.Dataset(InMemoryTable(pa.concat_tables(parts)))

    whole = pa.Table.from_pylist(RECORDS).combine_chunks()
    assert in_parts(1, 1, 2).data.column("query_id").num_chunks == 4
    assert digest(in_parts()) == digest(in_parts(1, 1, 2)) == digest(in_parts(2))
    assert digest(in_parts()) != digest(datasets.Dataset(InMemoryTable(whole.take([1, 0, 2]))))


@pytest.mark.parametrize("column", ["positive_passages", "negative_passages", "new_negatives", "query"])
def test_other_content_under_the_same_ids_has_another_fingerprint(column: str, tmp_path: Path) -> None:
    """As hard negatives that were mined anew."""
    changed = json.loads(json.dumps(RECORDS))
    value = next(record[column] for record in changed if record[column])
    if column == "query":
        changed = [record | {"query": f"{record['query']} now"} for record in changed]
    else:
        value[0]["text"] += "."
    before, after = (
        open_table(str(write_jsonl(tmp_path / f"{n}.jsonl", each))) for n, each in enumerate((RECORDS, changed))
    )
    assert formats.fingerprint(before) != formats.fingerprint(after)


def test_the_id_of_every_row_is_in_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of rows that are not read whole."""
    monkeypatch.setattr(formats, "_ROWS_IN_DIGEST", 2)
    assert len(RECORDS) == 3
    for column, differs in (("query_id", True), ("query", False)):
        changed = [RECORDS[0], RECORDS[1] | {column: "other"}, RECORDS[2]]
        tables = (
            open_table(str(write_jsonl(tmp_path / f"{column}-{n}.jsonl", each)))
            for n, each in enumerate((RECORDS, changed))
        )
        assert (len({formats.fingerprint(table) for table in tables}) == 2) == differs


def test_columns_that_nobody_reads_change_no_fingerprint(tmp_path: Path) -> None:
    more = [{"note": "x"} | record for record in RECORDS]
    tables = (open_table(str(write_jsonl(tmp_path / f"{n}.jsonl", each))) for n, each in enumerate((RECORDS, more)))
    assert len({formats.fingerprint(table) for table in tables}) == 1


def test_train_files_are_preferred_and_parquet_comes_before_jsonl(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t" / "data" / "train-0.parquet", RECORDS[:1])
    write_parquet(tmp_path / "t" / "data" / "test-0.parquet", RECORDS[1:])
    write_jsonl(tmp_path / "t" / "train.jsonl", RECORDS)
    assert rows_of(tmp_path / "t") == ROWS[:1]


def test_without_train_files_those_in_train_folders_are_taken(tmp_path: Path) -> None:
    for split, records in (("train", RECORDS[:1]), ("test", RECORDS[1:]), ("validation", RECORDS[1:])):
        write_parquet(tmp_path / "train-mine" / "default" / split / "0000.parquet", records)
        write_parquet(tmp_path / "spark" / f"{split}.parquet" / "part-0.parquet", records)
    for folder in ("train-mine", "spark"):
        assert rows_of(tmp_path / folder) == ROWS[:1]


@pytest.mark.parametrize("text", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_texts_may_have_any_type_of_text(text: pa.DataType, tmp_path: Path) -> None:
    passages = pa.list_(pa.struct(dict.fromkeys(("docid", "text", "title"), text)))
    types = dict.fromkeys(("query_id", "query", "only_query", "only_instruction"), text)
    schema = pa.schema({**types, "has_instruction": pa.int8(), **dict.fromkeys(PASSAGE_COLUMNS, passages)})
    records = [{**record, "has_instruction": int(record["has_instruction"])} for record in RECORDS]
    pq.write_table(pa.Table.from_pylist(records, schema=schema), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == ROWS


def test_tables_are_memory_mapped_and_unformatted(tmp_path: Path, datasets_cache: Path) -> None:
    for path in (write_parquet(tmp_path / "a.parquet", RECORDS), write_jsonl(tmp_path / "a.jsonl", RECORDS)):
        table = open_table(str(path))
        assert [Path(file["filename"]).is_relative_to(datasets_cache) for file in table.cache_files] == [True]
        assert table.format["type"] is None


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for write, name in ((write_parquet, "a.parquet"), (write_jsonl, "a.jsonl")):
        assert len(rows_of(write(tmp_path / name, RECORDS))) == 3
        assert len(rows_of(write(tmp_path / name, RECORDS[:2]))) == 2


def test_the_conversion_holds_no_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow would by default: 80 MB here, 13 GB for a published table in one file.

    Looked at when the last rows are written: before, decoded rows wait for the disk, more of them on a busy machine.
    """
    rows = [record(str(number), "q", "", "a", "b", "") for number in range(10)]
    for row in rows:
        row["negative_passages"][0]["text"] = row["query_id"] * 80_000
    block = pa.Table.from_pylist(rows)
    with pq.ParquetWriter(tmp_path / "a.parquet", block.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(100):
            writer.write_table(block)
    held, write = [], ArrowWriter.write_table

    def weigh_and_write(self: ArrowWriter, *arguments: Any, **options: Any) -> None:
        held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())
        write(self, *arguments, **options)

    monkeypatch.setattr(ArrowWriter, "write_table", weigh_and_write)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        open_table(str(tmp_path / "a.parquet"))
    finally:
        tracemalloc.stop()
    assert len(held) == 100
    assert held[-1] - before < 40e6


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


def test_a_revision_of_a_local_path_is_ignored_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_parquet(tmp_path / "a.parquet", RECORDS)
    open_table(str(path), revision="abc")
    assert caplog.messages == [f"revision 'abc' is ignored: {path} is a local path"]


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
    assert select_rows(table, "all").itemsize == count_negatives(table).itemsize == 4  # a million rows are 4 MB


def test_a_selection_that_leaves_nothing_is_one_line() -> None:
    table = datasets.Dataset.from_list(RECORDS[:1])
    with pytest.raises(InputError, match="rows 'with_instruction' selects none of the 1 rows: choose all"):
        select_rows(table, "with_instruction")
    with pytest.raises(InputError, match="rows 'some': allowed are all, with_instruction, without_instruction"):
        select_rows(table, "some")  # type: ignore[arg-type]


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
