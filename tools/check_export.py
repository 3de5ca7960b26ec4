#!/usr/bin/env python3
"""One trained model, 50 queries x 200 passages: our scores against those of its export in every peer.

    python tools/check_export.py --run runs/quickstart --peers PEERS/bin/python --peers-6 PEERS6/bin/python

The environments are those of tools/record_parity.py. Texts come from the quickstart's instruction world, or from a
FollowIR-layout folders given as --task. What peers do not take over is printed; late interaction is compared as they
score it, with the sum of MaxSim and no token weights. Status 1 where a difference exceeds 1e-4 of the largest score.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from record_parity import ENVIRONMENT, run, score

from ifir_lightning import load_retriever
from ifir_lightning.data.evalset import load_task
from ifir_lightning.export import caveats, export_format
from ifir_lightning.models.scoring import MaxSim
from ifir_lightning.records import Embeddings

TOLERANCE = 1e-4
"""Of the largest score: what float32 and another order of sums account for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run folder, .ckpt, or any model.checkpoint")
    parser.add_argument("--peers", required=True, help="interpreter with PyLate 1.6 and sentence-transformers 5.3")
    parser.add_argument("--peers-6", required=True, help="interpreter with sentence-transformers 6")
    parser.add_argument("--task", nargs="+", default=["synthetic/food", "synthetic/travel"])
    arguments = parser.parse_args()
    tasks = [load_task(task) for task in arguments.task]
    queries = [[text, task.instructions[id_]] for task in tasks for id_, text in task.queries.items()]
    passages = [f"{each.title} {each.text}".strip() for task in tasks for each in task.passages.values()]
    texts = {"queries": queries[:50], "passages": passages[:: max(1, len(passages) // 200)][:200]}
    retriever = load_retriever(arguments.run)
    late = export_format(retriever) == "pylate"
    readers = {"PyLate 1.6": ("pylate", arguments.peers)} if late else {}
    name = "multi-vector" if late else "sentence-transformers"
    readers |= {} if late else {"sentence-transformers 5.3": (name, arguments.peers)}
    readers["sentence-transformers 6"] = (name, arguments.peers_6)
    with tempfile.TemporaryDirectory() as temporary:
        exported, file = Path(temporary) / "export", Path(temporary) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        ENVIRONMENT["TEXTS"] = str(file)
        run(sys.executable, "-m", "ifir_lightning", "export", f"--checkpoint={arguments.run}", f"--output={exported}")
        source = Path(os.path.abspath(arguments.run))
        own = score(sys.executable, "ours", [source], Path(temporary) / "ours")[source.name]
        expected = maxsim_scores(own) if late else own["scores"]
        print(
            f"{arguments.run}: {expected.shape[0]} queries x {expected.shape[1]} passages, "
            f"scores {expected.min():.3f} to {expected.max():.3f}"
        )
        for caveat in caveats(retriever):
            print(f"  {caveat}")
        differences = {}
        for reader, (library, python) in readers.items():
            theirs = score(python, library, [exported], Path(temporary) / reader)[exported.name]
            differences[reader] = np.abs(expected - theirs["scores"]).max()
            print(f"  {reader}: largest difference {differences[reader]:.2e}")
    sys.exit(not all(each <= TOLERANCE * np.abs(expected).max() for each in differences.values()))  # nan is none


def maxsim_scores(own: dict[str, np.ndarray]) -> np.ndarray:
    """scores_QP as peers compute them, whatever the run's scorer: the sum over query tokens, without weights."""
    queries, passages = (
        Embeddings(torch.from_numpy(own[rows]).long(), torch.from_numpy(own[values]))
        for rows, values in (("query_rows", "queries"), ("passage_rows", "passages"))
    )
    return MaxSim()(queries, passages).numpy()


if __name__ == "__main__":
    main()
