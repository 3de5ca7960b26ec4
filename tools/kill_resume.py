"""python tools/kill_resume.py --kills 20 --workers 0 2 --ranks 1 2

Kills fits with SIGKILL at random moments, starts each again in its folder until it ends, and compares it with one that
nobody killed: sha256 of the final weights, and every row of metrics.csv but those of speed. The run is the quickstart
with dropout, fewer rows, shorter epochs, a validation every 40 steps and a checkpoint every 5.
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml

from ifir_lightning import manifests

ROOT = Path(__file__).parents[1]
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


def start(recipe: Path, folder: Path, workers: int, ranks: int) -> subprocess.Popen[bytes]:
    """A fit in ``folder``, in a session of its own, its output in ``folder``.log."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "ifir_lightning", "fit", f"--config={recipe}"]
    command += [f"--data.num_workers={workers}", f"--trainer.devices={ranks}", f"--trainer.default_root_dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill(process: subprocess.Popen[bytes], ranks: int, generator: random.Random) -> None:
    """SIGKILL to the process, or to one of torchrun's ranks, which has torchrun end the others."""
    victims = [process.pid]
    if ranks > 1:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victims = [int(child) for child in children] or victims
    os.kill(generator.choice(victims), signal.SIGKILL)
    process.wait()


def killed_run(recipe: Path, folder: Path, case: tuple[int, int, int], startup: float, training: float) -> int:
    """Fit with so many kills, then to the end; how many starts a kill found at work."""
    kills, workers, ranks = case
    generator, done = random.Random(0), 0
    for _ in range(kills):
        process, delay = start(recipe, folder, workers, ranks), generator.uniform(0.5, 1.0) * startup
        delay += generator.uniform(0, 1.5 * training / kills)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            kill(process, ranks, generator)
            done += 1
        newest = manifests.newest(folder / "checkpoints")
        print(f"  after {delay:5.1f} s: {newest.name if newest else 'no checkpoint'}", flush=True)
    assert start(recipe, folder, workers, ranks).wait() == 0, f"see {folder.with_suffix('.log')}"
    return done


def main() -> None:
    """Print a line per number of workers and ranks; status 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    differ = False
    with tempfile.TemporaryDirectory() as temporary:
        recipe = write_recipe(Path(temporary) / "recipe.yaml")
        for ranks in arguments.ranks:
            for workers in arguments.workers:
                name, begin = f"{ranks}-ranks-{workers}-workers", time.monotonic()
                whole, killed = Path(temporary) / f"whole-{name}", Path(temporary) / f"killed-{name}"
                process = start(recipe, whole, workers, ranks)
                while process.poll() is None and not (whole / "followir" / "step-00000000" / "metrics.json").exists():
                    time.sleep(0.05)
                startup = time.monotonic() - begin
                assert process.wait() == 0, whole.with_suffix(".log").read_text()
                training = time.monotonic() - begin - startup
                done = killed_run(recipe, killed, (arguments.kills, workers, ranks), startup, training)
                expected, found = result(whole), result(killed)
                differ |= expected != found
                print(f"{name}: {done} kills, weights {expected[0]} uninterrupted, {found[0]} killed and resumed")
                print(f"{name}: metrics.csv {'identical' if expected[1] == found[1] else 'DIFFERS'}", flush=True)
    sys.exit(differ)


if __name__ == "__main__":
    main()
