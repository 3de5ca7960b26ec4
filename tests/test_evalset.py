"""Tasks in their three layouts, from folders, the hub (simulated) and the synthetic world."""

import time
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from tasks import GRADES, MTEB, V1, V2, v2, write

from ifir_lightning.data import synthetic
from ifir_lightning.data import tables as tables_module
from ifir_lightning.data.evalset import load_task, task_from_tables, task_name
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
    tables["default"] = [{"query-id": query_id, "corpus-id": 2, "score": 1} for query_id in GRADES]
    tables["qrel_diff"] = [{"query-id": 1, "corpus-ids": [2]}]
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


@pytest.mark.parametrize("path", ["missing", "./missing", "{tmp}/missing", "{tmp}/a/b/c", "", "a b/c"])
def test_missing_path(tmp_path, path):
    path = path.format(tmp=tmp_path)
    with pytest.raises(InputError, match=rf"task '{path}' is no folder; allowed are a folder, a hub id .*: check"):
        load_task(path)


def test_folder_without_a_task(tmp_path):
    with pytest.raises(InputError, match="config 'queries': missing or empty"):
        load_task(str(tmp_path))


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
    ids = [*"abc", *map(str, range(46_997))]
    tables = v2(corpus=[{"_id": doc_id, "title": "", "text": "word " * 50} for doc_id in ids])
    tables["top_ranked"] = [{"query-id": query_id, "corpus-ids": ids} for query_id in GRADES]
    path = write(tmp_path, tables)
    start = time.perf_counter()
    assert len(load_task(path).passages) == 47_000
    assert time.perf_counter() - start < 10
