"""Which moments of a run become checkpoints, and that each continues it exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from small import DROPOUT, TINY, Recorder, retriever, synthetic_data, trainer, write_task

from ifir_lightning import manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.errors import InputError

ALL = 100


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_task(tmp_path_factory.mktemp("tasks") / "task", num_queries=2, num_candidates=30)


def fit(
    folder: Path, backbone: Path, task: str, saver: Checkpoints, ckpt_path: Path | None = None, **settings: Any
) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Batches (7 an epoch, or 6 in steps of two) and final weights."""
    recorder, module = Recorder(), retriever(backbone, config=TINY | DROPOUT)
    plain = {"enable_checkpointing": True, "check_val_every_n_epoch": None, "plugins": [ManifestIO()]}
    fit_trainer = trainer(folder, recorder, FollowIRValidation([task]), saver, **(plain | settings))
    fit_trainer.fit(module, synthetic_data(29, 4), ckpt_path=ckpt_path)
    return recorder.rows, module.state_dict()


def written(folder: Path) -> list[tuple[int, bool]]:
    """Step, and whether it was validated, of each checkpoint; all are whole."""
    found = [manifests.verify(path) for path in manifests.in_order(folder / "checkpoints")]
    return [(manifest.step, manifest.score is not None) for manifest in found]


def test_validations_epoch_ends_and_the_last_step(modernbert: Path, task: str, tmp_path: Path) -> None:
    fit(tmp_path, modernbert, task, Checkpoints(keep_last=ALL), max_steps=11, val_check_interval=3)
    assert written(tmp_path) == [(3, True), (6, True), (7, False), (9, True), (11, False)]


def test_every_n_steps_and_a_validation_at_the_same_step(modernbert: Path, task: str, tmp_path: Path) -> None:
    saver = Checkpoints(keep_last=ALL, every_n_steps=2)
    fit(tmp_path, modernbert, task, saver, max_steps=6, val_check_interval=4)
    assert written(tmp_path) == [(2, False), (4, True), (6, False)]


