"""Trials run once, whoever runs them; what is interrupted goes on; how each ended is recorded."""

import errno
import fcntl
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from studies import stand_in, write_study

from ifir_lightning.errors import InputError
from ifir_lightning.studies import runner
from ifir_lightning.studies.answers import answer, as_csv
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.outcomes import paths, results
from ifir_lightning.studies.page import study_page
from ifir_lightning.studies.plan import Axis, Study, trials
from ifir_lightning.studies.runner import prepare, run


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.syspath_prepend(tmp_path)
    return read_study(write_study(tmp_path))


def starts(folder: Path, study: Study) -> list[int]:
    files = [paths(folder, trial).run / "starts" for trial in trials(study)]
    return [len(file.read_text()) if file.exists() else 0 for file in files]


@pytest.mark.parametrize(("jobs", "asked", "threads"), [(2, None, 3), (4, None, 1), (8, None, 1), (2, "5", None)])
def test_trials_share_the_cores(
    jobs: int, asked: str | None, threads: int | None, tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 6; where the user says how many threads, nothing is changed."""
    monkeypatch.setattr(runner, "_num_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    listed = run(study, tmp_path / "out", jobs=jobs, command=stand_in(tmp_path))
    found = {(paths(tmp_path / "out", trial).run / "threads").read_text() for trial in listed}
    assert found == {str(threads or torch.get_num_threads())}


def test_no_trial_trains_before_the_scores_of_every_teacher_are_there(tmp_path: Path, study: Study) -> None:
    """Trials without one would train first, and all others fail for good."""
    cache, choices = tmp_path / "scores", {"none": {}, "taught": {"data.teacher_scores": str(tmp_path / "scores")}}
    taught = replace(study, axes={"teacher": Axis(choices=choices)})
    with pytest.raises(InputError, match=rf"learns from data.teacher_scores {cache}, which is not there; .* run teach"):
        run(taught, tmp_path / "out", command=stand_in(tmp_path))
    assert starts(tmp_path / "out", taught) == [0] * len(trials(taught))
    assert not list((tmp_path / "out").rglob("*.yaml")), "a study whose folder is corrected would be another one"
    cache.mkdir()
    run(taught, tmp_path / "out", command=stand_in(tmp_path))
    cache.rmdir()
    assert run(taught, tmp_path / "out", command=stand_in(tmp_path)), "what has ended needs no teacher"


def test_a_teacher_that_is_no_folder_is_refused_in_words(tmp_path: Path, study: Study) -> None:
    taught = replace(study, axes={"teacher": Axis(key="data.teacher_scores", choices=[5])})
    with pytest.raises(InputError, match=r"learns from data.teacher_scores 5, which is not there"):
        prepare(taught, tmp_path / "out")


def test_every_trial_runs_once_and_a_second_start_runs_none(tmp_path: Path, study: Study) -> None:
    folder, command = tmp_path / "out", stand_in(tmp_path)
    listed = run(study, folder, jobs=3, command=command)
    assert starts(folder, study) == [1] * 12
    first = results(folder, listed)
    assert len(first) == 12
    assert {result["status"] for result in first} == {"finished"}
    run(study, folder, jobs=3, command=command)
    assert starts(folder, study) == [1] * 12
    assert results(folder, listed) == first


def test_an_axis_that_came_later_adds_its_trials_and_names_the_old_ones(tmp_path: Path, study: Study) -> None:
    """Its first choice changes nothing, so the trials that have ended are that choice's."""
    folder, command = tmp_path / "out", stand_in(tmp_path)
    first = replace(study, cross=False, axes={"rate": study.axes["rate"]})
    run(first, folder, command=command)
    weight = Axis(choices={"one": {}, "four": {"model.loss.init_args.temperature": 4.0}})
    wider = replace(first, axes=first.axes | {"weight": weight})
    listed = run(wider, folder, command=command)
    assert starts(folder, wider) == [1] * 12
    places = {(each["point"], tuple(each["values"].items())) for each in results(folder, listed)}
    assert places == {
        (0, (("rate", 1e-3), ("weight", "one"))),
        (1, (("rate", 1e-2),)),
        (2, (("weight", "four"),)),
    }


def test_a_trial_that_another_worker_has_is_left_to_it(tmp_path: Path, study: Study) -> None:
    folder = tmp_path / "out"
    listed = prepare(study, folder)
    with paths(folder, listed[3]).lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(study, folder, command=stand_in(tmp_path))
    assert starts(folder, study) == [1, 1, 1, 0] + [1] * 8
    run(study, folder, command=stand_in(tmp_path))  # the other one died: its lock is free
    assert starts(folder, study) == [1] * 12


def test_a_file_system_without_locks_is_no_other_worker(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lustre without ``-o flock``."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"seed0.lock cannot be locked \(Function not impl.* another --output"):
        run(study, tmp_path / "out", command=stand_in(tmp_path))
    assert starts(tmp_path / "out", study) == [0] * 12


def test_workers_that_run_at_the_same_time_share_the_trials(tmp_path: Path, study: Study) -> None:
    folder, command = tmp_path / "out", stand_in(tmp_path)
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(run, [study] * 3, [folder] * 3, [2] * 3, [command] * 3))
    run(study, folder, command=command)  # what another worker still had when all three looked
    assert starts(folder, study) == [1] * 12
    assert len(results(folder, trials(study))) == 12


def test_a_failed_trial_is_recorded_and_not_repeated(tmp_path: Path, study: Study) -> None:
    folder, command = tmp_path / "out", stand_in(tmp_path, fault="rate == 1e-2 and seed == 1")
    listed = run(study, folder, command=command)
    failed = [result for result in results(folder, listed) if result["status"] == "failed"]
    assert [(result["head"], result["seed"]) for result in failed] == [("plain", 1), ("late", 1), ("late", 1)]
    assert failed[0]["message"] == "error: what a trial says at its end"
    content = answer(study, results(folder, listed))
    assert content["trials"] == {"planned": 12, "ended": 12, "finished": 9, "failed": 3, "diverged": 0}
    assert content["sensitivity"]["plain"]["failed_share"] == 0.25
    assert content["sensitivity"]["plain"]["diverged_share"] == 0.0
    run(study, folder, command=command)
    assert starts(folder, study) == [1] * 12


def test_a_mistake_of_the_recipe_ends_the_study_with_what_the_trial_says(tmp_path: Path, study: Study) -> None:
    with pytest.raises(InputError, match=r"plain-000-seed0 does not start .what a trial says at its end.: see"):
        run(study, tmp_path / "out", command=stand_in(tmp_path, fault="True", status=2))
    assert results(tmp_path / "out", trials(study)) == []


def test_a_mistake_of_some_points_is_recorded_and_the_study_goes_on(tmp_path: Path, study: Study) -> None:
    """As a rate or a batch that is refused: others of the study have ended, so the recipe as such is sound."""
    folder, command = tmp_path / "out", stand_in(tmp_path, fault="rate == 1e-2", status=2)
    found = results(folder, run(study, folder, command=command))
    assert {(result["values"]["rate"], result["status"]) for result in found} == {(1e-3, "finished"), (1e-2, "failed")}
    assert len(found) == 12
    assert found[-1]["message"] == "error: what a trial says at its end"


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_machine_on_which_nothing_trains_fails_no_trial(jobs: int, tmp_path: Path, study: Study) -> None:
    """As one without a GPU, where a study that began elsewhere is started again; elsewhere it goes on."""
    folder = tmp_path / "out"
    with pytest.raises(InputError, match="was killed"):
        run(study, folder, command=stand_in(tmp_path, fault="rate == 1e-3 and seed == 1", status=143))
    ended = len(list(folder.glob("trials/*.json")))
    assert 0 < ended < 12
    with pytest.raises(InputError, match=rf"none of {12 - ended} trials comes to train here, and none is recorded: tr"):
        run(study, folder, jobs=jobs, command=stand_in(tmp_path, fault="True", status=2))
    assert len(list(folder.glob("trials/*.json"))) == ended
    found = results(folder, run(study, folder, jobs=jobs, command=stand_in(tmp_path)))
    assert [result["status"] for result in found] == ["finished"] * 12


def test_a_mistake_of_a_point_is_recorded_when_a_later_one_trains(tmp_path: Path, study: Study) -> None:
    """Of this start it is the first."""
    folder = tmp_path / "out"
    with pytest.raises(InputError, match="was killed"):
        run(study, folder, command=stand_in(tmp_path, fault="rate == 1e-3 and seed == 1", status=143))
    found = results(folder, run(study, folder, command=stand_in(tmp_path, fault="rate == 1e-3", status=2)))
    assert len(found) == 12
    assert [result["status"] for result in found if result["values"]["rate"] == 1e-2] == ["finished"] * 6
    assert "failed" in [result["status"] for result in found if result["values"]["rate"] == 1e-3]


def test_a_diverged_trial_is_recorded_however_it_ended_and_the_study_goes_on(tmp_path: Path, study: Study) -> None:
    """Scores that are no numbers end a fit as a mistake of the recipe does."""
    folder, command = tmp_path / "out", stand_in(tmp_path, fault="rate == 1e-2", status=2)
    for trial in prepare(study, folder):
        if trial.values["rate"] == 1e-2:
            paths(folder, trial).run.mkdir()
            (paths(folder, trial).run / "metrics.csv").write_text("step,train/loss\n10,2.5\n20,nan\n20,\n")
    listed = run(study, folder, command=command)
    found = {(result["head"], result["status"]) for result in results(folder, listed)}
    assert found == {(head, status) for head in ("plain", "late") for status in ("finished", "diverged")}
    content = answer(study, results(folder, listed))
    assert content["trials"]["diverged"] == 6
    assert content["sensitivity"]["plain"]["diverged_share"] == 0.5
    assert all(point["values"]["rate"] == 1e-3 for point in content["points"])
    page = study_page(content, list(study.heads), list(study.axes))
    assert '<td>plain</td><td class="n">50%</td><td class="n">0%</td>' in page


def test_a_killed_trial_is_continued_by_the_next_start(tmp_path: Path, study: Study) -> None:
    folder = tmp_path / "out"
    with pytest.raises(InputError, match=r"plain-000-seed0 was killed \(status 143\)"):
        run(study, folder, command=stand_in(tmp_path, fault="True", status=143))
    run(study, folder, command=stand_in(tmp_path))
    assert starts(folder, study) == [2] + [1] * 11


def test_a_folder_of_other_settings_is_refused(tmp_path: Path, study: Study) -> None:
    prepare(study, tmp_path / "out")
    other = read_study(write_study(tmp_path, budget=640))
    with pytest.raises(InputError, match="was made from other settings than the study has now"):
        prepare(other, tmp_path / "out")


def test_the_answer_is_worked_by_hand(tmp_path: Path, study: Study) -> None:
    """Every trial's p-MRR is 1000 rate + seed: 1 and 2 at the lower rate, 10 and 11 at the higher."""
    folder = tmp_path / "out"
    listed = run(study, folder, jobs=4, command=stand_in(tmp_path))
    content = answer(study, results(folder, listed))
    means = {(point["head"], point["point"]): point["p_mrr"]["mean"] for point in content["points"]}
    assert means == {("plain", 0): 1.5, ("plain", 2): 10.5, **{("late", n): (1.5, 10.5)[n // 2] for n in range(4)}}
    assert [each["p_mrr"]["mean"] for each in content["differences"]] == [0.0, 0.0]
    late = content["sensitivity"]["late"]["p_mrr"]
    assert (late["best"], late["worst"], late["share_within_1"]) == (10.5, 1.5, 0.5)
    assert late["importance"] == {"rate": pytest.approx(1.0), "width": pytest.approx(0.0)}
    assert late["best_of"][0] == pytest.approx(6.0)
    lines = as_csv(results(folder, listed)).splitlines()
    assert lines[0].endswith("seconds,rate,width")
    assert len(lines) == 13
    page = study_page(content, list(study.heads), list(study.axes))
    assert "12 of 12 trials have ended: 12 finished, 0 failed, 0 diverged" in page
    assert "1.50 to 10.50" in page
    assert "NaN" not in page


@pytest.mark.parametrize("kind", ["data-demand", "negatives", "distillation", "training-length"])
def test_every_kind_of_study_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    axes = {"size": {"key": "model.optimizer.learning_rate", "choices": [0.001, 0.002, 0.004, 0.008]}}
    study = read_study(write_study(tmp_path, kind=kind, axes=axes))
    listed = run(study, tmp_path / "out", jobs=4, command=stand_in(tmp_path))
    content = answer(study, results(tmp_path / "out", listed))
    assert json.loads(json.dumps(content)) == content
    page = study_page(content, list(study.heads), list(study.axes))
    assert page.count("<svg") == 2


def test_a_trials_recipe_is_a_whole_one(tmp_path: Path, study: Study) -> None:
    listed = prepare(study, tmp_path / "out")
    recipe = yaml.safe_load(paths(tmp_path / "out", listed[0]).recipe.read_text())
    assert set(recipe) == {"seed_everything", "model", "data", "trainer"}


def test_data_demand_names_the_size_that_each_head_needs_for_what_all_reached(tmp_path: Path, study: Study) -> None:
    """p-MRR 50 - 400 n^-0.5 for one head and 50 - 200 n^-0.5 for the other, which needs a quarter of the data."""
    sizes = [100, 400, 1600, 6400]
    demand = replace(study, kind="data-demand", axes={"size": Axis(key="budget", choices=tuple(sizes))})
    found = [
        {"head": head, "point": number, "seed": seed, "values": {"size": size}, "status": "finished", "seconds": 1.0}
        | {"p_mrr": 50 - gap * size**-0.5 + spread, "score_b": 90 - gap * size**-0.5}
        for head, gap in (("plain", 400.0), ("late", 200.0))
        for number, size in enumerate(sizes)
        for seed, spread in ((0, -0.01), (1, 0.01))
    ]
    whole = answer(demand, found)
    assert [(each["head"], each["minus"]) for each in whole["differences"]] == [("late", "plain")] * 4
    assert [each["p_mrr"]["mean"] for each in whole["differences"]] == pytest.approx([20.0, 10.0, 5.0, 2.5])
    content, ranking = whole["data_demand"]
    assert (content["axis"], content["metric"], ranking["metric"]) == ("size", "p_mrr", "score_b")
    assert ranking["goal"] == pytest.approx(85.0)
    assert ranking["heads"]["late"]["size_for_goal"] == pytest.approx(1600, rel=0.02)
    assert ranking["heads"]["late"]["size_interval"] == pytest.approx([1600, 1600], rel=0.02)  # equal seeds
    assert content["goal"] == pytest.approx(45.0)  # what the plain head reached at 6400
    assert content["heads"]["plain"]["size_for_goal"] == pytest.approx(6400, rel=0.02)
    assert content["heads"]["late"]["size_for_goal"] == pytest.approx(1600, rel=0.02)
    low, high = content["heads"]["late"]["size_interval"]
    assert low <= 1600 <= high
    low, high = content["heads"]["late"]["intervals"]["limit"]
    assert (low, high) == pytest.approx((50.0, 50.0), abs=0.1)  # seeds hardly differ
    assert "limit - gap n^-rate over size (n)" in study_page(whole, list(demand.heads), list(demand.axes))


def test_a_head_that_more_data_does_not_help_never_reaches_the_goal(study: Study) -> None:
    sizes = (100, 400, 1600)
    demand = replace(study, kind="data-demand", heads={"late": {}}, axes={"size": Axis(key="budget", choices=sizes)})
    found = [
        {"head": "late", "point": number, "seed": seed, "values": {"size": size}, "status": "finished", "seconds": 1.0}
        | {"p_mrr": -5 - size / 200, "score_b": 40.0}
        for number, size in enumerate(sizes)
        for seed in (0, 1)
    ]
    whole = answer(demand, found)
    for each in whole["data_demand"]:
        assert each["heads"]["late"]["size_for_goal"] is None
        assert each["heads"]["late"]["size_interval"] == [None, None]
    assert "never to never" in study_page(whole, ["late"], ["size"])
    assert "Infinity" not in json.dumps(whole)


def test_changes_are_paired_with_point_0_by_seed(study: Study) -> None:
    """Seeds differ by 10 points and the change is 3 and 5: its interval knows nothing of the 10."""
    axes = {"kind": Axis(choices={"with": {}, "without": {"data.x": 0}}), "top": Axis(key="data.k", choices=(1, 2))}
    star = replace(study, kind="negatives", axes=axes, cross=False)
    found = [
        {"head": trial.head, "point": trial.point, "seed": trial.seed, "values": dict(trial.values), "seconds": 1.0}
        | {"status": "finished", "p_mrr": 10.0 * trial.seed + trial.point * (3 + 2 * trial.seed), "score_b": 90.0}
        for trial in trials(star)
    ]
    content = answer(star, found)
    assert [(each["head"], each["values"]) for each in content["changes"]] == [
        (head, values) for head in ("plain", "late") for values in ({"kind": "without"}, {"top": 2})
    ]
    assert [each["p_mrr"]["mean"] for each in content["changes"]] == [4.0, 8.0] * 2
    half = content["changes"][0]["p_mrr"]["high"] - 4.0
    assert half == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-4)  # t(0.975, 1), deviation sqrt 2, two seeds
    page = study_page(content, list(star.heads), list(star.axes))
    assert "One thing changed against kind with, top 1" in page
    assert page.count("<svg") == 4
