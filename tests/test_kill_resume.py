"""A fit that is killed with SIGKILL at random moments ends with the weights and the log of one that was not."""

import multiprocessing
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from small import write_task

from ifir_lightning import cli, manifests

ROOT = Path(__file__).parents[1]
KILLS = 3


@pytest.fixture
def kill_resume(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import kill_resume

    return kill_resume


def fit(recipe: Path, task: str, folder: Path) -> None:
    """As a process of its own, its output in a file."""
    with open(folder.with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["ifir_lightning", "fit", f"--config={recipe}", f"--trainer.default_root_dir={folder}"]
    sys.argv += [f"--followir.tasks=[{task}]"]
    cli.main()


def test_a_killed_fit_ends_as_one_that_was_not(kill_resume, tmp_path: Path) -> None:
    recipe = kill_resume.write_recipe(tmp_path / "recipe.yaml", max_steps=24, val_check_interval=8)
    task = write_task(tmp_path / "task", num_queries=2, num_candidates=30)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ifir_lightning.cli"])

    def start(folder: Path) -> multiprocessing.Process:
        process = context.Process(target=fit, args=(recipe, task, folder))
        process.start()
        return process

    process = start(tmp_path / "whole")
    process.join()
    assert process.exitcode == 0, (tmp_path / "whole.log").read_text()
    generator, folder, seen = random.Random(0), tmp_path / "killed", 0
    for number in range(KILLS):
        process, at_least = start(folder), 5 * (number + 1)
        while process.is_alive() and not (folder / "checkpoints" / f"step-{at_least:08d}.ckpt").exists():
            process.join(0.01)
        process.join(generator.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9, folder.with_suffix(".log").read_text()
        newest = manifests.newest(folder / "checkpoints")
        assert newest is not None
        step = manifests.read_manifest(newest).step
        assert step >= max(seen, at_least)
        seen = step
    process = start(folder)
    process.join()
    assert process.exitcode == 0, folder.with_suffix(".log").read_text()
    assert folder.with_suffix(".log").read_text().count("continues after step") == KILLS
    assert kill_resume.result(folder) == kill_resume.result(tmp_path / "whole")
