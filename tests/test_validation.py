"""Other benchmarks through the door of FollowIR: in validation, evaluate and predict."""

import csv
import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from small import retriever, synthetic_data, trainer, write_task
from test_benchmarks import INFOSEARCH, INSTRUCTIR, MFOLLOWIR, write, write_beir

from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.callbacks import followir
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.callbacks.prediction import TrecPrediction
from ifir_lightning.commands.evaluate import evaluate
from ifir_lightning.metrics import Metrics, Run
from ifir_lightning.records import Passage
from ifir_lightning.trec import read_run

LOGGED = {
    "followir": {"p_mrr", "score_a", "score_b", "score_c"},
    "instructir": {"robustness_10", "ndcg_10"},
    "instructir-instruction-first": {"robustness_10", "ndcg_10"},
    "infosearch": {"wise", "sicr", "ndcg_10_instructed"},
    "mfollowir": {"p_mrr", "ndcg_20_b"},
    "beir": {"ndcg_10"},
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tasks")
    instructir = write(folder / "users", INSTRUCTIR)
    return [
        write_task(folder / "travel"),
        f"instructir:{instructir}",
        f"instructir-instruction-first:{instructir}",
        f"infosearch:{write(folder / 'Audience-v1', INFOSEARCH)}",
        f"infosearch:{write(folder / 'Length-v1', INFOSEARCH)}",
        f"mfollowir-fas:{write(folder / 'mfollowir', MFOLLOWIR)}",
        f"beir:{write_beir(folder / 'scifact')}",
    ]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, modernbert: Path, tasks: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = {"max_steps": 1, "val_check_interval": 1, "logger": MetricsCSV(str(folder))}
    trainer(folder, FollowIRValidation(tasks), **settings).fit(retriever(modernbert, "maxsim"), synthetic_data())
    return folder


def test_every_benchmark_is_logged_under_its_name(run_folder: Path) -> None:
    with open(run_folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["followir/p_mrr"]]
    assert [row["step"] for row in rows] == ["0", "1"]
    for row in rows:
        found = {name.partition("/")[0]: set() for name in row if "/" in name} | {}
        for name, value in row.items():
            if value and name.count("/") == 1:
                found[name.partition("/")[0]].add(name.partition("/")[2])
        assert {name: found[name] for name in LOGGED} == LOGGED
        both = [float(row[f"infosearch/{name}/wise"]) for name in ("audience-v1", "length-v1")]
        assert float(row["infosearch/wise"]) == pytest.approx(fmean(both), abs=1e-4)
        assert row["beir/scifact/truncated_passage_tokens"] == "0.0"


@pytest.mark.parametrize("number", range(1, 7))
def test_written_runs_have_the_logged_numbers(run_folder: Path, tasks: list[str], number: int) -> None:
    task = named_task(tasks[number])
    folder = run_folder / task.benchmark / "step-00000001"
    record = json.loads((folder / "metrics.json").read_text())
    (written,) = (metrics for metrics in record["tasks"] if metrics["task"] == task.name)
    run = read_run(folder / f"{task.name}.trec")
    assert set(run) == set(task.queries)
    assert {len(scores) for scores in run.values()} == {4}
    assert task.evaluate(run).items() <= written.items()
    assert record["benchmark"].keys() == LOGGED[task.benchmark]


def test_the_order_of_texts_matters(run_folder: Path) -> None:
    runs = [run_folder / name / "step-00000001" / "users.trec" for name in LOGGED if name.startswith("instructir")]
    assert runs[0].read_text() != runs[1].read_text()


def test_only_followir_has_a_picture(run_folder: Path) -> None:
    assert [path.name for path in run_folder.glob("**/*.png")] == ["p_mrr.png"]


@pytest.mark.parametrize("number", [1, 3, 5, 6])
def test_predict_and_evaluate_agree_with_validation(
    number: int, modernbert: Path, run_folder: Path, tasks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of the untrained model."""
    task, output = named_task(tasks[number]), tmp_path / "run.trec"
    prediction = TrecPrediction(task=tasks[number], output=str(output))
    trainer(tmp_path, prediction).predict(retriever(modernbert, "maxsim"), synthetic_data(), return_predictions=False)
    step_0 = run_folder / task.benchmark / "step-00000000"
    assert read_run(output) == read_run(step_0 / f"{task.name}.trec")
    capsys.readouterr()
    evaluate(tasks[number], str(output), json=True)
    printed = json.loads(capsys.readouterr().out)
    (written,) = (m for m in json.loads((step_0 / "metrics.json").read_text())["tasks"] if m["task"] == task.name)
    assert printed.items() <= written.items()


def test_the_table_of_evaluate_names_every_metric(
    run_folder: Path, tasks: list[str], capsys: pytest.CaptureFixture
) -> None:
    evaluate(tasks[3], str(run_folder / "infosearch" / "step-00000001" / "audience-v1.trec"))
    printed = capsys.readouterr().out
    for part in (
        "audience-v1 (infosearch), x100",
        "WISE",
        "SICR",
        "nDCG@10 instructed",
        "ndcg_10_reversed",
        "num_queries 2",
    ):
        assert part in printed
    assert printed.index("WISE") < printed.index("ndcg_10_original")


def test_what_a_run_lacks_is_said(tasks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run.trec").write_text("7_0 Q0 a 1 0.5 x\n")
    evaluate(tasks[1], str(tmp_path / "run.trec"))
    error = capsys.readouterr().err
    assert error.endswith("lacks 2 of 3 queries of users (first '7_1'): they count 0 in MAP and nDCG\n")


def test_without_followir_there_is_nothing_of_followir(modernbert: Path, tasks: list[str], tmp_path: Path) -> None:
    evaluation = trainer(tmp_path, FollowIRValidation(tasks[-1:]))
    evaluation.validate(retriever(modernbert), synthetic_data(), verbose=False)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir() and path.name in LOGGED} == {"beir"}
    assert {name for name in evaluation.callback_metrics if name.endswith("ndcg_10")} == {
        "beir/ndcg_10",
        "beir/scifact/ndcg_10",
    }


def test_predict_keeps_the_best(modernbert: Path, run_folder: Path, tasks: list[str], tmp_path: Path) -> None:
    prediction = TrecPrediction(task=tasks[5], output=str(tmp_path / "run.trec"), top_k=2)
    trainer(tmp_path, prediction).predict(retriever(modernbert, "maxsim"), synthetic_data(), return_predictions=False)
    whole = read_run(run_folder / "mfollowir" / "step-00000000" / "fas.trec")
    assert read_run(tmp_path / "run.trec") == {
        query_id: dict(list(scores.items())[:2]) for query_id, scores in whole.items()
    }


def test_a_benchmark_of_ones_own_counts_what_it_likes(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With a lonely half of a pair among its queries; its number of queries is told from the task."""

    class Own(RankingTask):
        benchmark, headline = "own", {"moved": "moved"}

        def evaluate(self, run: Run) -> Metrics:
            return {"task": self.name, "moved": 1.0}

    queries = {"1-og": "red", "2": "blue"}
    own = Own("mine", queries, dict.fromkeys(queries, ""), {"a": Passage("a", "", "a car")}, None)
    monkeypatch.setattr(followir, "named_task", lambda path: own)
    trainer(tmp_path, FollowIRValidation(["own"])).validate(retriever(modernbert), synthetic_data(), verbose=False)
    assert re.search(r"mine\W+1\.00\W+2\W+0\.0/0\.0", capsys.readouterr().out)


def test_a_figure_that_is_no_number_is_said(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(RankingTask):
        benchmark, headline = "own", {"moved": "moved", "stayed": "stayed"}

        def evaluate(self, run: Run) -> Metrics:
            return {"task": self.name, "moved": float("nan"), "stayed": 1.0}

    own = Own("mine", {"1": "red"}, {"1": ""}, {"a": Passage("a", "", "a car")}, None)
    monkeypatch.setattr(followir, "named_task", lambda path: own)
    with pytest.warns(match="mine: moved is no finite number"):
        trainer(tmp_path, FollowIRValidation(["own"])).validate(retriever(modernbert), synthetic_data(), verbose=False)
