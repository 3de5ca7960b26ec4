#!/usr/bin/env python3
"""A FollowIR validation of ours against mteb with PyLate: same checkpoint, texts, limits, threads, precision.

    python tools/bench_validation.py --peer-python MTEB/bin/python [--passages 2000] [--rounds 3] [--json]
    python tools/bench_validation.py --growth [--json]

MTEB is an environment of tools/parity/requirements-mteb.txt. Each side runs in processes of its own, in turn, --rounds
times; the figures are medians. ModernBERT of 256 x 6 layers with random weights, late interaction of width 128;
passages of about 530 tokens (limit 512), as FollowIR's, each listed by the original and the changed variant of one
query of about 100 tokens (limit 256), 100 candidates a query; float32, --threads threads, the C library's allocator;
the peer at mteb's default batch size of 32, ours at its own defaults. Counted is what benchmarks/validate.py says.
``--growth`` runs ours alone at 500, 1,000 and 2,000 passages. A ratio above 1 means that we are faster. CPU only.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_training import ENVIRONMENT, HERE, write_model
from benchmarks.texts import lognormal, words, write_tokenizer

LIMITS = 256, 512
CANDIDATES = 100
SPLITS = {"corpus": "corpus", "queries": "queries", "instruction": "instruction"}
SPLITS |= {"default": "test", "qrel_diff": "qrel_diff", "top_ranked": "top_ranked"}


def task_tables(num_passages: int, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The v2 layout: every passage is a candidate of both variants of one query, and of no other."""
    draw = random.Random(seed)
    tables: dict[str, list[dict[str, Any]]] = {config: [] for config in SPLITS}
    for number in range(num_passages):
        text = words(draw, lognormal(draw, 570, 0.35, 640))
        tables["corpus"].append({"_id": f"d{number}", "title": "", "text": text})
    for base, start in enumerate(range(0, num_passages, CANDIDATES)):
        ids = [row["_id"] for row in tables["corpus"][start : start + CANDIDATES]]
        text = words(draw, lognormal(draw, 15, 0.4, 40))
        relevant = draw.sample(ids, min(20, len(ids)))
        tables["qrel_diff"].append({"query-id": str(base), "corpus-ids": relevant[10:]})
        for query_id, positives in ((f"{base}-og", relevant), (f"{base}-changed", relevant[:10])):
            instruction = words(draw, lognormal(draw, 80, 0.35, 180))
            tables["queries"].append({"_id": query_id, "text": text})
            tables["instruction"].append({"query-id": query_id, "instruction": instruction})
            tables["top_ranked"].append({"query-id": query_id, "corpus-ids": ids})
            tables["default"] += [{"query-id": query_id, "corpus-id": id_, "score": 1.0} for id_ in positives]
    return tables


def write_task(folder: Path, num_passages: int) -> Path:
    """A folder that ``load_task`` reads, and ``datasets`` by its README."""
    for config, records in task_tables(num_passages).items():
        (folder / config).mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / config / f"{SPLITS[config]}.jsonl").write_text(lines, encoding="utf-8")
    files = [
        {"config_name": config, "data_files": [{"split": split, "path": f"{config}/*.jsonl"}]}
        for config, split in SPLITS.items()
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(files)}\n---\n", encoding="utf-8")
    return folder


def measure(python: str, side: str, model: Path, task: Path, run: Path, threads: int) -> dict[str, Any]:
    command = [python, str(HERE / "benchmarks" / "validate.py"), side, str(model), str(task), str(run), str(threads)]
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    environment = ENVIRONMENT | {"PYTHONPATH": paths, "HF_DATASETS_CACHE": str(run.parent / "datasets")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    print(".", end="", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def largest_difference(ours: Path, theirs: Path) -> tuple[float, int]:
    """Largest difference of two runs' scores, and the number of (query, passage) pairs, the same in both."""
    first, second = (json.loads(run.read_text(encoding="utf-8")) for run in (ours, theirs))
    if {query: set(scores) for query, scores in first.items()} != {query: set(second[query]) for query in second}:
        sys.exit("the two runs do not score the same pairs")
    apart = [abs(score - second[query][id_]) for query, scores in first.items() for id_, score in scores.items()]
    return max(apart), len(apart)


def compare(root: Path, peer_python: str, num_passages: int, rounds: int, threads: int) -> dict[str, Any]:
    model, task = root / "model", write_task(root / "task", num_passages)
    sides = {"ours": sys.executable, "mteb": peer_python}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, python in sides.items():
            runs[side].append(measure(python, side, model, task, root / f"{side}.json", threads))
    figures: dict[str, Any] = {"passages": num_passages, "rounds": rounds}
    figures |= {side: medians(done) for side, done in runs.items()}
    apart, pairs = largest_difference(root / "ours.json", root / "mteb.json")
    ours, mteb = figures["ours"], figures["mteb"]
    return figures | {
        "pairs": pairs,
        "largest_score_difference": apart,
        "validation_speed_vs_mteb_pylate": mteb["cpu_seconds"] / ours["cpu_seconds"],
        "validation_wall_speed_vs_mteb_pylate": mteb["wall_seconds"] / ours["wall_seconds"],
        "validation_memory_vs_mteb_pylate": ours["peak_bytes"] / mteb["peak_bytes"],
    }


def growth(root: Path, rounds: int, threads: int) -> dict[str, Any]:
    tasks = {number: write_task(root / f"task-{number}", number) for number in (500, 1000, 2000)}
    runs: dict[int, list[dict[str, float]]] = {number: [] for number in tasks}
    for _ in range(rounds):
        for number, task in tasks.items():
            runs[number].append(measure(sys.executable, "ours", root / "model", task, root / "ours.json", threads))
    return {f"ours_{number}": medians(done) for number, done in runs.items()}


def table(figures: dict[str, Any]) -> str:
    lines = ["side           CPU s    wall s  peak GB"]
    for name, found in figures.items():
        if isinstance(found, dict):
            seconds = f"{found['cpu_seconds']:9.2f} {found['wall_seconds']:9.2f}"
            lines.append(f"{name:10} {seconds} {found['peak_bytes'] / 1e9:8.2f}")
    return "\n".join(lines + [f"{name}: {value:.3g}" for name, value in figures.items() if isinstance(value, float)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of the environment with mteb and PyLate")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of both sides; 1 on a machine that others use")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: there must be 1 or more")
    if not (arguments.growth or arguments.peer_python):
        parser.error("--peer-python is missing; give the environment's interpreter, or --growth for ours alone")
    figures: dict[str, Any] = {"torch": torch.__version__, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tokenizer(root / "tokenizer")
        write_model(root / "model", root / "tokenizer", LIMITS, late=True)
        if arguments.growth:
            figures |= growth(root, arguments.rounds, arguments.threads)
        else:
            figures |= compare(root, arguments.peer_python, arguments.passages, arguments.rounds, arguments.threads)
    print(json.dumps(figures, indent=1) if arguments.json else table(figures))


if __name__ == "__main__":
    main()
