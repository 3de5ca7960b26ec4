"""Tasks in their three layouts, from folders, the hub (simulated) and the synthetic world."""

import copy
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from ifir_lightning.data import synthetic
from ifir_lightning.data import tables as tables_module
from ifir_lightning.data.evalset import load_task, task_from_tables, task_name
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
GRADES = {"1-og": {"a": 2, "b": 1}, "1-changed": {"a": 2, "b": 0}, "2-og": {"c": 1}, "2-changed": {"c": 1}}
LISTS = {"1": ["b", "a"], "2": ["a", "c"]}

V2 = {
    "corpus": [{"_id": key, "title": f"T{key}", "text": f"text {key}"} for key in "abcd"],
    "queries": [{"_id": query_id, "text": f"query {query_id[0]}"} for query_id in GRADES],
    "instruction": [{"query-id": query_id, "instruction": f"do {query_id}"} for query_id in GRADES],
    "default": [
        {"query-id": query_id, "corpus-id": doc_id, "score": float(grade)}
        for query_id, grades in GRADES.items()
        for doc_id, grade in grades.items()
    ],
    "qrel_diff": [{"query-id": "1", "corpus-ids": ["b"]}, {"query-id": "2", "corpus-ids": []}],
    "top_ranked": [{"query-id": query_id, "corpus-ids": LISTS[query_id[0]]} for query_id in GRADES],
}
V1 = {
    "corpus": V2["corpus"],
    "queries": [
        {
            "_id": base,
            "text": f"query {base}",
            "instruction_og": f"do {base}-og",
            "instruction_changed": f"do {base}-changed",
        }
        for base in "12"
    ],
    "top_ranked": [{"qid": base, "pid": doc_id} for base, doc_ids in LISTS.items() for doc_id in doc_ids],
} | {
    f"qrels_{variant}": [
        record | {"query-id": record["query-id"][0]} for record in V2["default"] if record["query-id"].endswith(variant)
    ]
    for variant in ("og", "changed")
}
MTEB = {("qrels" if config == "default" else config): records for config, records in V2.items()}


def v2(**changes):
    """The tables with some configs replaced, or left out by None."""
    tables = copy.deepcopy(V2) | changes
    return {config: records for config, records in tables.items() if records is not None}


def without(config, name):
    return [{key: value for key, value in record.items() if key != name} for record in V2[config]]


def write(folder, tables, split="", kind="parquet"):
    for config, records in tables.items():
        file = folder / config / f"{split or config}-00000-of-00001.{kind}"
        file.parent.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(records), file)
        else:
            file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return str(folder)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(("tables", "split"), [(V2, ""), (MTEB, "test"), (V1, ""), (V1, "test")])
def test_all_layouts_give_the_same_task(tmp_path, tables, split, kind):
    task = load_task(write(tmp_path / "tiny", tables, split, kind))
    assert task.name == "tiny"
    assert sorted(task.queries) == sorted(task.instructions) == sorted(task.candidates) == sorted(GRADES)
    assert task.queries["1-changed"] == "query 1"
    assert task.instructions["1-changed"] == "do 1-changed"
    assert task.passages == {key: Passage(key, f"T{key}", f"text {key}") for key in "abc"}, "d is not listed"
    assert task.candidates["2-og"] == ("a", "c")
    assert task.qrels == GRADES
    assert task.changed == {"1": ("b",), "2": ()}
    assert task.base_ids == ("1", "2")
    assert task.metric == "map_1000"


def test_files_of_one_split_are_joined_and_test_wins_over_others(tmp_path):
    write(tmp_path, v2(queries=None))
    for number, record in enumerate(V2["queries"]):
        write(tmp_path / "parts", {str(number): [record]}, f"test-{number}")
    (tmp_path / "queries").mkdir()
    for file in (tmp_path / "parts").glob("*/*"):
        file.rename(tmp_path / "queries" / file.name)
    (tmp_path / "queries" / "dev-0.jsonl").write_text("not read")
    assert sorted(load_task(str(tmp_path)).queries) == sorted(GRADES)


def test_push_to_hub_puts_the_default_config_into_data(tmp_path):
    write(tmp_path, {("data" if config == "default" else config): records for config, records in V2.items()})
    assert load_task(str(tmp_path)).qrels == GRADES


