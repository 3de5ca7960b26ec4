"""Points that Optuna suggests: from results alone, once, wherever the study's workers run."""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from studies import stand_in, write_study

from ifir_lightning.errors import InputError
from ifir_lightning.studies import runner, search
from ifir_lightning.studies.answers import answer
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.outcomes import paths, results
from ifir_lightning.studies.page import study_page
from ifir_lightning.studies.plan import Study, random_point
from ifir_lightning.studies.recipes import recipe_of
from ifir_lightning.studies.runner import prepare, run

pytest.importorskip("optuna", reason="optuna is not installed (extra: search)")

Fit = tuple[str, ...]
AXES: dict[str, Any] = {
    "rate": {"key": "model.optimizer.learning_rate", "log_uniform": [1e-5, 1e-1]},
    "width": {"key": "model.pooling.init_args.dim", "choices": [4, 8], "heads": ["late"]},
}
SCORE, FAULT = "10 - 5 * abs(math.log10(rate) + 3) + seed", "rate > 0.05"
"""The better the nearer the rate is to 0.001."""


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.syspath_prepend(tmp_path)
    return stand_in(tmp_path, FAULT, score=SCORE)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(write_study(tmp_path, axes=AXES, kind="search", search="tpe", points=6))


def places(folder: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in sorted((folder / "points").iterdir())}


def test_later_points_are_near_what_scored_best(study: Study) -> None:
    study = replace(study, points=24)
    scored: list[tuple[dict[str, Any], float]] = []
    for number in range(24):
        place = search.suggest(study, "late", number, scored)
        scored.append((place, -abs(math.log10(place["rate"]) + 3) - (place["width"] == 4)))
    first, last = ([value for _, value in part] for part in (scored[:8], scored[-8:]))
    assert sum(last) / 8 > sum(first) / 8 + 0.5
    assert [place["width"] for place, _ in scored[-8:]].count(8) > 4


def test_a_suggestion_follows_from_the_results(study: Study) -> None:
    near, far = ([({"rate": 10.0**-k}, sign * abs(k - 3.0)) for k in range(1, 6)] for sign in (-1, 1))
    assert search.suggest(study, "plain", 5, near) == search.suggest(study, "plain", 5, near)
    assert search.suggest(study, "plain", 5, near) != search.suggest(study, "plain", 5, far)
    assert search.suggest(study, "plain", 5, near) != search.suggest(study, "plain", 6, near)


def test_the_first_third_is_drawn_and_the_same_for_all_heads(study: Study) -> None:
    for number in range(2):
        assert search.suggest(study, "late", number, []) == random_point(study, number)
        assert search.suggest(study, "plain", number, [])["rate"] == random_point(study, number)["rate"]


def test_every_trial_runs_once_and_the_best_is_reported(study: Study, fit: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    listed = run(study, folder, jobs=3, command=fit)
    assert len(listed) == 2 * 2 * 6
    assert {(paths(folder, trial).run / "starts").read_text() for trial in listed} == {"x"}
    content = answer(study, results(folder, listed))
    for best in content["best"]:
        own = [r for r in results(folder, listed) if r["head"] == best["head"] and r["status"] == "finished"]
        by_point = {point: [r["p_mrr"] for r in own if r["point"] == point] for point in range(6)}
        means = {point: sum(values) / len(values) for point, values in by_point.items() if values}
        assert best["point"] == max(means, key=means.__getitem__)
        assert best["p_mrr"]["mean"] == pytest.approx(max(means.values()))
    assert content["differences"] == []
    page = study_page(content, list(study.heads), list(study.axes))
    assert "The best point of each head" in page
    found = places(folder)
    assert len(found) == 12
    run(study, folder, jobs=3, command=fit)
    assert {(paths(folder, trial).run / "starts").read_text() for trial in listed} == {"x"}
    assert places(folder) == found


def test_a_recipe_is_written_once_however_often_new_points_are_looked_for(
    study: Study, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        runner, "recipe_of", lambda study, trial, run: made.append(run.name) or recipe_of(study, trial, run)
    )
    listed = run(replace(study, points=3), tmp_path / "out", jobs=4, command=fit)
    assert sorted(made) == sorted(trial.name for trial in listed)


def test_jobs_and_interruptions_change_no_point(study: Study, fit: Fit, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(study, whole, jobs=4, command=fit)
    listed = run(study, parts, command=fit)
    for trial in listed:
        if trial.point > 2:  # as if it had been interrupted there
            paths(parts, trial).result.unlink()
            paths(parts, trial).recipe.unlink()
    for file in (parts / "points").glob("*-00[345].json"):
        file.unlink()
    run(study, parts, jobs=2, command=fit)
    assert places(parts) == places(whole)


def test_workers_share_a_search(study: Study, fit: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        listed = [future.result() for future in [pool.submit(run, study, folder, 1, fit) for _ in range(3)]]
    assert [len(each) for each in listed] == [24] * 3
    assert {(paths(folder, trial).run / "starts").read_text() for trial in listed[0]} == {"x"}
    assert not list((folder / "points").glob("*.json.*"))


def test_a_training_that_failed_counts_the_lowest_p_mrr(study: Study, fit: Fit, tmp_path: Path, monkeypatch) -> None:
    seen: list[list[float]] = []
    plain = search.suggest

    def spied(study: Study, head: str, number: int, scored: Any) -> Any:
        seen.append([value for _, value in scored])
        return {"rate": 0.09 if number == 0 else 1e-3} if head == "plain" else plain(study, head, number, scored)

    monkeypatch.setattr(search, "suggest", spied)
    run(replace(study, points=2, heads={"plain": {}}), tmp_path / "out", command=fit)
    assert seen == [[], [-100.0]]


def test_points_of_other_axes_are_refused(study: Study, tmp_path: Path) -> None:
    prepare(study, tmp_path / "out")
    narrow = replace(study.axes["rate"], log_uniform=(1e-9, 1e-8))
    for axes in ({"rate": study.axes["rate"]}, study.axes | {"rate": narrow}):
        with pytest.raises(InputError, match=r"late-000.json is .* a place on other axes .*: choose another --output"):
            prepare(replace(study, axes=axes, heads={"late": {}}), tmp_path / "out")


def test_without_optuna_it_says_what_to_install(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"optuna is not installed; .*: install the extra 'search', or set search: ra"):
        prepare(study, tmp_path / "out")


@pytest.mark.parametrize("change", [{"points": None}, {"kind": "sensitivity"}, {"decay_share": 0.2}])
def test_a_search_that_cannot_be_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    axes = {"rate": {"key": "model.optimizer.learning_rate", "choices": [1e-3, 1e-2]}}
    settings = {"axes": axes, "kind": "search", "search": "tpe", "points": 6} | change
    with pytest.raises(InputError, match=r"search tpe; allowed is it with points, kind search .*: correct it"):
        read_study(write_study(tmp_path, **settings))
