"""FollowIRValidation in a short fit: when it runs, what it writes and logs, who can monitor it."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from ranks import on_ranks
from small import DROPOUT, TINY, retriever, synthetic_data, trainer, write_task

from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.data.evalset import load_task
from ifir_lightning.metrics import evaluate_run
from ifir_lightning.module import RetrieverModule
from ifir_lightning.trec import read_run

DOMAINS = ("travel", "food")
STEPS = [0, 2, 4]
PER_TASK = {
    "p_mrr",
    *(f"{metric}_{scale}" for metric in ("map_1000", "ndcg_5", "score") for scale in "abc"),
    "truncated_query_tokens",
    "truncated_passage_tokens",
}
MEANS = {"p_mrr", "score_a", "score_b", "score_c"}


@dataclass(frozen=True)
class Fit:
    folder: Path
    tasks: list[str]
    best: str
    best_score: float
    last: dict[str, float]


def fit(
    folder: Path, backbone: Path, tasks: list[str], *callbacks: Any, ckpt_path: str | None = None, **settings: Any
) -> Fit:
    """Four steps with a validation after each second."""
    best = ModelCheckpoint(folder / "checkpoints", "best-{step}", "followir/p_mrr", mode="max")
    logger = MetricsCSV(str(folder))
    quick = {"max_steps": 4, "val_check_interval": 2, "logger": logger, "enable_checkpointing": True}
    followir = FollowIRValidation(tasks)
    fit_trainer = trainer(folder, followir, best, *callbacks, **(quick | settings))
    fit_trainer.fit(with_dropout(backbone), synthetic_data(), ckpt_path=ckpt_path)
    last = {name: float(value) for name, value in fit_trainer.callback_metrics.items()}
    return Fit(folder, tasks, best.best_model_path, float(best.best_model_score or math.nan), last)


def with_dropout(backbone: Path) -> RetrieverModule:
    """So that a validation in training mode would have other numbers each time."""
    return retriever(backbone, "weighted", config=TINY | DROPOUT)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tasks")
    return [write_task(folder / domain, domain) for domain in DOMAINS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, modernbert: Path, tasks: list[str]) -> Fit:
    return fit(tmp_path_factory.mktemp("run"), modernbert, tasks)


def read_csv(folder: Path) -> dict[int, dict[str, float]]:
    """step -> what was logged there."""
    with open(folder / "metrics.csv", newline="") as file:
        return {int(row["step"]): {k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)}


def test_it_runs_before_the_first_step_and_at_each_validation(finished: Fit) -> None:
    folders = {path.name: path for path in (finished.folder / "followir").iterdir()}
    assert sorted(folders) == [f"step-{step:08d}" for step in STEPS]
    for folder in folders.values():
        assert {path.name for path in folder.iterdir()} == {"travel.trec", "food.trec", "metrics.json"}
        assert json.loads((folder / "metrics.json").read_text())["step"] == int(folder.name[5:])
    assert (finished.folder / "p_mrr.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_training_changes_the_run(finished: Fit) -> None:
    runs = {(finished.folder / "followir" / f"step-{step:08d}" / "travel.trec").read_text() for step in STEPS}
    assert len(runs) == len(STEPS)


def test_training_goes_on_in_training_mode(modernbert: Path, tasks: list[str], tmp_path: Path) -> None:
    """The validation before the first step is not Lightning's, which would see to it."""
    modes: list[bool] = []
    module = with_dropout(modernbert)
    look = LambdaCallback(on_train_batch_start=lambda *_: modes.extend(layer.training for layer in module.modules()))
    trainer(tmp_path, FollowIRValidation(tasks[:1]), look, max_steps=1).fit(module, synthetic_data())
    assert set(modes) == {True}


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_every_validation_encodes_in_the_precision_of_training(
    precision: str, modernbert: Path, tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's autocast covers its steps, not the hooks in which the benchmark runs."""
    module = with_dropout(modernbert)
    seen: list[bool] = []
    encode = module.retriever.forward
    monkeypatch.setattr(
        module.retriever, "forward", lambda tokens: seen.append(torch.is_autocast_enabled("cpu")) or encode(tokens)
    )
    fit_trainer = trainer(
        tmp_path, FollowIRValidation(tasks[:1]), max_steps=2, val_check_interval=1, precision=precision
    )
    fit_trainer.fit(module, synthetic_data())
    fit_trainer.validate(module, synthetic_data(), verbose=False)
    assert len(seen) > 6
    assert set(seen) == {precision == "bf16-mixed"}


def test_metrics_are_logged_at_their_steps(finished: Fit) -> None:
    logged = read_csv(finished.folder)
    names = {f"followir/{name}" for name in MEANS}
    names |= {f"followir/{domain}/{name}" for domain in DOMAINS for name in PER_TASK}
    assert [step for step, row in logged.items() if "followir/p_mrr" in row] == STEPS
    for step in STEPS:
        assert {name for name in logged[step] if name.startswith("followir/")} == names
    assert [step for step, row in logged.items() if "train/loss" in row] == [1, 2, 3, 4]
    assert names <= set(finished.last)


def test_logged_numbers_are_those_of_the_written_runs(finished: Fit) -> None:
    logged = read_csv(finished.folder)
    for step in STEPS:
        folder = finished.folder / "followir" / f"step-{step:08d}"
        written = json.loads((folder / "metrics.json").read_text())
        for path, domain, found in zip(finished.tasks, DOMAINS, written["tasks"], strict=True):
            task = load_task(path)
            run = read_run(folder / f"{domain}.trec")
            expected = evaluate_run(run, task.qrels, task.changed, task.name, task.metric)
            assert {name: found[name] for name in expected} == expected
            for name in PER_TASK & expected.keys():
                assert logged[step][f"followir/{domain}/{name}"] == pytest.approx(expected[name], abs=1e-4)
        for name in MEANS:
            mean = fmean(result[name] for result in written["tasks"])
            assert written["benchmark"][name] == mean
            assert logged[step][f"followir/{name}"] == pytest.approx(mean, abs=1e-4)


def test_a_checkpoint_is_chosen_by_p_mrr(finished: Fit) -> None:
    logged = read_csv(finished.folder)
    best = max(STEPS[1:], key=lambda step: logged[step]["followir/p_mrr"])
    assert Path(finished.best).name == f"best-step={best}.ckpt"
    assert finished.best_score == pytest.approx(logged[best]["followir/p_mrr"], abs=1e-4)


def test_early_stopping_by_score_b(modernbert: Path, tasks: list[str], tmp_path: Path) -> None:
    stopping = EarlyStopping("followir/score_b", min_delta=1000, patience=1, mode="max", check_on_train_epoch_end=False)
    fit(tmp_path, modernbert, tasks, stopping, max_steps=20)
    assert sorted(read_csv(tmp_path)) == [0, 1, 2, 3, 4]


def test_two_ranks_give_the_same_numbers_and_write_once(finished: Fit, modernbert: Path, tmp_path: Path) -> None:
    first, second = on_ranks(2, fit, tmp_path, modernbert, finished.tasks)
    assert {k: v for k, v in first.last.items() if k.startswith("followir")} == {
        k: v for k, v in second.last.items() if k.startswith("followir")
    }
    assert first.best == second.best
    untrained = "followir/step-00000000"
    for domain in DOMAINS:
        runs = [(folder / untrained / f"{domain}.trec").read_text() for folder in (tmp_path, finished.folder)]
        assert runs[0] == runs[1]
    logged = [read_csv(folder) for folder in (tmp_path, finished.folder)]
    assert logged[0][0] == logged[1][0]
    assert sorted(logged[0]) == sorted(logged[1])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_keeps_its_curve_also_with_other_tasks(
    modernbert: Path, tasks: list[str], tmp_path: Path
) -> None:
    stopped = fit(tmp_path, modernbert, tasks, max_steps=2)
    before, picture = read_csv(tmp_path), (tmp_path / "p_mrr.png").read_bytes()
    others = [tasks[1], write_task(tmp_path / "health", "health")]
    fit(tmp_path, modernbert, others, ckpt_path=stopped.best)
    after = read_csv(tmp_path)
    assert sorted(after) == [0, 1, 2, 3, 4]
    assert [after[step] for step in (0, 1, 2)] == [before[step] for step in (0, 1, 2)]
    assert "followir/health/p_mrr" in after[4]
    assert len(list((tmp_path / "followir").iterdir())) == 3
    assert (tmp_path / "p_mrr.png").read_bytes() != picture


@pytest.mark.parametrize("command", ["validate", "test"])
def test_without_training(finished: Fit, modernbert: Path, tasks: list[str], tmp_path: Path, command: str) -> None:
    """The untrained model has the numbers of step 0."""
    evaluation = trainer(tmp_path, FollowIRValidation(tasks))
    getattr(evaluation, command)(with_dropout(modernbert), synthetic_data(), verbose=False)
    assert {path.name for path in (tmp_path / "followir").iterdir()} == {command}
    for domain in DOMAINS:
        runs = [tmp_path / "followir" / command, finished.folder / "followir" / "step-00000000"]
        assert (runs[0] / f"{domain}.trec").read_text() == (runs[1] / f"{domain}.trec").read_text()
    step_0 = read_csv(finished.folder)[0]
    for name, value in evaluation.callback_metrics.items():
        if name.startswith("followir/"):
            assert float(value) == pytest.approx(step_0[name], abs=1e-4)
    assert not (tmp_path / "p_mrr.png").exists()
