#!/usr/bin/env python3
"""Everything that needs a GPU, in one go: the GPU tests, then the benchmarks at the size of gte-modernbert-base.

    python tools/gpu_check.py [--peers] [--skip-tests] [--output benchmarks]

Random weights (tools/benchmarks/gte-modernbert-base.json), bf16 autocast, lengths of the Promptriever mix. Measured: a
step of 128 x (1 + 7) with every attention choice, plain and compiled; its share of the card's bf16 peak, counted on
real tokens; what MaxSim and the loss take of it; compilations after the warm-up; the largest batch of 16 passages a
query that fits when it is encoded in chunks; a validation of FollowIR's size; with --peers a step of
sentence-transformers 6 and PyLate, where they are installed. Writes OUTPUT/<gpu>-<date>.json and prints a table.
Without a GPU it says what it left out and ends with status 0.
"""

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.step import SIDES
from benchmarks.texts import VOCABULARY, make_texts, write_texts, write_tokenizer

from ifir_lightning.export import write_export
from ifir_lightning.flops import matrix_weights, peak_flops, training_flops
from ifir_lightning.losses import InfoNCE, pair_kinds
from ifir_lightning.models.attention import Attention
from ifir_lightning.models.backbone import BackboneSettings
from ifir_lightning.models.pooling import TokenProjection
from ifir_lightning.models.scoring import MaxSim
from ifir_lightning.records import Embeddings, Passage, Tokens
from ifir_lightning.reranking import Reranker
from ifir_lightning.retriever import Retriever, build_retriever
from ifir_lightning.text_format import TextSettings

ROOT = Path(__file__).parents[1]
CONFIG = json.loads((ROOT / "tools" / "benchmarks" / "gte-modernbert-base.json").read_text(encoding="utf-8"))
MEASURED_PEAK = 790e12
"""bf16 FLOP/s of a large matrix product on an H200 or H100, as measured."""
STEPS, WARM_UP = 5, 3
CHUNK_TOKENS = 65536
TESTS = ["test_gpu.py", "test_attention.py", "test_triton_maxsim.py", "test_backbone.py", "test_chunks.py"]

Figures = dict[str, Any]


class Batch:
    """Tokenised queries and passages on the GPU, and what the loss asks for."""

    def __init__(self, model: Retriever, num_queries: int, group_size: int, seed: int) -> None:
        texts = make_texts(num_queries, group_size, seed)
        passages = [Passage("", "", text) for group in texts["passages"] for text in group]
        parts = [model.tokenizer.queries((text, "") for text in texts["queries"]), model.tokenizer.passages(passages)]
        self.sizes = (num_queries, len(passages))
        self.tokens = Tokens.concat(parts).to("cuda")
        kinds_P = torch.tensor([0] + [2] * (group_size - 1)).repeat(num_queries)
        targets_Q = torch.arange(num_queries) * group_size
        kinds_QP = pair_kinds(kinds_P, torch.arange(len(passages)), targets_Q, group_size)
        self.targets_Q, self.kinds_QP = targets_Q.cuda(), kinds_QP.cuda()


def build(tokenizer: Path, attention: Attention = "auto", **settings: Any) -> Retriever:
    """A late-interaction model in training mode on the GPU."""
    backbone = BackboneSettings(config=CONFIG, tokenizer=str(tokenizer), attention=attention, **settings)
    text = TextSettings(max_query_length=304, max_passage_length=300)
    model = build_retriever(None, backbone, TokenProjection(dim=128), MaxSim("mean"), text).cuda().train()
    model.prepare(torch.device("cuda"), torch.bfloat16)
    return model


def autocast() -> torch.autocast:
    return torch.autocast("cuda", torch.bfloat16)


def step(model: Retriever, loss: InfoNCE, batch: Batch) -> None:
    with autocast():
        queries, passages = model(batch.tokens).split(*batch.sizes)
        value = loss(model.scorer(queries, passages), batch.targets_Q, batch.kinds_QP)
    value.backward()


