"""How a trial ended, from what it leaves on the disk."""

import json
from pathlib import Path

import pytest
import yaml

from ifir_lightning.errors import InputError
from ifir_lightning.studies.outcomes import Paths, outcome, paths, refusal
from ifir_lightning.studies.plan import Trial

STEPS = 20


@pytest.fixture
def files(tmp_path: Path) -> Paths:
    """Of a trial of 20 steps that has been trained."""
    files = paths(tmp_path, Trial("late", 0, 0, {}, {}))
    files.run.mkdir(parents=True)
    files.recipe.write_text(yaml.safe_dump({"trainer": {"max_steps": STEPS}}))
    files.log.write_text("error: an earlier start\n")
    return files


def validate(files: Paths, step: int) -> None:
    folder = files.run / f"followir/step-{step:08d}"
    folder.mkdir(parents=True)
    record = {"step": step, "benchmark": {"p_mrr": 5.0, "score_b": 50.0}, "tasks": [{"task": "t", "p_mrr": 5.0}]}
    (folder / "metrics.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("steps", "message"),
    [((), "there is none"), ((0,), "the newest is of step 0"), ((0, 10), "the newest is of step 10")],
)
def test_a_training_that_ends_before_its_last_step_has_no_score(
    steps: tuple[int, ...], message: str, files: Paths
) -> None:
    """``max_epochs``, ``max_time`` and early stopping end it with status 0."""
    for step in steps:
        validate(files, step)
    found = outcome(files, 0, 0)
    assert found["status"] == "failed"
    assert found["message"].startswith(f"ended without the validation of step 20, its last ({message}); allowed is")


def test_the_score_is_of_the_last_step(files: Paths) -> None:
    validate(files, 0)
    validate(files, STEPS)
    expected = {"status": "finished", "step": STEPS, "p_mrr": 5.0, "score_b": 50.0, "tasks": {"t": 5.0}}
    assert outcome(files, 0, 0) == expected


@pytest.mark.parametrize("status", [-9, 130, 137, 143])
def test_what_was_killed_is_left_to_the_next_start(status: int, files: Paths) -> None:
    with pytest.raises(InputError, match=rf"late-000-seed0 was killed \(status {status}\); start the study again"):
        outcome(files, status, 0)


@pytest.mark.parametrize("last_row", ["20,nan,1.0\n", "20,1e-"])
def test_a_run_that_left_a_step_out_and_finished_has_not_diverged(last_row: str, files: Paths) -> None:
    """Nor has one whose last row a loss of power cut short."""
    (files.run / "metrics.csv").write_text(f"step,train/loss,train/skipped_steps\n{last_row}")
    (files.run / "non_finite").mkdir()
    (files.run / "non_finite" / "step-00000003.json").touch()
    validate(files, STEPS)
    assert outcome(files, 0, 0)["status"] == "finished"
    assert outcome(files, 2, 0)["status"] == "diverged"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,,\n10,2.5,\n", "error: a passage of the batch has no score"),
        ("", "error: out of memory at step 1 on rank 0: its batch has 527 tokens"),
    ],
)
def test_a_training_that_began_and_then_met_a_mistake_has_failed(rows: str, message: str, files: Paths) -> None:
    """Though no other trial of the study has ended."""
    (files.run / "metrics.csv").write_text(f"step,train/loss,followir/p_mrr\n{rows}")
    files.log.write_text(message)
    assert refusal(files, 2, 0) is None
    assert outcome(files, 2, 0) == {"status": "failed", "message": message}


def test_a_trial_that_did_not_come_to_train(files: Paths) -> None:
    """A validation before the first step is no training."""
    (files.run / "metrics.csv").write_text("step,train/loss,followir/p_mrr\n0,,1.5\n")
    assert refusal(files, 2, 0) == f"trial late-000-seed0 does not start (an earlier start): see {files.log}"
    assert refusal(files, 1, 0) is refusal(files, 143, 0) is None
    assert outcome(files, 2, 0) == {"status": "failed", "message": "error: an earlier start"}


@pytest.mark.parametrize(
    ("later", "message"),
    [("boom\n", "boom"), ("error: this one\nat its end\n", "error: this one"), ("", "no output")],
)
def test_the_message_is_of_this_start(later: str, message: str, files: Paths) -> None:
    size = files.log.stat().st_size
    with files.log.open("a") as log:
        log.write(later)
    assert outcome(files, 1, size) == {"status": "failed", "message": message}
    assert f"does not start ({message.removeprefix('error: ')}): see" in str(refusal(files, 2, size))
