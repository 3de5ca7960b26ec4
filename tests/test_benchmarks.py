"""Benchmarks beside FollowIR: their layouts from disk, their metrics against numbers worked by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from small import write_task

from ifir_lightning.benchmarks import mfollowir
from ifir_lightning.benchmarks.infosearch import InfoSearch, complies, wise
from ifir_lightning.benchmarks.names import BENCHMARKS, named_task
from ifir_lightning.data.evalset import Task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Run
from ifir_lightning.records import Passage

CORPUS = [{"_id": key, "title": f"T{key}", "text": f"text {key}"} for key in "abcd"]


def write(folder: Path, tables: dict[str, list[dict[str, Any]]], split: str = "test") -> str:
    for config, records in tables.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / config / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return str(folder)


def qrels(*lines: str) -> list[dict[str, Any]]:
    """ "1-og a 1" and so on."""
    return [
        {"query-id": query_id, "corpus-id": passage_id, "score": float(grade)}
        for query_id, passage_id, grade in map(str.split, lines)
    ]


def ranked(order: str) -> dict[str, float]:
    """Scores that rank the passages of a word: "bad" is b, a, d."""
    return {passage_id: float(-place) for place, passage_id in enumerate(order)}


# ---------------------------------------------------------------------------------------------------- InstructIR

INSTRUCTIR = {
    "corpus": CORPUS,
    "queries": [{"_id": f"7_{n}", "text": "beach"} for n in (0, 1)] + [{"_id": "8_0", "text": "snow"}],
    "instruction": [{"query-id": query_id, "instruction": f"I am {query_id}"} for query_id in ("7_0", "7_1", "8_0")],
    "default": qrels("7_0 a 1", "7_1 b 1", "8_0 c 1"),
}


def instructir(folder: Path, name: str = "instructir", **changes: Any) -> Any:
    return named_task(f"{name}:{write(folder / 'tiny', {**INSTRUCTIR, **changes})}")


def test_instructir_layout(tmp_path: Path) -> None:
    task = instructir(tmp_path)
    assert (task.name, task.benchmark) == ("tiny", "instructir")
    assert task.queries == {"7_0": "beach", "7_1": "beach", "8_0": "snow"}
    assert task.instructions["7_1"] == "I am 7_1"
    assert task.candidates is None, "every query is judged against the whole corpus"
    assert task.passages["d"] == Passage("d", "Td", "text d")
    assert task.qrels == {"7_0": {"a": 1}, "7_1": {"b": 1}, "8_0": {"c": 1}}


def test_instruction_first_exchanges_the_texts(tmp_path: Path) -> None:
    task = instructir(tmp_path, "instructir-instruction-first")
    assert task.benchmark == "instructir-instruction-first"
    assert (task.queries["7_1"], task.instructions["7_1"]) == ("I am 7_1", "beach")


@pytest.mark.parametrize("name", ["instructir", "instructir-instruction-first"])
def test_robustness_is_the_mean_over_queries_of_the_lowest_ndcg(tmp_path: Path, name: str) -> None:
    """Query 7: its passage at rank 1 and at rank 2, the lower is 1 / log2(3); query 8: rank 3, 1 / log2(4)."""
    run = {"7_0": ranked("abcd"), "7_1": ranked("abcd"), "8_0": ranked("abcd")}
    metrics = instructir(tmp_path, name).evaluate(run)
    second, third = 1 / math.log2(3), 0.5
    assert metrics == {
        "task": "tiny",
        "robustness_10": pytest.approx(100 * (second + third) / 2),
        "ndcg_10": pytest.approx(100 * (1 + second + third) / 3),
        "num_queries": 3,
        "num_base_queries": 2,
    }


def test_a_query_that_the_run_lacks_counts_0_in_robustness(tmp_path: Path) -> None:
    metrics = instructir(tmp_path).evaluate({"7_0": ranked("abcd"), "8_0": ranked("cabd")})
    assert metrics["robustness_10"] == pytest.approx(50)
    assert metrics["ndcg_10"] == pytest.approx(100 * 2 / 3)


def test_instructir_judges_passages_of_its_corpus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task 'tiny': 1 of 1 judged queries have no relevant passage in the corpus"):
        instructir(tmp_path, default=qrels("7_0 A 1"))


def test_an_instructir_query_needs_its_instruction(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"config 'instruction': query '8_0' of the qrels has no instruction; .*add it"
    ):
        instructir(tmp_path, instruction=INSTRUCTIR["instruction"][:2])


# ---------------------------------------------------------------------------------------------------- InfoSearch

INFOSEARCH = {
    "corpus": CORPUS,
    "queries": [
        {"_id": base, "text": f"query {base}"} | {f"instruction_{run}": run for run in ("og", "changed", "reversed")}
        for base in "123"
    ],
    "qrels_og": qrels("1 a 1", "1 b 1", "2 c 1", "3 d 1"),
    "qrels_changed": qrels("1 a 1", "1 b 0", "2 c 1", "3 d 0"),
    "qrels_reversed": qrels("1 a 0", "1 b 1", "2 c 0", "3 d 1"),
}


def infosearch(folder: Path, **changes: Any) -> InfoSearch:
    task = named_task(f"infosearch:{write(folder / 'Audience-v1', INFOSEARCH | changes)}")
    assert isinstance(task, InfoSearch)
    return task


def test_infosearch_layout(tmp_path: Path) -> None:
    task = infosearch(tmp_path)
    assert task.name == "audience-v1"
    assert list(task.queries) == [f"{base}-{run}" for run in ("og", "changed", "reversed") for base in "123"]
    assert (task.queries["2-reversed"], task.instructions["2-reversed"]) == ("query 2", "reversed")
    assert task.qrels["1-og"] == {"a": 1, "b": 1}
    assert task.qrels["1-changed"] == {"a": 1, "b": 0}
    assert task.candidates is None
    assert task.depth > 10**9


def test_infosearch_judges_its_own_queries(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 of 2 judged queries are not among the queries .*'1-og'"):
        infosearch(tmp_path, qrels_reversed=qrels("1-og a 1", "2-og c 1"))


@pytest.mark.parametrize(
    ("original", "instructed", "reversed_", "value"),
    [
        (2, 1, 3, 1.0),  # among the N = 2 relevant, and now first
        (1, 1, 2, 1.0),
        (5, 1, 6, 1 - 2 / 20),  # first, but from below the relevant: 1 - sqrt(4) / 20
        (13, 4, 14, (1 - 3 / 20) / 2),
        (20, 4, 30, (1 - 4 / 20) / 2),
        (21, 1, 30, 0.01),
        (4, 4, 5, 0.5),  # it did not move up, and 1 / sqrt(4) rewards where it stands
        (3, 5, 1, -1.0),  # the wrong way in both
        (2, 5, 3, -3 / 5),
        (2, 5, 2, -3 / 5),
        (4, 4, 4, 0.0),
        (4, 2, 3, -1 / 4),  # up with the instruction, up with its reverse too
        (4, 2, 4, 0.0),
    ],
)
def test_wise_by_hand(original: int, instructed: int, reversed_: int, value: float) -> None:
    assert wise(original, instructed, reversed_, num_relevant=2) == pytest.approx(value)


@pytest.mark.parametrize(
    ("places", "scores", "counts"),
    [
        ([2, 1, 3], [0.5, 0.6, 0.4], True),
        ([2, 2, 3], [0.5, 0.6, 0.4], False),
        ([2, 1, 2], [0.5, 0.6, 0.4], False),
        ([2, 1, 3], [0.5, 0.5, 0.4], False),
        ([2, 1, 3], [0.5, 0.6, 0.5], False),
        ([1, 1, 2], [0.5, 0.6, 0.4], False),  # the definition, not the authors' code
    ],
)
def test_a_passage_complies_strictly(places: list[int], scores: list[float], counts: bool) -> None:
    assert complies(places, scores) is counts


def test_infosearch_metrics_by_hand(tmp_path: Path) -> None:
    """Query 1: a goes 2 -> 1, and to 4 when reversed, N = 2: 1. Query 2: c goes 3 -> 4: -1/4. Query 3 has no gold."""
    run: Run = {
        "1-og": {"b": 0.9, "a": 0.5, "c": 0.2, "d": 0.1},
        "1-changed": {"a": 0.8, "b": 0.5, "c": 0.2, "d": 0.1},
        "1-reversed": {"b": 0.9, "c": 0.8, "d": 0.7, "a": 0.4},
        **{"2-og": ranked("abcd"), "2-changed": ranked("abdc"), "2-reversed": ranked("abdc")},
        **{f"3-{end}": ranked("abcd") for end in ("og", "changed", "reversed")},
    }
    metrics = infosearch(tmp_path).evaluate(run)
    fourth = 1 / math.log2(5)
    assert metrics == {
        "task": "audience-v1",
        "wise": pytest.approx(100 * (1 - 1 / 4) / 2),
        "sicr": 50.0,
        "ndcg_10_original": pytest.approx(100 * (1 + 0.5 + fourth) / 3),
        "ndcg_10_instructed": pytest.approx(100 * (1 + fourth + 0) / 3),
        "ndcg_10_reversed": pytest.approx(100 * (1 + 0 + fourth) / 3),
        "num_queries": 2,
        "skipped_queries": 0,
    }


def test_a_passage_judged_below_0_is_not_gold(tmp_path: Path) -> None:
    run = {f"{base}-{end}": ranked("abcd") for base in "123" for end in ("og", "changed", "reversed")}
    run["2-changed"] = ranked("dabc")
    plain = infosearch(tmp_path / "plain").evaluate(run)
    judged = INFOSEARCH["qrels_og"] + qrels("2 d -1")
    changed = INFOSEARCH["qrels_changed"] + qrels("2 d 1")
    found = infosearch(tmp_path / "judged", qrels_og=judged, qrels_changed=changed).evaluate(run)
    assert (found["wise"], found["sicr"]) == (plain["wise"], plain["sicr"])


def test_queries_that_nobody_judged_do_not_count(tmp_path: Path) -> None:
    """Query 4 is not judged at all, query 3 not when reversed."""
    fourth = INFOSEARCH["queries"][0] | {"_id": "4"}
    judged = qrels("1 a 0", "1 b 1", "2 c 1")
    task = infosearch(tmp_path, queries=[*INFOSEARCH["queries"], fourth], qrels_reversed=judged)
    assert len(task.queries) == 9
    ends = ("og", "changed", "reversed")
    run = {
        f"{base}-{end}": ranked(order) for base, order in (("1", "bacd"), ("2", "cabd"), ("3", "dabc")) for end in ends
    }
    metrics = task.evaluate(run)
    assert metrics["ndcg_10_original"] == metrics["ndcg_10_reversed"] == 100.0


def test_a_base_query_without_one_of_its_runs_is_skipped_and_counted(tmp_path: Path) -> None:
    task = infosearch(tmp_path)
    run = {f"2-{end}": ranked("abcd") for end in ("og", "changed", "reversed")} | {"1-og": ranked("abcd")}
    metrics = task.evaluate(run)
    assert (metrics["num_queries"], metrics["skipped_queries"], metrics["wise"]) == (1, 1, 0.0)
    with pytest.raises(InputError, match="no usable query: the run lacks one of -og, -changed, -reversed of each"):
        task.evaluate({"1-og": ranked("abcd")})


# ---------------------------------------------------------------------------------------------------- mFollowIR

VARIANTS = ("1-og", "1-changed", "2-og", "2-changed")
MFOLLOWIR = {
    "corpus-fas": CORPUS,
    "queries-fas": [{"_id": query_id, "text": "پرسش"} for query_id in VARIANTS],
    "instruction-fas": [{"query-id": query_id, "instruction": "دستور"} for query_id in VARIANTS],
    "data-fas": qrels("1-og a 1", "1-og b 3", "1-changed b 3", "2-og c 1", "2-changed d 1"),
    "qrel_diff-fas": [{"query-id": "1", "corpus-ids": ["a"]}, {"query-id": "2", "corpus-ids": ["c"]}],
    "top_ranked-fas": [{"query-id": query_id, "corpus-ids": list("abcd")} for query_id in VARIANTS],
}


@pytest.mark.parametrize(("folder", "name"), [("mFollowIR", "fas"), ("mFollowIR-cross-lingual", "eng-fas")])
def test_mfollowir_layout_and_metrics_by_hand(tmp_path: Path, folder: str, name: str) -> None:
    """p-MRR: a goes 2 -> 4, +1/2; c goes 2 -> 1, -1/2. Scale B: query 1 ranks the grades 3, 1; query 2 has c second."""
    task = named_task(f"mfollowir-fas:{write(tmp_path / folder, MFOLLOWIR)}")
    assert (task.name, task.benchmark) == (name, "mfollowir")
    assert task.instructions["2-changed"] == "دستور"
    run = {
        "1-og": ranked("bacd"),
        "1-changed": ranked("bcda"),
        "2-og": ranked("acbd"),
        "2-changed": ranked("cabd"),
    }
    metrics = task.evaluate(run)
    assert metrics["p_mrr"] == pytest.approx(0.0)
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    assert metrics["ndcg_20_b"] == pytest.approx(100 * (1 + second) / 2)
    assert metrics["ndcg_20_a"] == pytest.approx(100 * (1 + fourth) / 2)
    assert metrics["ndcg_20_c"] == pytest.approx(100 * (1 + fourth) / 2)
    only_first = {query_id: scores for query_id, scores in run.items() if query_id[0] == "1"}
    metrics = task.evaluate(only_first)
    assert (metrics["p_mrr"], metrics["skipped_queries"]) == (50.0, 1)
    assert metrics["ndcg_20_b"] == pytest.approx(50.0)


def test_a_language_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, MFOLLOWIR)
    with pytest.raises(InputError, match=r"has nothing in rus; needed are corpus-rus, .*, top_ranked-rus: check"):
        mfollowir.load("rus", path)


# ---------------------------------------------------------------------------------------------------- retrieval

BEIR_CORPUS = "".join(json.dumps(record) + "\n" for record in CORPUS)
BEIR_QUERIES = "".join(json.dumps({"_id": key, "text": f"query {key}"}) + "\n" for key in "123")


def write_beir(folder: Path, scores: str = "1\ta\t2\n1\tb\t1\n2\tc\t1\n") -> str:
    """BEIR's own layout; query 3 belongs to another split."""
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(BEIR_CORPUS)
    (folder / "queries.jsonl").write_text(BEIR_QUERIES)
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n3\td\t1\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + scores)
    return str(folder)


