"""python tools/faults.py [--cells TEXT ...] [--json]

The fault table: every fault at every moment, on one rank and on two. Each cell trains the quickstart's model for
24 steps, strikes, waits until every process has ended (nobody ends them from outside, but for one that was stopped),
starts the run again, and compares it with one that nothing struck: sha256 of the final weights, rows of metrics.csv.
Without --cells all are run; with it, those whose name holds one of the texts ("kill, mid-epoch").
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from injector import STEPS, Fault, Moment
from small_fit import Run, result, write_recipe

from ifir_lightning import manifests

HANG = 5.0
"""Seconds that the ranks may stand still in these runs; ten times as long while a checkpoint is written."""
LIMIT = 120.0
"""Seconds after which a cell has failed."""
MOMENTS: tuple[Moment, ...] = ("start", "mid-epoch", "epoch end", "save", "validation")


@dataclass(frozen=True)
class Cell:
    """A fault, when, on how many ranks, and whom it strikes."""

    fault: str
    moment: Moment
    ranks: int
    struck: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.moment}, {self.ranks} rank{'s' if self.ranks > 1 else ''}"


@dataclass
class Outcome:
    """What was seen; ``steps_lost`` are those that were done and had to be done again."""

    cell: Cell
    ended_after: float | None = None
    statuses: list[int | None] = field(default_factory=list)
    named: str = ""
    steps_lost: int = 0
    same_weights: bool = False
    same_log: bool = False
    faults: list[str] = field(default_factory=list)


def all_cells() -> Iterator[Cell]:
    """Where a fault makes sense: one rank that is stopped has nobody to name it; rank 0 is the one that saves."""
    for ranks in (1, 2):
        for moment in MOMENTS:
            struck = (0,) if ranks == 1 or moment == "save" else (1,)
            for fault in ("kill", "exception", "hang", *(("stop",) if ranks > 1 else ())):
                yield Cell(fault, moment, ranks, struck)
            yield Cell("SIGTERM to all", moment, ranks, struck if moment == "save" else tuple(range(ranks)))
            if ranks > 1:
                yield Cell("SIGTERM to one", moment, ranks, struck)
            if moment in ("start", "mid-epoch", "epoch end"):
                yield Cell("nan", moment, ranks, struck)
        yield Cell("full disk", "save", ranks, (0,))
        for fault in ("truncated checkpoint", "flipped bit", "two jobs"):
            yield Cell(fault, "mid-epoch", ranks, (ranks - 1,))


def recipe(folder: Path) -> Path:
    """24 steps in epochs of 12, saved every 5 and validated every 8."""
    path = write_recipe(folder / "recipe.yaml", max_steps=24, val_check_interval=8)
    content = yaml.safe_load(path.read_text())
    content["data"]["path"] = "synthetic:96"
    content["trainer"]["callbacks"][0]["init_args"]["keep_last"] = 3
    content["watchdog"] = {"hang_seconds": HANG}
    path.write_text(yaml.safe_dump(content))
    return path


def with_fault(path: Path, cell: Cell, mark: Path) -> Path:
    """The recipe with the injector before all other callbacks."""
    content = yaml.safe_load(path.read_text())
    fault: Fault = {"SIGTERM to all": "term", "SIGTERM to one": "term"}.get(cell.fault, cell.fault)  # type: ignore
    if cell.fault in ("truncated checkpoint", "flipped bit", "two jobs"):
        fault = "kill"
    harm = {"fault": fault, "moment": cell.moment, "ranks": list(cell.struck), "mark": str(mark)}
    content["trainer"]["callbacks"].insert(0, {"class_path": "injector.Injector", "init_args": harm})
    struck = path.with_name("struck.yaml")
    struck.write_text(yaml.safe_dump(content))
    return struck


def strike(cell: Cell, recipe: Path, folder: Path, outcome: Outcome) -> None:
    """Train with the fault until all ranks have ended; how long that took from the moment of the fault."""
    mark = folder.with_name("mark")
    for old in folder.parent.glob("mark-*"):
        old.unlink()
    run = Run(with_fault(recipe, cell, mark), folder, cell.ranks)
    first = mark.with_name(f"mark-{cell.struck[0]}")
    deadline = time.monotonic() + LIMIT
    while not first.exists() and any(p.is_alive() for p in run.processes) and time.monotonic() < deadline:
        time.sleep(0.01)
    if not first.exists():
        outcome.faults.append("it did not strike")
    in_time = run.wait(LIMIT, but_for=cell.struck if cell.fault == "stop" else ())
    outcome.ended_after = round(time.time() - first.stat().st_mtime, 1) if first.exists() else None
    outcome.statuses = run.statuses()
    if not in_time:
        outcome.faults.append(f"not ended after {LIMIT:.0f} s")
    outcome.named = naming_line(cell, folder)


def naming_line(cell: Cell, folder: Path) -> str:
    """What the run said of the fault."""
    log = folder.with_suffix(".log").read_text()
    word = {"nan": "is not finite", "full disk": "could not be written"}.get(cell.fault)
    word = word or ("SIGTERM: the run ends" if "SIGTERM" in cell.fault else f"rank {cell.struck[0]} on ")
    lines = [line for line in log.splitlines() if word in line]
    return lines[0].partition(": ")[2].replace(f"{folder.parent}/", "") if lines else ""


def damage(cell: Cell, folder: Path) -> None:
    """Cut or change the newest checkpoint."""
    newest = manifests.newest(folder / "checkpoints")
    assert newest is not None
    content = bytearray(newest.read_bytes())
    if cell.fault == "flipped bit":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content if cell.fault == "flipped bit" else content[: len(content) // 2])


def second_job(recipe: Path, folder: Path, ranks: int, outcome: Outcome) -> None:
    """Start the run, and once it trains another one in the same folder, which has to be refused."""
    run = Run(recipe, folder, ranks)
    while not list(folder.glob("followir/step-*/metrics.json")) and run.processes[0].is_alive():
        time.sleep(0.05)
    second = Run(recipe, folder, ranks)
    if not second.wait(LIMIT) or any(status == 0 for status in second.statuses()):
        outcome.faults.append(f"the second job ended with {second.statuses()}")
    log = folder.with_suffix(".log").read_text()
    outcome.statuses = second.statuses()
    refused = next((line for line in log.splitlines() if "is in use by another fit" in line), "")
    outcome.named = refused.replace(f"{folder.parent}/", "")
    if not run.wait(LIMIT) or any(run.statuses()):
        outcome.faults.append(f"the first job ended with {run.statuses()}")


def run_cell(cell: Cell, recipe: Path, expected: tuple[str, str]) -> Outcome:
    """Strike, start again, compare; ``faults`` of the outcome says what was not as promised."""
    outcome, folder = Outcome(cell), recipe.parent / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".log").unlink(missing_ok=True)
    if cell.fault == "two jobs":
        second_job(recipe, folder, cell.ranks, outcome)
    else:
        strike(cell, recipe, folder, outcome)
        if cell.fault in ("truncated checkpoint", "flipped bit"):
            damage(cell, folder)
        newest = manifests.newest(folder / "checkpoints")
        reached = STEPS[cell.moment] - (cell.moment in ("start", "mid-epoch"))
        outcome.steps_lost = max(0, reached - (manifests.read_manifest(newest).step if newest else 0))
        again = Run(recipe, folder, cell.ranks)
        if not again.wait(LIMIT) or any(again.statuses()):
            outcome.faults.append(f"started again it ended with {again.statuses()}")
    weights, log = result(folder)
    outcome.same_weights, outcome.same_log = weights == expected[0], log == expected[1]
    outcome.faults += broken_promises(outcome)
    return outcome


def broken_promises(outcome: Outcome) -> list[str]:
    """What of the table's promises the outcome does not keep."""
    cell, faults = outcome.cell, []
    if not outcome.same_weights:
        faults.append("the weights differ")
    if not outcome.same_log:
        faults.append("metrics.csv differs")
    if any(status == 0 for status in outcome.statuses):
        faults.append("a rank ended with status 0")
    if "SIGTERM" in cell.fault:
        if outcome.steps_lost or any(status != 128 + signal.SIGTERM for status in outcome.statuses):
            faults.append(f"{outcome.steps_lost} steps lost, status {outcome.statuses}")
    elif outcome.steps_lost > 5 + 5 * (cell.fault in ("truncated checkpoint", "flipped bit", "full disk")):
        faults.append(f"{outcome.steps_lost} steps lost")
    silent_alone = cell.ranks == 1 and cell.fault in ("kill", "exception", "truncated checkpoint", "flipped bit")
    if not outcome.named and not silent_alone:
        faults.append("nothing was named")
    return faults


