"""A peer's training step on a GPU, in a process of its own: gpu_peer.py SIDE MODEL TEXTS

SIDE is pylate or multi-vector; bf16 autocast, fused AdamW. Prints one line of JSON: seconds of the median step, peak
memory, first loss, versions.
"""

import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from step import GPU_STEPS, GPU_WARM_UP, SIDES


def main(side: str, model: str, texts: str) -> None:
    torch.manual_seed(0)
    module, run = SIDES[side](model, json.loads(Path(texts).read_text(encoding="utf-8")), device="cuda")
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6, fused=True)
    times, losses = [], []
    for number in range(GPU_WARM_UP + GPU_STEPS):
        if number == GPU_WARM_UP:
            torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = run()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        losses.append(loss.item())
    names = ("torch", "transformers", "sentence-transformers", *(["pylate"] if side == "pylate" else []))
    record = {
        "step_seconds": statistics.median(times[GPU_WARM_UP:]),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "first_loss": losses[0],
        "versions": {name: version(name) for name in names},
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