def seconds(run: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure_steps(model: Retriever, num_queries: int = 128, group_size: int = 8) -> Figures:
    """Batches of other lengths at every step; medians."""
    loss, optimizer = InfoNCE(0.02).cuda(), torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def whole(batch: Batch) -> None:
        step(model, loss, batch)
        optimizer.step()
        optimizer.zero_grad()

    batches = [Batch(model, num_queries, group_size, seed) for seed in range(WARM_UP + STEPS)]
    for batch in batches[:WARM_UP]:
        whole(batch)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.cuda.reset_peak_memory_stats()
    times = [seconds(lambda batch=batch: whole(batch)) for batch in batches[WARM_UP:]]
    lengths = [batch.tokens.lengths_B for batch in batches[WARM_UP:]]
    config, weights = model.backbone.model.config, matrix_weights(model.backbone.model)
    rates = [training_flops(config, weights, each) / time for each, time in zip(lengths, times, strict=True)]
    peak = peak_flops(torch.cuda.get_device_name())
    return {
        "kernel": model.backbone.kernel,
        "step_seconds": statistics.median(times),
        "tokens_per_second": sum(int(each.sum()) for each in lengths) / sum(times),
        "texts_per_second": num_queries * (1 + group_size) / statistics.median(times),
        "mfu_of_790": statistics.median(rates) / MEASURED_PEAK,
        "mfu": statistics.median(rates) / peak if peak else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "compiled_after_warm_up": torch._dynamo.utils.counters["stats"]["unique_graphs"] - compiled,
        "scoring_share": scoring_seconds(model, loss, batches[-1]) / statistics.median(times),
    }


def scoring_seconds(model: Retriever, loss: InfoNCE, batch: Batch) -> float:
    """Of MaxSim and the loss, forward and backward."""
    with torch.no_grad(), autocast():
        found = model(batch.tokens)
    values_ND = found.values_ND.detach().requires_grad_()

    def score() -> None:
        queries, passages = Embeddings(found.lengths_B, values_ND).split(*batch.sizes)
        loss(model.scorer(queries, passages), batch.targets_Q, batch.kinds_QP).backward()

    return statistics.median(seconds(score) for _ in range(WARM_UP + STEPS))


def choices() -> Iterator[tuple[Attention, bool]]:
    """Attention kernels that can run here, plain and compiled; sdpa, one text at a time, is left to the tests."""
    kernels: list[Attention] = ["varlen", *(["flash_attention_2"] if find_spec("flash_attn") else [])]  # type: ignore[list-item]
    yield from ((kernel, compiled) for kernel in kernels for compiled in (False, True))


def largest_batch(tokenizer: Path, limit_seconds: float = 60) -> Figures:
    """Queries with 16 passages each, doubled until memory or patience ends."""
    model, loss = build(tokenizer, max_tokens_per_chunk=CHUNK_TOKENS), InfoNCE(0.02).cuda()
    fitted: Figures = {"queries": 0, "group_size": 16, "chunk_tokens": CHUNK_TOKENS}
    num_queries, taken = 256, 0.0
    while taken < limit_seconds / 4:
        try:
            batch = Batch(model, num_queries, 16, seed=num_queries)
            torch.cuda.reset_peak_memory_stats()
            taken = seconds(lambda batch=batch: step(model, loss, batch))
        except torch.OutOfMemoryError:
            fitted["stopped_by"] = f"memory, at {num_queries} queries"
            break
        fitted |= {"queries": num_queries, "seconds": taken, "peak_gb": torch.cuda.max_memory_allocated() / 1e9}
        fitted["stopped_by"] = "time"
        num_queries *= 2
    return fitted


def validation(tokenizer: Path, num_passages: int = 98_312, num_queries: int = 208) -> Figures:
    """Each passage encoded once; two variants of a query share their candidates."""
    model = build(tokenizer).eval()
    draw = np.random.default_rng(0)
    names = np.array([f"w{number}" for number in range(5, VOCABULARY)])
    lengths = np.clip(draw.lognormal(np.log(520), 0.35, num_passages), 20, 1500).astype(int)
    passages = {f"d{n}": Passage(f"d{n}", "", " ".join(draw.choice(names, size))) for n, size in enumerate(lengths)}
    queries = {
        f"q{n}": (" ".join(draw.choice(names, 20)), " ".join(draw.choice(names, 80))) for n in range(num_queries)
    }
    ids, pairs = list(passages), num_queries // 2
    candidates = {
        f"q{n}": ids[(n // 2) * num_passages // pairs : (n // 2 + 1) * num_passages // pairs]
        for n in range(num_queries)
    }
    rerank = Reranker(model, 65536)
    with autocast():
        rerank(queries, passages, {name: found[:8] for name, found in candidates.items()})
        taken = seconds(lambda: rerank(queries, passages, candidates))
    return {"passages": num_passages, "queries": num_queries, "seconds": taken, "limit": 300}


def peer_steps(tokenizer: Path, root: Path) -> Figures:
    """A step of each peer that is installed, on the same weights and texts, 128 x 8, bf16 autocast."""
    model, texts = build(tokenizer), make_texts(128, 8)
    write_export(model.float(), root / "model", card="")
    write_texts(root / "texts.json", texts)
    del model
    found: Figures = {}
    for side, library in (("multi-vector", "sentence_transformers"), ("pylate", "pylate")):
        if find_spec(library) is None:
            found[side] = f"{library} is not installed"
            continue
        torch.cuda.empty_cache()
        module, run = SIDES[side](str(root / "model"), texts, device="cuda")
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6, fused=True)

        def whole(run: Callable = run, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with autocast():
                value = run()
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        torch.cuda.reset_peak_memory_stats()
        try:
            times = [seconds(whole) for _ in range(WARM_UP + STEPS)][WARM_UP:]
            found[side] = {"step_seconds": statistics.median(times), "peak_gb": torch.cuda.max_memory_allocated() / 1e9}
        except torch.OutOfMemoryError:
            found[side] = "out of memory"
    return found


def run_tests() -> Figures:
    options = ["-o", "addopts=-q", "-p", "no:cacheprovider"]  # one process has the GPU
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{name}" for name in TESTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:], done.stderr[-2000:])
    return {"status": done.returncode, "summary": done.stdout.splitlines()[-1] if done.stdout else ""}


def versions() -> Figures:
    found: Figures = {}
    for name in ("torch", "triton", "transformers", "lightning", "flash-attn", "sentence-transformers", "pylate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def table(figures: Figures) -> str:
    lines = ["step of 128 x (1 + 7)             ms   tokens/s  MFU of 790  peak GB  scoring  compiled after warm-up"]
    for name, found in figures["steps"].items():
        speed = f"{1e3 * found['step_seconds']:8.1f} {found['tokens_per_second']:10.0f} {found['mfu_of_790']:8.3f}"
        rest = f"{found['peak_gb']:8.1f} {found['scoring_share']:8.3f} {found['compiled_after_warm_up']:6}"
        lines.append(f"{name:28} {speed} {rest}")
    rest = {name: figures.get(name) for name in ("tests", "largest_batch", "validation", "peers")}
    return "\n".join(lines + [f"{name}: {found}" for name, found in rest.items() if found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: the GPU tests and all benchmarks are skipped, nothing is measured or written")
        return
    device = torch.cuda.get_device_name()
    figures: Figures = {"device": device, "command": " ".join(sys.argv), "versions": versions(), "steps": {}}
    if not arguments.skip_tests:
        figures["tests"] = run_tests()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tokenizer(root / "tokenizer")
        for kernel, compiled in choices():
            name = f"{kernel}{', compiled' if compiled else ''}"
            figures["steps"][name] = measure_steps(build(root / "tokenizer", kernel, compile=compiled))
            torch.cuda.empty_cache()
            print(name, figures["steps"][name], flush=True)
        for name, run in (("validation", validation), ("largest_batch", largest_batch)):
            figures[name] = run(root / "tokenizer")
            torch.cuda.empty_cache()
            print(name, figures[name], flush=True)
        if arguments.peers:
            figures["peers"] = peer_steps(root / "tokenizer", root)
    date = datetime.datetime.now().astimezone().date()
    file = arguments.output / f"{re.sub('[^a-z0-9]+', '-', device.lower())}-{date}.json"
    file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    print(table(figures), f"\nwrote {file}")


if __name__ == "__main__":
    main()
