#!/usr/bin/env python3
"""A training step of ours against PyLate 1.6 and sentence-transformers 6: same weights, texts, batch, loss, threads.

    python tools/bench_training.py --peer-python PEERS/bin/python --peer-6-python PEERS6/bin/python [--json]
    python tools/bench_training.py --growth [--json]

PEERS and PEERS6 are environments of tools/parity/requirements.txt and requirements-6.txt. Each side runs in processes
of its own, in turn, --rounds times; the figures are medians. ModernBERT of 256 x 6 layers with random weights, 16
queries x 8 passages, lengths of the Promptriever mix, float32, 2 threads, no tokenising in the step. A speed above 1
and a memory below 1 mean that we are better. --growth measures ours alone at 1, 4 and 16 times the batch, kept and in
recomputed chunks of 4,096 tokens. CPU only: on a GPU, tools/gpu_check.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.texts import make_texts, write_texts, write_tokenizer

from ifir_lightning.export import write_export
from ifir_lightning.models.backbone import BackboneSettings
from ifir_lightning.models.pooling import MeanPooling, TokenProjection
from ifir_lightning.models.scoring import Cosine, MaxSim
from ifir_lightning.retriever import build_retriever
from ifir_lightning.text_format import TextSettings

HERE = Path(__file__).parent
CONFIG = {
    "model_type": "modernbert",
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": 1024,
}
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parent)}


def write_model(folder: Path, tokenizer: Path, limits: tuple[int, int], late: bool) -> Path:
    """Random weights of seed 0 in the layout that every side reads."""
    text = TextSettings(max_query_length=limits[0], max_passage_length=limits[1])
    parts = (TokenProjection(dim=128), MaxSim("sum")) if late else (MeanPooling(), Cosine())
    settings = BackboneSettings(config=CONFIG, tokenizer=str(tokenizer))
    write_export(build_retriever(None, settings, *parts, text), folder, card="")
    return folder


def measure(python: str, side: str, model: Path, texts: Path, numbers: list[int]) -> dict[str, Any]:
    command = [python, str(HERE / "benchmarks" / "step.py"), side, str(model), str(texts), *map(str, numbers)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(
    sides: dict[str, str], model: Path, texts: Path, rounds: int, steps: int, limits: tuple[int, int]
) -> dict[str, dict[str, Any]]:
    """Medians over rounds, the sides in turn."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, python in sides.items():
            runs[side].append(measure(python, side, model, texts, [steps, *limits]))
            print(".", end="", file=sys.stderr, flush=True)
    return {
        side: {
            "cpu_seconds": statistics.median(second for run in done for second in run["cpu_seconds"]),
            "wall_seconds": statistics.median(second for run in done for second in run["wall_seconds"]),
            "peak_bytes": statistics.median(run["peak_bytes"] for run in done),
            "tokens": done[0]["tokens"],
            "first_loss": done[0]["first_loss"],
            "versions": done[0]["versions"],
        }
        for side, done in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="of an environment of tools/parity/requirements.txt")
    parser.add_argument("--peer-6-python", help="of an environment of tools/parity/requirements-6.txt")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="measured steps of each process, after one to warm up")
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: there must be 1 or more")
    if not arguments.growth and not (arguments.peer_python and arguments.peer_6_python):
        parser.error("give --peer-python and --peer-6-python, or --growth for ours alone")
    python, peer, peer_6 = sys.executable, arguments.peer_python, arguments.peer_6_python
    figures: dict[str, Any] = {"command": " ".join(sys.argv), "threads": 2, "batch": f"{arguments.queries} x 8"}
    figures |= {"precision": "float32", "allocator": "the C library's", "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tokenizer(root / "tokenizer")
        if arguments.growth:
            figures["growth"] = growth(root, arguments.queries, arguments.rounds)
            print(json.dumps(figures, indent=1) if arguments.json else growth_table(figures["growth"]))
            return
        write_texts(root / "texts.json", make_texts(arguments.queries, 8))
        late = {"ours": python, "pylate": peer, "multi-vector": peer_6}
        for limits, sides in (
            ((304, 300), late),
            ((192, 180), {name: late[name] for name in ("ours", "pylate")}),
            ((300, 300), {"ours-dense": python, "dense": peer_6}),
        ):
            name = "bi_encoder" if "dense" in sides else f"{limits[0]}_{limits[1]}"
            model = write_model(root / name, root / "tokenizer", limits, late="dense" not in sides)
            figures[name] = compare(sides, model, root / "texts.json", arguments.rounds, arguments.steps, limits)
    figures |= ratios(figures)
    print(json.dumps(figures, indent=1) if arguments.json else table(figures, arguments.queries * 9))


def growth(root: Path, num_queries: int, rounds: int) -> list[dict[str, Any]]:
    """Our step at 1, 4 and 16 times the batch; at 16 times only in chunks."""
    limits, found = (304, 300), []
    model = write_model(root / "model", root / "tokenizer", limits, late=True)
    for times in (1, 4, 16):
        write_texts(root / "texts.json", make_texts(times * num_queries, 8))
        sides = dict.fromkeys(["ours-chunked"] if times == 16 else ["ours", "ours-chunked"], sys.executable)
        for side, figures in compare(sides, model, root / "texts.json", rounds, 1, limits).items():
            found.append({"side": side, "batch": f"{times * num_queries} x 8"} | figures)
    return found


def growth_table(found: list[dict[str, Any]]) -> str:
    lines = ["batch      side           tokens  CPU s/step  CPU ms/token  peak GB"]
    for row in found:
        rate = 1e3 * row["cpu_seconds"] / row["tokens"]
        name = f"{row['batch']:10} {row['side']:13} {row['tokens']:7}"
        lines.append(f"{name} {row['cpu_seconds']:10.2f} {rate:13.3f} {row['peak_bytes'] / 1e9:9.2f}")
    return "\n".join(lines)


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    def speed(name: str, we: str, they: str) -> float:
        return figures[name][they]["cpu_seconds"] / figures[name][we]["cpu_seconds"]

    def memory(name: str, we: str, they: str) -> float:
        return figures[name][we]["peak_bytes"] / figures[name][they]["peak_bytes"]

    return {
        "speed_vs_pylate_304_300": speed("304_300", "ours", "pylate"),
        "memory_vs_pylate_304_300": memory("304_300", "ours", "pylate"),
        "speed_vs_sentence_transformers_304_300": speed("304_300", "ours", "multi-vector"),
        "memory_vs_sentence_transformers_304_300": memory("304_300", "ours", "multi-vector"),
        "speed_vs_pylate_192_180": speed("192_180", "ours", "pylate"),
        "bi_encoder_speed_vs_sentence_transformers": speed("bi_encoder", "ours-dense", "dense"),
    }


def table(figures: dict[str, Any], num_texts: int) -> str:
    lines = ["limits      side          CPU s/step  texts/CPU s  peak GB  first loss"]
    for name in ("304_300", "192_180", "bi_encoder"):
        for side, found in figures[name].items():
            seconds, loss = found["cpu_seconds"], found["first_loss"]
            speed, memory = num_texts / seconds, found["peak_bytes"] / 1e9
            lines.append(f"{name:11} {side:13} {seconds:10.2f} {speed:12.1f} {memory:8.2f} {loss:11.5f}")
    return "\n".join(lines + [f"{key}: {value:.2f}" for key, value in ratios(figures).items()])


if __name__ == "__main__":
    main()
