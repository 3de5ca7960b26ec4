"""A run folder has one line of time and one job."""

import errno
import fcntl
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ifir_lightning import run_folder
from ifir_lightning.errors import InputError


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fill(folder: Path) -> None:
    """A run that validated and saved at steps 0, 2 and 4, and died at step 5 while it saved."""
    for step in (2, 4):
        for suffix in ("ckpt", "json"):
            write(folder / "checkpoints" / f"step-{step:08d}.{suffix}", f"{step}")
    for name in ("step-00000005.ckpt.partial", "step-00000005.json", "mine.ckpt"):
        write(folder / "checkpoints" / name)
    write(folder / "config.yaml.host-7.partial")
    for step in (0, 2, 4):
        for benchmark in ("followir", "instructir"):
            write(folder / benchmark / f"step-{step:08d}" / "metrics.json", f"{step}")
    write(folder / "metrics.csv", "step,epoch,loss\n" + "".join(f"{step},0,0.{step}\n" for step in range(6)))
    write(folder / "p_mrr.png")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_lies_after_the_step_is_moved_aside(tmp_path: Path) -> None:
    fill(tmp_path)
    run_folder.clear(tmp_path, 2)
    kept = {"checkpoints/step-00000002.ckpt", "checkpoints/step-00000002.json", "checkpoints/mine.ckpt"}
    benchmarks = ("followir", "instructir")
    kept |= {f"{name}/step-0000000{step}/metrics.json" for name in benchmarks for step in (0, 2)}
    kept |= {"metrics.csv", "p_mrr.png"}
    moved = {"checkpoints/step-00000004.ckpt", "checkpoints/step-00000004.json", "metrics.csv"}
    moved |= {f"{name}/step-00000004/metrics.json" for name in benchmarks}
    assert files(tmp_path) == kept | {f"abandoned/001-from-step-00000002/{name}" for name in moved}
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,loss\n0,0,0.0\n1,0,0.1\n2,0,0.2\n"
    aside = tmp_path / "abandoned" / "001-from-step-00000002" / "metrics.csv"
    assert aside.read_text() == "step,epoch,loss\n3,0,0.3\n4,0,0.4\n5,0,0.5\n"


def test_a_second_time_from_the_same_step_keeps_the_first(tmp_path: Path) -> None:
    fill(tmp_path)
    run_folder.clear(tmp_path, 2)
    before = files(tmp_path)
    run_folder.clear(tmp_path, 2)
    assert files(tmp_path) == before
    fill(tmp_path)
    run_folder.clear(tmp_path, 4)
    assert {"abandoned/001-from-step-00000002/metrics.csv", "abandoned/002-from-step-00000004/metrics.csv"} <= files(
        tmp_path
    )


def test_a_number_that_was_given_is_not_given_again(tmp_path: Path) -> None:
    """Though the user has removed an earlier one."""
    for _ in range(2):
        fill(tmp_path)
        run_folder.clear(tmp_path, 2)
    shutil.rmtree(tmp_path / "abandoned" / "001-from-step-00000002")
    fill(tmp_path)
    run_folder.clear(tmp_path, 2)
    names = sorted(path.name for path in (tmp_path / "abandoned").iterdir())
    assert names == ["002-from-step-00000002", "003-from-step-00000002"]


def test_a_run_that_begins_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    fill(tmp_path)
    run_folder.clear(tmp_path, 0)
    assert {name for name in files(tmp_path) if not name.startswith("abandoned")} == {
        "checkpoints/mine.ckpt",
        "metrics.csv",
        "p_mrr.png",
    }
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,loss\n"
    run_folder.clear(tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()


def hold(folder: Path, held: "multiprocessing.synchronize.Event") -> None:
    run_folder.lock(folder)
    held.set()
    multiprocessing.Event().wait(60)


def test_a_second_job_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", held))
    process.start()
    assert held.wait(60)
    with pytest.raises(InputError, match=r"run is in use by another fit; allowed is one at a time"):
        run_folder.lock(tmp_path / "run")
    process.kill()
    process.join()
    run_folder.lock(tmp_path / "run")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    run_folder.lock(tmp_path)
    assert "file system without locks" in caplog.text


def test_a_lock_that_fails_otherwise_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EIO, "no answer")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(OSError, match="no answer"):
        run_folder.lock(tmp_path)
