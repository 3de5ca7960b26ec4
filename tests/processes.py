"""The command line in a process of its own, forked from one that has imported everything."""

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from ifir_lightning import cli


def run(arguments: list[str], log: Path) -> int:
    """The exit status; what it prints is appended to ``log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ifir_lightning.cli"])
    process = context.Process(target=_main, args=(arguments, log))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _main(arguments: list[str], log: Path) -> None:
    with open(log, "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that nobody forked
    sys.argv = ["ifir_lightning", *arguments]
    cli.main()
