#!/usr/bin/env python3
"""MaxSim forward and backward: the whole similarity tensor, passage by passage, and on a GPU fused.

    python tools/bench_maxsim.py [--rounds 3] [--json]

Sizes are queries x passages of 32 and 180 tokens, dim 128, float32, 2 threads; each figure comes from a process of its
own, the ways in turn. Memory is the peak above what was there before the first step: the embeddings are inputs and not
counted, their gradients are, and ``of_inputs_and_gradients`` says how many times the inputs and gradients together the
whole (inputs, gradients and everything beside them) is. naive is left out where its similarities exceed 8 GB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIZES = [(16, 128), (32, 512), (64, 1024)]
QUERY_TOKENS, PASSAGE_TOKENS, DIM = 32, 180, 128
WAYS = ["naive", "torch", "fused"] if torch.cuda.is_available() else ["naive", "torch"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def naive(queries_ND: Tensor, passages_ND: Tensor, num_passages: int) -> Tensor:
    similarity_NPL = (queries_ND @ passages_ND.T).unflatten(1, (num_passages, PASSAGE_TOKENS))
    return similarity_NPL.amax(dim=-1)


def ways(name: str, num_passages: int) -> Callable[[Tensor, Tensor], Tensor]:
    from ifir_lightning.models.maxsim import best_similarity
    from ifir_lightning.records import Embeddings

    lengths_P = torch.full((num_passages,), PASSAGE_TOKENS)
    if name == "naive":
        return lambda queries, passages: naive(queries, passages, num_passages)
    if name == "torch":
        return lambda queries, passages: best_similarity(queries, Embeddings(lengths_P, passages))
    from ifir_lightning.models.triton_maxsim import fused_best_similarity

    return lambda queries, passages: fused_best_similarity(queries, Embeddings(lengths_P, passages))


def resident() -> tuple[int, int]:
    """Bytes in memory now, and the most since the last reset (of the GPU, or of the process)."""
    if DEVICE == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return found["VmRSS"], found["VmHWM"]


def measure(way: str, num_queries: int, num_passages: int) -> dict[str, float]:
    """Seconds and bytes of one forward and backward pass, after a tiny one that loads what there is to load."""
    torch.set_num_threads(2)
    for queries, passages in ((1, 2), (num_queries, num_passages)):
        best = ways(way, passages)
        rows = torch.randn(queries * QUERY_TOKENS + passages * PASSAGE_TOKENS, DIM, device=DEVICE)
        inputs = [
            part.clone().requires_grad_()
            for part in rows.split([queries * QUERY_TOKENS, len(rows) - queries * QUERY_TOKENS])
        ]
        del rows
        before, _ = resident()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
        _synchronise()
        begin = time.perf_counter()
        scores_QP = best(*inputs).unflatten(0, (queries, QUERY_TOKENS)).sum(1)
        _synchronise()
        middle = time.perf_counter()
        scores_QP.square().mean().backward()
        _synchronise()
        end = time.perf_counter()
    held = sum(each.numel() * each.element_size() for each in inputs)
    extra = resident()[1] - before
    return {
        "forward_seconds": middle - begin,
        "backward_seconds": end - middle,
        "extra_bytes": extra,
        "of_inputs_and_gradients": (held + extra) / (2 * held),
    }


def _synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def fits(way: str, num_queries: int, num_passages: int) -> bool:
    return way != "naive" or 4 * num_queries * QUERY_TOKENS * num_passages * PASSAGE_TOKENS < 8e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: there must be 1 or more")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], *map(int, arguments.measure[1:]))))
        return
    cases = [(way, *size) for size in SIZES for way in WAYS if fits(way, *size)]
    runs: dict[tuple, list[dict[str, float]]] = {case: [] for case in cases}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for _ in range(arguments.rounds):
        for case in cases:
            command = [sys.executable, __file__, "--measure", *map(str, case)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            runs[case].append(json.loads(done.stdout))
    figures: list[dict[str, Any]] = [
        {"way": way, "queries": queries, "passages": passages, "device": DEVICE}
        | {name: statistics.median(run[name] for run in runs[way, queries, passages]) for name in runs[cases[0]][0]}
        for way, queries, passages in cases
    ]
    print(json.dumps(figures, indent=1) if arguments.json else table(figures))


def table(figures: list[dict[str, Any]]) -> str:
    lines = ["queries x passages  way    forward s  backward s  extra MB  of inputs and gradients"]
    for found in figures:
        size = f"{found['queries']} x {found['passages']}"
        seconds = f"{found['forward_seconds']:9.3f} {found['backward_seconds']:11.3f}"
        memory = f"{found['extra_bytes'] / 1e6:9.0f} {found['of_inputs_and_gradients']:8.2f}"
        lines.append(f"{size:19} {found['way']:6} {seconds} {memory}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
