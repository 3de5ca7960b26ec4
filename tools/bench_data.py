#!/usr/bin/env python3
"""The data module on tables of growing size: start-up, memory, and how fast its loader makes batches.

    python tools/bench_data.py [--rows 10000 100000 1000000] [--tokenizer FOLDER] [--json]

Tables have the published layout and lengths (13 KB a row), written for the measurement: 2000 distinct rows, again and
again under new query ids. Each figure comes from a process of its own. Limits 304 / 300 tokens. FOLDER is a tokenizer
in transformers' layout, best one with a vocabulary of English (--tokenizer): the shipped one is small. A million rows
need 30 GB under --folder, for the table and for the cache of ``datasets``.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.table import write_table
from transformers import AutoTokenizer

HERE = Path(__file__).parent
TOKENIZER = HERE.parent / "configs" / "quickstart-tokenizer"
NEEDED = 128 * (1 + 8) / 0.240
"""Texts per second of a GPU that makes a step of 128 queries and their groups of 8 in 240 ms."""
SHAPES = [(32, 8), (32, 16), (256, 8), (256, 16)]
STARTS = 3

Figures = dict[str, Any]


def vocabulary(tokenizer: str) -> list[str]:
    """Whole words that the tokenizer knows, in its order, which is nearly that of frequency."""
    known = AutoTokenizer.from_pretrained(tokenizer).get_vocab()
    return [word for word in sorted(known, key=known.__getitem__) if word.isascii() and word.isalpha()]


def measure(cache: Path, settings: Figures) -> Figures:
    command = [sys.executable, str(HERE / "benchmarks" / "load.py"), json.dumps(settings)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    print(".", end="", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_table(folder: Path, settings: Figures, num_rows: int, words: list[str], num_negatives: int) -> Figures:
    """All figures of one size."""
    begin = time.perf_counter()
    write_table(folder / "train.parquet", num_rows, words, num_negatives)
    figures: Figures = {"write_seconds": time.perf_counter() - begin, "num_negatives": num_negatives}
    figures["file_bytes"] = (folder / "train.parquet").stat().st_size
    cache, settings = folder / "cache", settings | {"table": str(folder / "train.parquet")}
    once = settings | {"what": "start", "batch": 32, "group_size": 8, "workers": 0, "batches": 100}
    figures["first_start"] = measure(cache, once)
    starts = [measure(cache, once) for _ in range(STARTS)]
    figures["later_start"] = {name: statistics.median(each[name] for each in starts) for name in starts[0]}
    figures["speed"] = [measure_speed(cache, settings | {"batch": b, "group_size": g}) for b, g in SHAPES]
    return figures


def measure_speed(cache: Path, settings: Figures) -> Figures:
    """One shape of batch: a worker's phases, and loaders of 1 and 2 workers."""
    settings |= {"batches": max(8, 2048 // settings["batch"])}
    found = measure(cache, settings | {"what": "phases", "workers": 0})
    loaders = {workers: measure(cache, settings | {"what": "loader", "workers": workers}) for workers in (1, 2)}
    shape = {"batch": settings["batch"], "group_size": settings["group_size"]}
    return shape | {"worker": found} | {f"workers_{workers}": speed for workers, speed in loaders.items()}


def growth(sizes: dict[int, Figures]) -> Figures:
    """What must not grow with the table: the largest against the smallest."""
    least, most = sizes[min(sizes)], sizes[max(sizes)]
    rows = max(1, max(sizes) - min(sizes))
    fastest = [max(each["worker"]["texts_per_second"] for each in figures["speed"]) for figures in sizes.values()]
    need = [math.ceil(NEEDED / shape["worker"]["texts_per_second"]) for shape in most["speed"]]
    return {
        "texts_per_second_needed": NEEDED,
        "workers_needed": max(need),
        "slowest_size_over_fastest_size": min(fastest) / max(fastest),
        "anonymous_bytes_per_row": (most["later_start"]["anonymous"] - least["later_start"]["anonymous"]) / rows,
    }


def table(figures: Figures) -> str:
    lines = [
        f"tokenizer {figures['tokenizer']}, limits 304 / 300 tokens, {figures['cores']} cores",
        "     rows negatives  file GB  first start s  peak MB  later start s  first batch s  anonymous MB  file MB",
    ]
    for rows, found in figures["rows"].items():
        first, later = found["first_start"], found["later_start"]
        lines.append(
            f"{rows:9} {found['num_negatives']:9} {found['file_bytes'] / 1e9:8.2f} {total(first):14.2f} "
            f"{first['peak_anonymous'] / 1e6:8.0f} {total(later):14.2f} {later['first_batch_seconds']:14.2f} "
            f"{later['anonymous'] / 1e6:13.0f} {later['file'] / 1e6:8.0f}"
        )
    lines += [
        "",
        "     rows  batch  group  us/text: read  sample  tokenise  pack  texts/CPU s  texts/s: 1 worker  2 workers",
    ]
    lines += [speed_line(rows, shape) for rows, found in figures["rows"].items() for shape in found["speed"]]
    return "\n".join([*lines, "", *(f"{name}: {value:.3g}" for name, value in figures["growth"].items())])


def total(start: Figures) -> float:
    return start["setup_seconds"] + start["first_batch_seconds"]


def speed_line(rows: int, shape: Figures) -> str:
    worker = shape["worker"]
    return (
        f"{rows:9} {shape['batch']:6} {shape['group_size']:6} {worker['read']:14.1f} {worker['sample']:7.1f} "
        f"{worker['tokenise']:9.1f} {worker['pack']:5.1f} {worker['texts_per_second']:12.0f} "
        f"{shape['workers_1']['texts_per_second']:18.0f} {shape['workers_2']['texts_per_second']:10.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--negatives", type=int, default=30, help="hard negatives of a row")
    parser.add_argument("--tokenizer", default=str(TOKENIZER))
    parser.add_argument("--folder", help="where tables and cache are written and removed; by default the system's")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.rows) < 5000:
        parser.error(f"--rows {min(arguments.rows)}: there must be 5000 or more, for enough batches of 256 queries")
    words, settings = vocabulary(arguments.tokenizer), {"tokenizer": arguments.tokenizer}
    sizes: dict[int, Figures] = {}
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            sizes[rows] = measure_table(Path(folder), settings, rows, words, arguments.negatives)
    machine = {"cores": os.cpu_count(), "machine": platform.platform()}
    figures = {"tokenizer": Path(arguments.tokenizer).name} | machine | {"rows": sizes, "growth": growth(sizes)}
    print(json.dumps(figures, indent=1) if arguments.json else table(figures))


if __name__ == "__main__":
    main()
