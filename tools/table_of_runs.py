"""python tools/table_of_runs.py RUN_FOLDER... : the last validation of every run as a Markdown table.

Folders that differ only in a number at their end ("heads-weighted-0", "heads-weighted-1") are seeds of one recipe:
they share a line, with each seed's value and their mean and standard deviation (n - 1).
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import fmean, stdev

KEYS = {"p_mrr": "p-MRR", "score_b": "Score B"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="run folders of fit")
    folders = parser.parse_args().folders
    recipes: dict[str, list[dict[str, float]]] = {}
    for folder in sorted(folders):
        recipes.setdefault(re.sub(r"-\d+$", "", Path(folder).name), []).append(last_validation(Path(folder)))
    print("| run | seeds | step |" + "".join(f" {label} (x100) | per seed |" for label in KEYS.values()))
    print("|---|---|---|" + "---|---|" * len(KEYS))
    for name, seeds in recipes.items():
        steps = sorted({f"{seed['step']:.0f}" for seed in seeds})
        cells = [name, str(len(seeds)), ", ".join(steps)]
        for key in KEYS:
            values = [seed[key] for seed in seeds]
            cells += [spread(values), ", ".join(f"{value:.2f}" for value in values)]
        print("| " + " | ".join(cells) + " |")


def last_validation(folder: Path) -> dict[str, float]:
    """Step and benchmark of the newest validation in a run folder."""
    files = sorted(folder.glob("followir/step-*/metrics.json"))
    if not files:
        sys.exit(f"error: {folder} holds no followir/step-*/metrics.json; name run folders of `fit`")
    record = json.loads(files[-1].read_text(encoding="utf-8"))
    return {"step": record["step"], **record["benchmark"]}


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation where there is more than one value."""
    return f"{fmean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
