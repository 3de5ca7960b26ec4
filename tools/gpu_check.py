#!/usr/bin/env python3
"""Everything that needs a GPU, in one go: the GPU tests, then the benchmarks at the size of gte-modernbert-base.

    python tools/gpu_check.py [--peers] [--pylate FOLDER] [--skip-tests] [--output benchmarks]

Random weights (tools/benchmarks/gte-modernbert-base.json), bf16 autocast, lengths of the Promptriever mix. Measured: a
step of 128 x (1 + 7) with every attention choice, plain and compiled; its share of the card's bf16 peak, counted on
real tokens; what MaxSim and the loss take of it; compilations after the warm-up; the largest batch of 16 passages a
query that fits when it is encoded in chunks; a validation of FollowIR's size, compiled; with --peers a step of
sentence-transformers 6 and PyLate 1.6, each in a process of its own, and ours, at batches that fit them. FOLDER holds
PyLate and the versions that it pins (pip install --target FOLDER). Writes OUTPUT/<gpu>-<date>.json, after every part,
and prints a table; a part that fails is recorded as failed, and the others go on. Without a GPU it says what it left
out and ends with status 0.
"""

import argparse
import datetime
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import Figures, build, largest_batch, measure_steps, validation
from benchmarks.texts import make_texts, write_texts, write_tokenizer

from ifir_lightning.export import write_export
from ifir_lightning.models.attention import Attention

ROOT = Path(__file__).parents[1]
TESTS = [
    "test_gpu.py",
    "test_attention.py",
    "test_triton_attention.py",
    "test_triton_maxsim.py",
    "test_backbone.py",
    "test_chunks.py",
]
PEER_QUERIES = 32
"""Of a step with 8 passages each: what the peers pad fits in 80 GB."""


@dataclass
class Report:
    """Figures, in a file as soon as they are known."""

    file: Path
    figures: Figures = field(default_factory=dict)

    def add(self, name: str, run: Callable[[], Any]) -> None:
        """What ``run`` finds under ``name``; a failure is a finding too."""
        try:
            found = run()
        except Exception as error:
            traceback.print_exc()
            found = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        gc.collect()  # a compiled layer refers to itself
        torch.cuda.empty_cache()
        self.figures[name] = found
        self.file.write_text(json.dumps(self.figures, indent=1), encoding="utf-8")
        print(name, found, flush=True)


def kernels() -> list[Attention]:
    """That can run here; sdpa, one text at a time, is left to the tests."""
    found: list[Attention] = ["triton", "varlen"]
    return [*found, "flash_attention_2"] if find_spec("flash_attn") else found


def measure(tokenizer: Path, kernel: Attention, compiled: bool, num_queries: int = 128) -> Figures:
    return measure_steps(build(tokenizer, kernel, compile=compiled), num_queries)


def measure_peers(report: Report, tokenizer: Path, root: Path, pylate: Path | None) -> None:
    """A step of each peer on the same weights and texts, and ours, compiled, of the same size."""
    write_export(build(tokenizer).float(), root / "model", card="")
    write_texts(root / "texts.json", make_texts(PEER_QUERIES, 8))
    report.add("peers, ours", partial(measure, tokenizer, "auto", True, PEER_QUERIES))
    for side, folder in (("multi-vector", None), ("pylate", pylate)):
        report.add(f"peers, {side}", partial(measure_peer, side, root, folder))


def measure_peer(side: str, root: Path, folder: Path | None) -> Any:
    command = [sys.executable, ROOT / "tools" / "benchmarks" / "gpu_peer.py", side, root / "model", root / "texts.json"]
    paths = [str(folder)] if folder else []
    path = os.pathsep.join([*paths, *os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT)])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return "out of memory" if "OutOfMemoryError" in done.stderr else f"failed: {done.stderr[-300:]}"


def run_tests() -> Figures:
    # Small models: eight processes share the card.
    options = ["-o", "addopts=-q", "-n", "8", "-p", "no:benchmark", "-p", "no:cacheprovider", "-rs"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{name}" for name in TESTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:])
    return {"status": done.returncode, "summary": done.stdout.splitlines()[-1] if done.stdout else ""}


def versions() -> Figures:
    found: Figures = {}
    for name in ("torch", "triton", "transformers", "lightning", "flash-attn", "sentence-transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def table(figures: Figures) -> str:
    lines = ["step of 128 x (1 + 7)             ms   tokens/s  MFU of 790  peak GB  scoring  compiled after warm-up"]
    steps = {name.removeprefix("step, "): found for name, found in figures.items() if name.startswith("step, ")}
    for name, found in steps.items():
        if isinstance(found, str):
            lines.append(f"{name:28} {found}")
            continue
        speed = f"{1e3 * found['step_seconds']:8.1f} {found['tokens_per_second']:10.0f} {found['mfu_of_790']:8.3f}"
        rest = f"{found['peak_gb']:8.1f} {found['scoring_share']:8.3f} {found['compiled_after_warm_up']:6}"
        lines.append(f"{name:28} {speed} {rest}")
    rest = ("tests", "largest_batch", "validation", "peers, ")
    return "\n".join(lines + [f"{name}: {found}" for name, found in figures.items() if name.startswith(rest)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--pylate", type=Path)
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: the GPU tests and all benchmarks are skipped, nothing is measured or written")
        return
    device, date = torch.cuda.get_device_name(), datetime.datetime.now().astimezone().date()
    file = arguments.output / f"{re.sub('[^a-z0-9]+', '-', device.lower())}-{date}.json"
    report = Report(file, {"device": device, "command": " ".join(sys.argv), "versions": versions()})
    if not arguments.skip_tests:
        report.add("tests", run_tests)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tokenizer = root / "tokenizer"
        write_tokenizer(tokenizer)
        for kernel in kernels():
            report.add(f"step, {kernel}, compiled", partial(measure, tokenizer, kernel, True))
        report.add("validation", partial(validation, tokenizer, "auto"))
        if arguments.peers:
            measure_peers(report, tokenizer, root, arguments.pylate)
        for kernel in kernels():
            report.add(f"step, {kernel}", partial(measure, tokenizer, kernel, False))
        report.add("largest_batch", lambda: largest_batch(tokenizer))
    print(table(report.figures), f"\nwrote {file}")


if __name__ == "__main__":
    main()