def test_jsonl_with_numbers_as_ids_and_line_separators_in_texts(tmp_path):
    tables = v2(corpus=[{"_id": n, "title": None, "text": f"one\u2028two {n}"} for n in (1, 2)])
    tables["top_ranked"] = [{"query-id": query_id, "corpus-ids": [2, 1, 2]} for query_id in GRADES]
    task = load_task(write(tmp_path, tables, kind="jsonl"))
    assert task.passages["1"] == Passage("1", "", "one\u2028two 1")
    assert task.candidates["1-og"] == ("2", "1"), "a passage listed twice is one candidate"


def test_query_without_judgements_stays():
    tables = v2(default=[record for record in V2["default"] if record["query-id"] != "2-og"])
    tables["default"].append({"query-id": "9-og", "corpus-id": "a", "score": 1})
    assert task_from_tables("tiny", tables).qrels == GRADES | {"2-og": {}}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("jhu-clsp/core17-instructions-mteb@7030c7e", "core17"),
        ("jhu-clsp/news21-instructions", "news21"),
        ("mteb/Robust04InstructionRetrieval", "robust04"),
        ("/data/followir-mini-core17/", "followir-mini-core17"),
        ("synthetic/travel", "synthetic-travel"),
        ("my tasks/Größe_2.1", "gr-e-2-1"),
    ],
)
def test_task_names_fit_metrics_and_files(path, name):
    assert task_name(path) == name


def test_name_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "News21-mine").mkdir()
    monkeypatch.chdir(tmp_path / "News21-mine")
    assert task_name(".") == "news21-mine"
    assert load_task(write(Path("."), V2) or ".").metric == "ndcg_5"


def swapped(config, *records):
    """The tables with the first record of a config replaced by these."""
    return v2(**{config: [*records, *V2[config][1:]]})


FAULTS = [
    (
        v2(top_ranked=None),
        r"config 'top_ranked': missing or empty, found \['corpus', .*; needed are .*: add it",
    ),
    (v2(default=None), "config 'default': missing"),
    (v2(queries=[]), "config 'queries': missing or empty"),
    ({}, r"config 'queries': missing or empty, found \[\]"),
    ({**V1, "qrels_changed": []}, "config 'qrels_changed': .* needed are corpus, queries, qrels_og, qrels_"),
    (v2(queries=without("queries", "text")), "config 'queries': column 'text' is missing; .*: add it"),
    (v2(corpus=without("corpus", "_id")), "config 'corpus': column '_id' is missing; .*: add it"),
    (
        v2(top_ranked=without("top_ranked", "corpus-ids")),
        "config 'top_ranked': column 'corpus-ids' is missing",
    ),
    (v2(corpus=["text"]), "config 'corpus': column '_id' is missing"),
    (swapped("corpus", {"_id": "a", "text": None}), "config 'corpus': column 'text' holds null; .*: fill it"),
    (
        swapped("top_ranked", {"query-id": "1-og", "corpus-ids": ["a", "zz"]}),
        "config 'top_ranked': query '1-og' lists passage 'zz'; allowed are the 4 ids of corpus: add it",
    ),
    (swapped("top_ranked"), "query '1-og' has no candidates; allowed are 1 or more: add them"),
    (swapped("top_ranked", {"query-id": "1-og", "corpus-ids": []}), "query '1-og' has no candidates"),
    (swapped("queries", {"_id": "1-og", "text": " "}), "query '1-og' has an empty text; .*: fill it in"),
    (swapped("instruction"), "query '1-og' has no instruction; allowed is '': add a record"),
    (swapped("queries"), "query '1-og' is missing, .*; allowed are pairs BASE-og and BASE-changed: add it"),
    (v2(queries=V2["queries"][:1]), "query '1-changed' is missing, its other variant is there"),
    (swapped("queries", {"_id": "1", "text": "x"}), "query '1' has neither ending; allowed .*: rename it"),
    (
        swapped("qrel_diff", {"query-id": "7", "corpus-ids": ["a"]}),
        r"query '7' of qrel_diff is unknown; allowed are \['1', '2'\] \.\.\.: remove it",
    ),
    (v2(corpus=V2["corpus"] * 2), "config 'corpus': _id 'a' has 2 records; allowed is 1: remove"),
    (v2(queries=V2["queries"] * 2), "config 'queries': _id '1-og' has 2 records; allowed is 1"),
    (v2(top_ranked=V2["top_ranked"] * 2), "config 'top_ranked': query-id '1-og' has 2 records; allowed is 1"),
    (
        swapped("default", {"query-id": "1-og", "corpus-id": "a", "score": 0.5}),
        "config 'default': score 0.5; allowed are whole grades 0, 1, 2: correct it",
    ),
]