def main() -> None:
    """A line per cell; status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=[""], help="texts of which a cell's name holds one")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = [cell for cell in all_cells() if any(text in cell.name for text in arguments.cells)]
    if unknown := [text for text in arguments.cells if not any(text in cell.name for cell in chosen)]:
        parser.error(
            f"--cells {unknown[0]!r} names none; allowed are texts in names such as {next(all_cells()).name!r}"
        )
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        path = recipe(Path(temporary))
        expected = {}
        for ranks in sorted({cell.ranks for cell in chosen}):
            whole = Path(temporary) / f"whole-{ranks}"
            run = Run(path, whole, ranks)
            assert run.wait(LIMIT), whole.with_suffix(".log").read_text()
            expected[ranks] = result(whole)
        for cell in chosen:
            outcome = run_cell(cell, path, expected[cell.ranks])
            outcomes.append(outcome)
            if not arguments.json:
                print(line(outcome), flush=True)
    print(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) if arguments.json else "\n" + table(outcomes))
    sys.exit(any(outcome.faults for outcome in outcomes))


def line(outcome: Outcome) -> str:
    """A row of the table."""
    cell, seconds = outcome.cell, outcome.ended_after
    ended = "-" if seconds is None else f"{seconds:.1f} s"
    columns: list[Any] = [cell.fault, cell.moment, cell.ranks, ended, outcome.statuses, outcome.steps_lost]
    same = "identical" if outcome.same_weights and outcome.same_log else "DIFFERS"
    columns += [same, outcome.named[:120] or "-", "; ".join(outcome.faults) or "as promised"]
    return "| " + " | ".join(str(column) for column in columns) + " |"


def table(outcomes: list[Outcome]) -> str:
    """Seconds from the fault to the end of all ranks, and steps to be done again, by fault and moment."""
    cells = {(o.cell.fault, o.cell.ranks, o.cell.moment): o for o in outcomes}
    rows = dict.fromkeys((fault, ranks) for fault, ranks, _ in cells)
    lines = ["| fault | ranks | " + " | ".join(MOMENTS) + " |", "|---" * (2 + len(MOMENTS)) + "|"]
    for fault, ranks in rows:
        shown = [_shown(cells.get((fault, ranks, moment))) for moment in MOMENTS]
        lines.append(f"| {fault} | {ranks} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _shown(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    seconds = "" if outcome.ended_after is None else f"{outcome.ended_after:.1f} s, "
    return f"{seconds}{outcome.steps_lost}" + (f": {'; '.join(outcome.faults)}" if outcome.faults else "")


if __name__ == "__main__":
    main()
