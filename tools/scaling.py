"""python tools/scaling.py [--processes 1 2 4 8 16]

What a rank sends in a training step: counted in W gloo processes of this machine that gather queries, score and
exchange, forward and backward, without a transformer; beside the formula that ``docs/scaling.md`` explains, which is
then asked about 8 to 512 GPUs. The times are of processes that share the cores of this machine.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from ifir_lightning import distributed
from ifir_lightning.records import Embeddings

QUERIES, GROUP, QUERY_TOKENS, DIM = 128, 8, 74, 128
ROUNDS = 5


def formula(ranks: int, queries: int = QUERIES, tokens: int = QUERY_TOKENS, dim: int = DIM) -> dict[str, float]:
    """Bytes that a rank sends per step, of float32 embeddings."""
    own, others = queries / ranks, ranks - 1
    return {
        "queries and their gradients": 2 * others * own * tokens * dim * 4,
        "scores and their gradients": 2 * others * own * own * GROUP * 4,
        "lengths, ids, kinds": others * (own * 8 + own * GROUP * (8 + 1)),
    }


def exchange(num_queries: int, num_passages: int) -> None:
    """A rank's share of a step; the scores are those of means, since what travels does not depend on the scorer."""
    lengths_B = torch.full((num_queries,), QUERY_TOKENS)
    queries = Embeddings(lengths_B, torch.randn(num_queries * QUERY_TOKENS, DIM).requires_grad_())
    passages_PD = torch.randn(num_passages, DIM).requires_grad_()
    everything = distributed.gather_embeddings(queries)
    distributed.gather_rows(torch.zeros(num_passages, dtype=torch.int64))
    distributed.gather_rows(torch.zeros(num_passages, dtype=torch.int8))
    scores_QP = everything.values_ND.unflatten(0, (-1, QUERY_TOKENS)).mean(1) @ passages_PD.T
    distributed.exchange_scores(scores_QP).sum().backward()


def run(rank: int, ranks: int, folder: str) -> None:
    """One rank; rank 0 writes bytes and seconds of a step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    sent, seconds = [], []
    for _ in range(1 + ROUNDS):
        dist.barrier()
        before, began = distributed.bytes_sent(), time.perf_counter()
        exchange(QUERIES // ranks, QUERIES // ranks * GROUP)
        sent.append(distributed.bytes_sent() - before)
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        Path(folder, "found").write_text(f"{sent[-1]} {statistics.median(seconds[1:])}")
    dist.destroy_process_group()


def measure(ranks: int) -> tuple[int, float]:
    """Bytes that a rank sent in a step, and the median of its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(run, (ranks, folder), nprocs=ranks, start_method="fork")
        sent, seconds = Path(folder, "found").read_text().split()
    return int(sent), float(seconds)


def print_measured(processes: list[int]) -> None:
    print(f"{QUERIES} queries x {GROUP} passages, {QUERY_TOKENS} tokens a query, {DIM} dimensions, float32")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, gloo\n")
    print("| processes | queries, MB | scores, MB | the rest, MB | formula, bytes | counted, bytes | s a step |")
    print("|---|---|---|---|---|---|---|")
    for ranks in processes:
        parts, (sent, seconds) = formula(ranks), measure(ranks)
        shown = " | ".join(f"{part / 1e6:.3f}" for part in parts.values())
        print(f"| {ranks} | {shown} | {sum(parts.values()):.0f} | {sent} | {seconds:.3f} |", flush=True)


def print_predicted(parameters: float, own: int) -> None:
    """The model for GPUs: ``own`` queries each, and an encoder of so many parameters."""
    print(f"\n{own} queries a GPU, {parameters / 1e6:.0f} million parameters, gradients in float32\n")
    print("| GPUs | queries | exchange, MB | gradients, MB | s at 50 GB/s | s at 3 GB/s | scoring / encoding |")
    print("|---|---|---|---|---|---|---|")
    for ranks in (8, 16, 32, 64, 128, 256, 512):
        exchanged, gradients = sum(formula(ranks, own * ranks).values()), 2 * (ranks - 1) / ranks * parameters * 4
        times = " | ".join(f"{(exchanged + gradients) / speed:.3f}" for speed in (50e9, 3e9))
        share = own * ranks * QUERY_TOKENS * DIM / parameters
        print(f"| {ranks} | {own * ranks} | {exchanged / 1e6:.1f} | {gradients / 1e6:.0f} | {times} | {share:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--parameters", type=float, default=149e6, help="of the encoder, for the model")
    parser.add_argument("--own", type=int, default=16, help="queries a GPU, for the model")
    arguments = parser.parse_args()
    if unfit := [ranks for ranks in arguments.processes if not 1 <= ranks <= QUERIES]:
        parser.error(f"--processes {unfit[0]}: there must be 1 to {QUERIES}, since each has one query or more")
    print_measured(arguments.processes)
    print_predicted(arguments.parameters, arguments.own)


if __name__ == "__main__":
    main()