def test_beir_layout_and_ndcg_by_hand(tmp_path: Path) -> None:
    """Query 1 finds the grades 1, 2: (1 + 2 / log2(3)) / (2 + 1 / log2(3)); query 2 nothing in its first ten."""
    task = named_task(f"beir:{write_beir(tmp_path / 'scifact')}")
    assert (task.name, task.candidates, task.queries) == ("scifact", None, {"1": "query 1", "2": "query 2"})
    assert set(task.instructions.values()) == {""}
    second = 1 / math.log2(3)
    first = (1 + 2 * second) / (2 + second)
    assert task.evaluate({"1": ranked("bacd"), "2": ranked("abd")}) == {
        "task": "scifact",
        "ndcg_10": pytest.approx(100 * first / 2),
        "num_queries": 2,
    }


def test_candidates_that_are_given_are_re_ranked(tmp_path: Path) -> None:
    tables = {
        "corpus": CORPUS,
        "queries": [{"_id": "1", "text": "query"}],
        "qrels": [{"query-id": "1", "corpus-id": "a"}, {"query-id": "1", "corpus-id": "b"}],
        "top_ranked": [{"query-id": "1", "corpus-ids": ["c", "a", "c"]}],
    }
    task = named_task(f"beir:{write(tmp_path, tables, 'train')}")
    assert task.candidates == {"1": ("c", "a")}
    assert set(task.passages) == {"c", "a"}
    assert task.evaluate({"1": ranked("a")})["ndcg_10"] == pytest.approx(100 / (1 + 1 / math.log2(3))), "grades are 1"
    with pytest.raises(InputError, match="config 'top_ranked': query '1' has no candidates; allowed are 1 or more"):
        named_task(f"beir:{write(tmp_path, tables | {'top_ranked': [{'query-id': '1', 'corpus-ids': []}]}, 'train')}")


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ("1\ta\thigh\n", r"test\.tsv: line 2 has the score 'high', which is no number; allowed are intact \.tsv files"),
        ("1\ta\t1\n1\tb\n", r"test\.tsv: line 3 has 2 values, the header 3; allowed are intact \.tsv files"),
        ("1\ta\t0.5\n", r"config 'qrels': score 0\.5; allowed are whole grades 0, 1, 2"),
        ("1\t0a\t1\n", r"task 'x': 1 of 1 judged queries have no relevant passage in the corpus \(first '1'\)"),
        ("9\ta\t1\n", r"config 'queries': query '9' of the qrels has no text; .*: add it"),
    ],
)
def test_faulty_qrels_are_named(tmp_path: Path, scores: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        named_task(f"beir:{write_beir(tmp_path / 'x', scores)}")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "followir"])
def test_another_layout_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"needed are .*: (add it|check the layout)$") as caught:
        named_task(f"{name}:{tmp_path}")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="none' is no folder; allowed are a folder"):
        named_task(f"{name}:{tmp_path}/none")


