"""A fit that is killed with SIGKILL at random moments ends with the weights and the log of one that was not."""

import random
import time
from pathlib import Path

import pytest
from small import write_task

from ifir_lightning import manifests

TOOLS = Path(__file__).parents[1] / "tools"
KILLS = 3


@pytest.fixture
def small_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import small_fit

    return small_fit


def test_a_killed_fit_ends_as_one_that_was_not(small_fit, tmp_path: Path) -> None:
    recipe = small_fit.write_recipe(tmp_path / "recipe.yaml", max_steps=24, val_check_interval=8)
    task = write_task(tmp_path / "task", num_queries=2, num_candidates=30)

    def start(folder: Path):
        return small_fit.Run(recipe, folder, 1, f"--followir.tasks=[{task}]")

    def end(folder: Path) -> None:
        run = start(folder)
        assert run.wait(120), folder.with_suffix(".log").read_text()
        assert run.statuses() == [0], folder.with_suffix(".log").read_text()

    end(tmp_path / "whole")
    generator, folder, seen = random.Random(0), tmp_path / "killed", 0
    for number in range(KILLS):
        run, at_least = start(folder), 5 * (number + 1)
        while run.processes[0].is_alive() and not (folder / "checkpoints" / f"step-{at_least:08d}.ckpt").exists():
            time.sleep(0.01)
        run.processes[0].join(generator.uniform(0, 0.2))
        assert not run.wait(0)  # it was at work
        assert run.statuses() == [-9], folder.with_suffix(".log").read_text()
        newest = manifests.newest(folder / "checkpoints")
        assert newest is not None
        step = manifests.read_manifest(newest).step
        assert step >= max(seen, at_least)
        seen = step
    end(folder)
    assert folder.with_suffix(".log").read_text().count("continues after step") == KILLS
    assert small_fit.result(folder) == small_fit.result(tmp_path / "whole")
