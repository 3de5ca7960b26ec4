"""Trials of every length from one trunk: what each trains, once, whoever comes first; it is the whole training."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from studies import RECIPE, write_study

from ifir_lightning import manifests
from ifir_lightning.errors import InputError
from ifir_lightning.models.files import read_weights
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.outcomes import paths, results
from ifir_lightning.studies.plan import Study
from ifir_lightning.studies.runner import prepare, run

LENGTHS = {"queries": {"key": "budget", "choices": [160, 320, 640]}}  # 10, 20 and 40 steps of 16
STAND_IN = """
import pathlib, sys, time, yaml
recipe = yaml.safe_load(open(sys.argv[1]))
run, step = pathlib.Path(recipe["trainer"]["default_root_dir"]), recipe["trainer"]["max_steps"]
start = recipe.get("ckpt_path")
assert start is None or pathlib.Path(start).exists()
run.mkdir(parents=True, exist_ok=True)
with open(run.parent / "starts", "a") as starts:
    starts.write(f"{run.name} {step}\\n")
time.sleep(0.05)
{fault}
for kept in recipe["trainer"].get("callbacks") or []:
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / f"checkpoints/step-{step:08d}.ckpt").touch()
(run / "followir/step-1").mkdir(parents=True, exist_ok=True)
benchmark = dict.fromkeys(("p_mrr", "score_a", "score_b", "score_c"), step)
import json
(run / "followir/step-1/metrics.json").write_text(json.dumps({"step": step, "benchmark": benchmark, "tasks": []}))
"""


def stand_in(folder: Path, fault: str = "") -> tuple[str, ...]:
    """A module that leaves what ``fit`` leaves."""
    (folder / "fit_of_study.py").write_text(STAND_IN.replace("{fault}", fault))
    return ("fit_of_study",)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.syspath_prepend(tmp_path)
    return read_study(write_study(tmp_path, axes=LENGTHS, decay_share=0.2, seeds=[0]))


def test_what_each_trial_trains(study: Study, tmp_path: Path) -> None:
    """10, 20 and 40 steps, of which the last 2, 4 and 8 decay; the trunk of a head is kept after 8, 16 and 32."""
    for trial in prepare(study, tmp_path / "out"):
        files = paths(tmp_path / "out", trial)
        trunk, own = (yaml.safe_load(file.read_text()) for file in (files.trunk, files.recipe))
        steps = trial.values["queries"] // 16
        folder = str(tmp_path / "out" / "trials" / f"{trial.head}-000-seed0-trunk")
        assert trunk["model"]["schedule"] == {"decay": "constant"}
        assert trunk["trainer"]["max_steps"] == steps * 4 // 5
        assert trunk["trainer"]["default_root_dir"] == folder
        assert trunk["trainer"]["callbacks"][-1]["init_args"]["keep_steps"] == [8, 16, 32]
        assert own["model"]["schedule"] == {"decay": "linear", "decay_steps": steps // 5}
        assert own["trainer"] == RECIPE["trainer"] | {
            "default_root_dir": str(files.run),
            "max_steps": steps,
            "val_check_interval": steps,
        }
        assert own["ckpt_path"] == f"{folder}/checkpoints/step-{steps * 4 // 5:08d}.ckpt"


def test_trunks_are_shared_by_trials_that_differ_in_budget_alone(tmp_path: Path) -> None:
    axes = LENGTHS | {"rate": {"key": "model.optimizer.learning_rate", "choices": [1e-3, 1e-2]}}
    study = read_study(write_study(tmp_path, axes=axes, decay_share=0.2))
    listed = prepare(study, tmp_path / "out")
    trunks = [yaml.safe_load(paths(tmp_path / "out", trial).trunk.read_text()) for trial in listed]
    shared = {}
    for trial, trunk in zip(listed, trunks, strict=True):
        key = (trial.head, trial.seed, trial.values["rate"])
        shared.setdefault(key, set()).add(trunk["trainer"]["default_root_dir"])
    assert len(shared) == 8
    assert all(len(folders) == 1 for folders in shared.values())
    assert len({folder for folders in shared.values() for folder in folders}) == 8


@pytest.mark.parametrize("jobs", [1, 6])
def test_every_part_of_a_trunk_is_trained_once(jobs: int, study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    listed = run(study, folder, jobs=jobs, command=stand_in(tmp_path))
    starts = (folder / "trials" / "starts").read_text().splitlines()
    assert len(starts) == len(set(starts)) == 12  # a part of the trunk and a branch for each of the 6 trials
    assert [found["p_mrr"] for found in results(folder, listed)] == [10, 10, 20, 20, 40, 40]


def test_a_trunk_that_fails_fails_its_trials(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    listed = run(study, folder, command=stand_in(tmp_path, 'print("boom"); sys.exit(1)'))
    assert [(found["status"], found["message"]) for found in results(folder, listed)] == [("failed", "boom")] * 6


def test_a_trunk_that_diverged_is_its_trials_end_and_the_study_goes_on(tmp_path: Path, study: Study) -> None:
    """As ``fit`` ends then: status 2, a record in the trunk's folder. The shortest trial had branched off before."""
    fault = """
if run.name == "late-000-seed0-trunk" and step > 8:
    (run / "non_finite").mkdir(exist_ok=True)
    (run / "non_finite/step-00000009.json").touch()
    print("error: step 9 is not finite")
    sys.exit(2)
"""
    folder = tmp_path / "out"
    listed = run(study, folder, command=stand_in(tmp_path, fault))
    ends = {trial.name: found["status"] for trial, found in zip(listed, results(folder, listed), strict=True)}
    assert [name for name, status in ends.items() if status == "diverged"] == ["late-001-seed0", "late-002-seed0"]
    assert list(ends.values()).count("finished") == 4
    assert results(folder, listed)[3]["message"] == "error: step 9 is not finite"


