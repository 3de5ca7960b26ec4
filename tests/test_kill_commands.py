"""mine and teach, killed with SIGKILL at random moments and started again, end with the files of one that was not."""

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_teacher_scores import write

from ifir_lightning import cli, durable, mining
from ifir_lightning.data import teacher_cache
from ifir_lightning.data.synthetic import training_rows
from ifir_lightning.export import write_export
from ifir_lightning.models.pooling import TokenProjection
from ifir_lightning.models.scoring import MaxSim
from ifir_lightning.retriever import load_retriever

NUM_ROWS, KILLS = 40, 5
COMMANDS = {
    "mine": ("--checkpoint", ["--choice.rank_from=3", "--choice.rank_to=20"]),
    "teach": ("--teacher", []),
}


def work(arguments: list[str], log: Path, moment: int | None) -> None:
    """The command in a process of its own; with a moment, it is killed just before that many files have their name."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    mining.PASSAGES_PER_SLICE, teacher_cache.ROWS_PER_PART = 16, 3
    commit, names = durable.commit, iter(range(10_000))

    def killed(path: Path) -> None:
        if next(names) == moment:
            os.kill(os.getpid(), 9)
        commit(path)

    durable.commit = killed
    sys.argv = ["ifir_lightning", *arguments]
    cli.main()


@pytest.fixture(scope="module")
def start() -> Callable[..., multiprocessing.Process]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ifir_lightning.cli"])

    def start(*arguments: object) -> multiprocessing.Process:
        process = context.Process(target=work, args=arguments)
        process.start()
        return process

    return start


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments(
    command: str, start: Callable[..., multiprocessing.Process], modernbert: Path, tmp_path: Path
) -> None:
    table, log = write(tmp_path, list(training_rows(NUM_ROWS))), tmp_path / "log"
    write_export(load_retriever(str(modernbert), TokenProjection(dim=16), MaxSim()), tmp_path / "model", card="")
    option, more = COMMANDS[command]

    def begin(folder: Path, moment: int | None = None) -> multiprocessing.Process:
        words = [command, f"{option}={tmp_path / 'model'}", f"--data={table}", f"--output={folder}", *more]
        return start(words, log, moment)

    began = time.monotonic()
    begin(tmp_path / "whole").join()
    seconds = time.monotonic() - began
    assert (tmp_path / "whole").is_dir(), log.read_text()
    folder, generator = tmp_path / "killed", random.Random(command)
    for moment in (0, 1, 3):  # before the first file has its name: nothing but a .partial lies in the folder
        process = begin(folder, moment)
        process.join()
        assert process.exitcode == -9, log.read_text()
    for _ in range(KILLS):
        process = begin(folder)
        process.join(generator.uniform(0, seconds))
        process.kill()
        process.join()
    process = begin(folder)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert content(folder) == content(tmp_path / "whole")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
