"""A fit for the tools that hurt one: small, with dropout and many checkpoints, its ranks processes of their own."""

import csv
import json
import multiprocessing
import os
import socket
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml

from ifir_lightning import cli, manifests

TOOLS = Path(__file__).parent
ROOT = TOOLS.parent
SPEED = ("_per_second", "_share", "memory_gb", "train/mfu")


def write_recipe(output: Path, **trainer: Any) -> Path:
    """The quickstart's recipe at a size for this; ``trainer`` overrides settings of the trainer."""
    recipe = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    recipe["model"]["backbone"]["config"] |= {"attention_dropout": 0.1, "mlp_dropout": 0.1, "num_hidden_layers": 2}
    recipe["model"]["backbone"]["tokenizer"] = str(ROOT / "configs" / "quickstart-tokenizer")
    recipe["model"]["schedule"]["warmup_steps"] = 2
    recipe["data"] |= {"path": "synthetic:600", "rows": "all", "global_batch_size": 8, "groups": {"group_size": 4}}
    recipe["followir"]["tasks"] = ["synthetic/food"]
    recipe["trainer"] |= {"max_steps": 160, "val_check_interval": 40, "log_every_n_steps": 1, "callbacks": []}
    saver = {"class_path": "ifir_lightning.callbacks.checkpoints.Checkpoints", "init_args": {"every_n_steps": 5}}
    recipe["trainer"] |= {"callbacks": [saver], "enable_progress_bar": False, **trainer}
    output.write_text(yaml.safe_dump(recipe))
    return output


def result(folder: Path) -> tuple[str, str]:
    """sha256 of the final weights, and of what metrics.csv says of training and validation."""
    newest = manifests.newest(folder / "checkpoints")
    assert newest is not None
    weights = sha256()
    for name, value in sorted(torch.load(newest, weights_only=True)["state_dict"].items()):
        weights.update(name.encode() + value.numpy().tobytes())
    with open(folder / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.endswith(SPEED)} for row in csv.DictReader(file)]
    return weights.hexdigest(), sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def fit(recipe: Path, folder: Path, rank: int, ranks: int, port: int, options: tuple[str, ...]) -> None:
    """One rank, as torchrun would have started it, its output in ``folder``.log."""
    with open(folder.with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a process of its own: loader workers end with it
    sys.path.insert(0, str(TOOLS))
    os.environ["IFIR_PLUGINS"] = "injector"
    if ranks > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        os.environ |= {name: str(value) for name, value in places.items()}
        os.environ |= {"TORCHELASTIC_RUN_ID": "faults", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.argv = ["ifir_lightning", "fit", f"--config={recipe}", f"--trainer.default_root_dir={folder}"]
    sys.argv += [f"--trainer.devices={ranks}", *options]
    cli.main()


class Run:
    """The ranks of one start, each a process; nobody but the watchdog ends the others when one dies.

    Its processes are forked from a server that has imported everything, so the main module needs a guard.
    """

    def __init__(self, recipe: Path, folder: Path, ranks: int, *options: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ifir_lightning.cli"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        places = [(recipe, folder, rank, ranks, port, options) for rank in range(ranks)]
        self.processes = [context.Process(target=fit, args=place) for place in places]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float, but_for: tuple[int, ...] = ()) -> bool:
        """Whether all (but some) ended within so many seconds; what is left then is killed."""
        deadline = time.monotonic() + seconds
        waited = [process for rank, process in enumerate(self.processes) if rank not in but_for]
        for process in waited:
            process.join(max(0.0, deadline - time.monotonic()))
        in_time = all(process.exitcode is not None for process in waited)
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
            process.join()
        return in_time

    def statuses(self) -> list[int | None]:
        return [process.exitcode for process in self.processes]