def test_nothing_is_written_before_the_validation_of_its_step(
    modernbert: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that dies between the two, the next start would skip that validation."""
    moments, save = [], Checkpoints.save

    def record(saver: Checkpoints, trainer: Any) -> None:
        moments.append((trainer.global_step, trainer.validating))
        save(saver, trainer)

    monkeypatch.setattr(Checkpoints, "save", record)
    saver = Checkpoints(keep_last=ALL, every_n_steps=2)
    fit(tmp_path, modernbert, task, saver, max_steps=4, val_check_interval=4)
    assert moments == [(2, False), (4, True)]


def test_the_score_is_that_of_the_validation(modernbert: Path, task: str, tmp_path: Path) -> None:
    saver = Checkpoints("followir/score_b", keep_last=ALL)
    fit(tmp_path, modernbert, task, saver, max_steps=2, val_check_interval=1)
    for path in manifests.in_order(tmp_path / "checkpoints"):
        name, value = manifests.read_manifest(path).score or ("", 0.0)
        record = (tmp_path / "followir" / path.stem / "metrics.json").read_text()
        assert name == "followir/score_b of task"
        assert f'"score_b": {value:.4f}'[:-1] in record


def test_averaged_weights_are_validated_where_they_are_saved(modernbert: Path, task: str, tmp_path: Path) -> None:
    """Lightning's callback swaps them in for validation only, and into the checkpoint."""
    followir, averaging = FollowIRValidation([task]), EMAWeightAveraging(decay=0.5)
    settings = {"max_steps": 4, "val_check_interval": 2, "enable_checkpointing": True, "plugins": [ManifestIO()]}
    fit_trainer = trainer(tmp_path, averaging, followir, Checkpoints(), **settings)
    fit_trainer.fit(retriever(modernbert), synthetic_data(29, 4))
    saved = torch.load(tmp_path / "checkpoints" / "step-00000004.ckpt", weights_only=True)
    module = retriever(modernbert)
    module.load_state_dict(saved["state_dict"])
    trainer(tmp_path, followir).validate(module, synthetic_data(29, 4), verbose=False)
    in_fit, in_file = (tmp_path / "followir" / name / "task.trec" for name in ("step-00000004", "validate"))
    assert in_fit.read_text() == in_file.read_text()
    trained = saved["current_model_state"]
    assert any(not torch.equal(saved["state_dict"][name], weight) for name, weight in trained.items())


@pytest.mark.filterwarnings("ignore:Checkpoints. the validation at step 4 fell")  # of those that continue
def test_half_a_step_is_never_written_and_the_next_whole_one_is(modernbert: Path, task: str, tmp_path: Path) -> None:
    """Two batches a step, six an epoch; validation at every third batch."""
    settings = {"max_steps": 6, "val_check_interval": 3, "accumulate_grad_batches": 2}
    with pytest.warns(UserWarning, match=r"validation at step [14] fell between the batches of one step"):
        rows, weights = fit(tmp_path, modernbert, task, Checkpoints(keep_last=ALL), **settings)
    assert written(tmp_path) == [(2, False), (3, True), (5, False), (6, True)]
    batches = {2: 4, 3: 6, 5: 10}
    for path in manifests.in_order(tmp_path / "checkpoints")[:-1]:
        step = manifests.read_manifest(path).step
        rest, again = fit(tmp_path / f"{step}", modernbert, task, Checkpoints(), path, **settings)
        assert rest == rows[batches[step] :]
        assert all(torch.equal(again[name], weight) for name, weight in weights.items())


def test_the_best_and_the_last_are_kept(modernbert: Path, task: str, tmp_path: Path) -> None:
    fit(tmp_path / "all", modernbert, task, Checkpoints(keep_last=ALL), max_steps=6, val_check_interval=1)
    fit(tmp_path / "few", modernbert, task, Checkpoints(keep_last=1), max_steps=6, val_check_interval=1)
    best = manifests.best(tmp_path / "all" / "checkpoints")
    assert best is not None
    assert {step for step, _ in written(tmp_path / "few")} == {manifests.read_manifest(best).step, 6}


def test_the_best_is_one_of_those_with_the_newest_tasks(modernbert: Path, task: str, tmp_path: Path) -> None:
    """Validation may change; 90 on easy tasks is not better than 50 on others."""
    fit(tmp_path, modernbert, task, Checkpoints(keep_last=ALL), max_steps=2, val_check_interval=1)
    newest = manifests.newest(tmp_path / "checkpoints")
    other = write_task(tmp_path / "other", num_queries=2, num_candidates=30)
    fit(tmp_path, modernbert, other, Checkpoints(keep_last=ALL), newest, max_steps=4, val_check_interval=1)
    ranked = manifests.ranked(tmp_path / "checkpoints")
    assert {manifests.read_manifest(path).step for path in ranked} == {3, 4}
    assert {manifests.read_manifest(path).score[0] for path in ranked} == {"followir/p_mrr of other"}  # type: ignore[index]


@pytest.mark.parametrize("setting", ["keep_last", "every_n_steps"])
def test_settings_are_checked(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} is 0; allowed is 1 or more"):
        Checkpoints(**{setting: 0})


def test_a_second_one_is_refused(modernbert: Path, tmp_path: Path) -> None:
    """A step has one score: the best by the other metric would be removed."""
    savers = Checkpoints(), Checkpoints("followir/score_b")
    with pytest.raises(InputError, match=r"names Checkpoints 2 times; allowed is once, .*: leave one out"):
        savers[1].setup(trainer(tmp_path, *savers, enable_checkpointing=True), retriever(modernbert), "fit")


class KilledError(Exception):
    """In place of a signal that nobody can catch."""


def test_a_validation_by_the_clock_is_refused_on_several_ranks(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank would look at its own clock, and some validate while others wait for them in a step."""
    timed = trainer(tmp_path, val_check_interval="00:00:30:00")
    Checkpoints().setup(timed, retriever(modernbert), "fit")
    monkeypatch.setattr(Trainer, "world_size", 2)
    Checkpoints().setup(timed, retriever(modernbert), "validate")
    with pytest.raises(InputError, match=r"is a time of 1800 s on 2 ranks, .* allowed is a number of batches there"):
        Checkpoints().setup(timed, retriever(modernbert), "fit")


def test_a_run_that_dies_right_after_a_checkpoint_has_the_row_of_that_step(
    modernbert: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(folder: Path) -> str:
        settings = {"max_steps": 4, "val_check_interval": 4, "logger": MetricsCSV(str(folder))}
        newest = manifests.newest(folder / "checkpoints")
        fit(folder, modernbert, task, Checkpoints(every_n_steps=2), newest, **settings)
        return (folder / "metrics.csv").read_text()

    def killed(*arguments: Any) -> None:
        raise KilledError

    whole = start(tmp_path / "whole")
    monkeypatch.setattr(manifests, "prune", killed)
    with pytest.raises(KilledError):
        start(tmp_path / "run")
    monkeypatch.undo()
    assert written(tmp_path / "run") == [(2, False)]
    assert start(tmp_path / "run") == whole