@pytest.mark.parametrize(("tables", "says"), FAULTS, ids=[says for _, says in FAULTS])
def test_faults_are_named(tables, says):
    with pytest.raises(InputError, match=f"task 'tiny', {says}") as caught:
        task_from_tables("tiny", tables)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["missing", "./missing", "{tmp}/missing", "{tmp}/a/b/c", "", "a b/c"])
def test_missing_path(tmp_path, path):
    path = path.format(tmp=tmp_path)
    with pytest.raises(InputError, match=rf"task '{path}' is no folder; allowed are a folder, a hub id .*: check"):
        load_task(path)


def test_folder_without_a_task(tmp_path):
    with pytest.raises(InputError, match="config 'queries': missing or empty"):
        load_task(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"), [("q.parquet", b"PAR1 no"), ("q.jsonl", b'{"_id": 1'), ("q.jsonl", b"\xff")]
)
def test_broken_file_is_named(tmp_path, name, content):
    write(tmp_path, v2(queries=None))
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"queries/{name}: .*; allowed are .* files: fetch it again") as caught:
        load_task(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_several_splits_without_test_are_refused(tmp_path):
    write(tmp_path, V2)
    (tmp_path / "queries" / "train-0.jsonl").write_text("{}")
    with pytest.raises(
        InputError, match=r"queries has splits \['queries', 'train'\]; allowed is one, .*: remove others"
    ):
        load_task(str(tmp_path))


def simulate_hub(monkeypatch, tables, seen):
    def names(hub_id, revision):
        seen.append((hub_id, revision))
        return [*tables, "something else"]

    def load(hub_id, config, revision):
        seen.append((hub_id, revision))
        split = "qrel_diff" if config == "qrel_diff" else "test"
        return DatasetDict({split: Dataset.from_list(tables[config])})

    monkeypatch.setattr(tables_module, "get_dataset_config_names", names)
    monkeypatch.setattr(tables_module, "load_dataset", load)


@pytest.mark.parametrize("tables", [V2, MTEB, V1])
def test_hub_ids_are_read_at_their_revision(monkeypatch, tables):
    seen = []
    simulate_hub(monkeypatch, tables, seen)
    task = load_task("mteb/News21InstructionRetrieval@c6fffeb")
    assert (task.name, task.metric, task.qrels) == ("news21", "ndcg_5", GRADES)
    assert set(seen) == {("mteb/News21InstructionRetrieval", "c6fffeb")}
    load_task("owner/name")
    assert seen[-1] == ("owner/name", None)


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach\nthe hub"), RuntimeError("scripts"), ValueError("x")]
)
def test_every_hub_error_names_the_id(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tables_module, "get_dataset_config_names", fail)
    with pytest.raises(
        InputError, match=r"task 'owner/name' \(revision abc\) .*; allowed are .*: check the name"
    ) as caught:
        load_task("owner/name@abc")
    assert "\n" not in str(caught.value)


def test_synthetic_tasks_come_by_the_same_door():
    task = load_task(f"synthetic/{synthetic.TASKS[0]}")
    assert task.name == f"synthetic-{synthetic.TASKS[0]}"
    assert any(task.changed.values())
    with pytest.raises(InputError, match=f"'nothing'.*{synthetic.TASKS[0]}"):
        load_task("synthetic/nothing")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the small real data are not at {DATA}")
@pytest.mark.parametrize(("name", "num_bases"), [("core17", 20), ("news21", 24), ("robust04", 28)])
def test_small_real_tasks(tmp_path, name, num_bases):
    task = load_task(str(DATA / f"followir-mini-{name}"))
    assert (len(task.base_ids), len(task.queries)) == (num_bases, 2 * num_bases)
    assert {len(doc_ids) for doc_ids in task.candidates.values()} == {200}
    assert task.metric == ("ndcg_5" if name == "news21" else "map_1000")
    for base, doc_ids in task.changed.items():  # v1 does not list them: the same follows from the grades
        before, after = task.qrels[f"{base}-og"], task.qrels[f"{base}-changed"]
        assert set(doc_ids) == {doc_id for doc_id in before if before[doc_id] != after.get(doc_id, 0)}


def test_a_task_of_published_size_is_read_in_seconds(tmp_path):
    ids = [str(number) for number in range(47_000)]
    tables = v2(corpus=[{"_id": doc_id, "title": "", "text": "word " * 50} for doc_id in ids])
    tables["top_ranked"] = [{"query-id": query_id, "corpus-ids": ids} for query_id in GRADES]
    path = write(tmp_path, tables)
    start = time.perf_counter()
    assert len(load_task(path).passages) == 47_000
    assert time.perf_counter() - start < 10