@pytest.mark.parametrize("task", ["synthetic/food", "followir:synthetic/food"])
def test_followir_needs_no_name(task: str) -> None:
    loaded = named_task(task)
    assert isinstance(loaded, Task)
    assert (loaded.name, loaded.benchmark) == ("synthetic-food", "followir")


@pytest.mark.parametrize("name", ["instrctir", "no_such_module.load", "json.no_such_function"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"no benchmark is called '{name}' \(.*\); allowed are followir, instructir,"):
        named_task(f"{name}:some/folder")


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tasks_for_a_test.py").write_text("from ifir_lightning.benchmarks.retrieval import load as own\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IFIR_PLUGINS", "my_tasks_for_a_test")
    assert named_task(f"my_tasks_for_a_test.own:{write_beir(tmp_path / 'data')}").name == "data"
    with pytest.raises(
        InputError, match=r"task 'my_tasks_for_a_test.own' has no path; allowed is module.function:PATH"
    ):
        named_task("my_tasks_for_a_test.own")
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "my_tasks_for_a_test")
    assert named_task("my_tasks_for_a_test").name == "my-tasks-for-a-test", "a folder may have a package's name"


def test_a_function_of_ones_own_that_makes_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_tasks_for_a_test.py").write_text("def own(path):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IFIR_PLUGINS", "no_tasks_for_a_test")
    with pytest.raises(InputError, match=r"'no_tasks_for_a_test.own:x': its function returned None; allowed is a Rank"):
        named_task("no_tasks_for_a_test.own:x")