def test_a_trunk_that_was_killed_goes_on_at_the_next_start(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    killed = 'import os; run.name.endswith("-trunk") and os.kill(os.getpid(), 9)'
    with pytest.raises(InputError, match=r"plain-000-seed0 was killed \(status 137\); start the study again"):
        run(study, folder, command=stand_in(tmp_path, killed))
    listed = run(study, folder, command=stand_in(tmp_path))
    assert [found["status"] for found in results(folder, listed)] == ["finished"] * 6


def test_a_decay_within_the_warm_up_and_shares_that_are_none_are_refused(tmp_path: Path) -> None:
    axes = LENGTHS | {"warm-up": {"key": "model.schedule.warmup_steps", "choices": [9]}}
    with pytest.raises(InputError, match=r"10 steps with decay_share 0.2 would decay from step 8 on, .* warm-up of 9"):
        prepare(read_study(write_study(tmp_path, axes=axes, decay_share=0.2)), tmp_path / "out")
    for share in (0, 1, -0.1):
        with pytest.raises(InputError, match=f"decay_share {share}; allowed is more than 0 and less than 1"):
            read_study(write_study(tmp_path, decay_share=share))


def test_a_trial_is_the_whole_training_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lengths of the small recipe by ``fit``, and the longer one again as one training that decays at its end."""
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other threads, other sums
    recipe: dict[str, Any] = yaml.safe_load(Path("configs/quickstart-small.yaml").read_text())
    recipe["data"] |= {"path": "synthetic:64", "global_batch_size": 4}
    recipe["model"]["schedule"]["warmup_steps"] = 1
    recipe["followir"]["tasks"] = ["synthetic/food"]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    settings = {"recipe": str(tmp_path / "small.yaml"), "heads": {"weighted": {}}, "seeds": [0]}
    axes = {"queries": {"key": "budget", "choices": [16, 32]}}
    study = read_study(write_study(tmp_path, axes=axes, decay_share=0.25, **settings))
    listed = run(study, tmp_path / "out")
    assert [found["status"] for found in results(tmp_path / "out", listed)] == ["finished"] * 2
    files = paths(tmp_path / "out", listed[-1])
    whole = yaml.safe_load(files.recipe.read_text())
    del whole["ckpt_path"]
    whole["trainer"]["default_root_dir"] = str(tmp_path / "whole")
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    command = [sys.executable, "-m", "ifir_lightning", "fit", f"--config={tmp_path / 'whole.yaml'}"]
    subprocess.run(command, check=True, capture_output=True)
    weights = [
        read_weights(folder / "checkpoints" / "step-00000008.ckpt", "x")["state_dict"]
        for folder in (files.run, tmp_path / "whole")
    ]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())
    trunk = files.run.with_name(f"{listed[0].name}-trunk")
    assert [manifests.verify(path).step for path in manifests.in_order(trunk / "checkpoints")] == [3, 6]
