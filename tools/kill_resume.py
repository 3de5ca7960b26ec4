"""python tools/kill_resume.py --kills 20 --workers 0 2 --ranks 1 2

Kills one rank of a fit with SIGKILL at random moments, starts it again in its folder until it ends, and compares it
with one that nobody killed: sha256 of the final weights, and every row of metrics.csv but those of speed. The run is
the quickstart with dropout, fewer rows, shorter epochs, a validation every 40 steps and a checkpoint every 5.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from small_fit import Run, result, write_recipe

STEPS, FEW = 160, 5
"""Steps of the run; every fifth kill strikes while it starts."""
LIMIT = 600
"""Seconds for a run, or for what is left of one after a kill."""


def reached(folder: Path) -> int:
    """The step of the newest checkpoint, whole or not."""
    return max((int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/step-*.ckpt")), default=0)


def killed_run(recipe: Path, folder: Path, kills: int, ranks: int, options: tuple[str, ...]) -> list[int]:
    """Fit with so many kills of a random rank, then to the end; the step that each kill found."""
    generator, found = random.Random(0), []
    for number in range(kills):
        begin, left = reached(folder), kills - number
        target = begin + generator.uniform(0, 1.6) * (STEPS - begin) / left
        run, pause = Run(recipe, folder, ranks, *options), generator.uniform(0, 0.2)
        starting = number % FEW == FEW - 1
        if starting:
            target, pause = 0, generator.uniform(0, 3)
        victim = generator.choice(run.processes)
        while victim.is_alive() and reached(folder) < target:
            time.sleep(0.005)
        victim.join(pause)
        assert victim.is_alive(), f"nothing was left to kill: see {folder.with_suffix('.log')}"
        victim.kill()
        limit = 0 if starting else LIMIT  # before the ranks have met, it is the launcher that ends the others
        assert run.wait(limit) or starting, (
            f"a rank did not end after another was killed: see {folder.with_suffix('.log')}"
        )
        found.append(reached(folder))
    finish(recipe, folder, ranks, options)
    return found


def finish(recipe: Path, folder: Path, ranks: int, options: tuple[str, ...]) -> None:
    """Fit to the end."""
    run = Run(recipe, folder, ranks, *options)
    assert run.wait(LIMIT), folder.with_suffix(".log").read_text()
    assert run.statuses() == [0] * ranks, folder.with_suffix(".log").read_text()


def main() -> None:
    """Print a line per number of workers and ranks; status 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    differ = False
    with tempfile.TemporaryDirectory() as temporary:
        recipe = write_recipe(Path(temporary) / "recipe.yaml", max_steps=STEPS)
        for ranks in arguments.ranks:
            for workers in arguments.workers:
                name = f"{ranks}-ranks-{workers}-workers"
                whole, killed = Path(temporary) / f"whole-{name}", Path(temporary) / f"killed-{name}"
                options = (f"--data.num_workers={workers}", "--watchdog.silent_seconds=3")
                finish(recipe, whole, ranks, options)
                at = killed_run(recipe, killed, arguments.kills, ranks, options)
                expected, found = result(whole), result(killed)
                differ |= expected != found
                print(f"{name}: {len(at)} kills after steps {at}")
                print(f"{name}: weights {expected[0]} uninterrupted, {found[0]} killed and resumed")
                print(f"{name}: metrics.csv {'identical' if expected[1] == found[1] else 'DIFFERS'}", flush=True)
    sys.exit(differ)


if __name__ == "__main__":
    main()
