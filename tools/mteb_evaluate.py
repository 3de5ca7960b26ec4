#!/usr/bin/env python3
"""FollowIR-layout tasks evaluated by mteb 2.26: a run folder of ours, or an exported model through mteb's wrappers.

    python tools/mteb_evaluate.py --model runs/quickstart --task TASK_FOLDER [TASK_FOLDER ...]
    python tools/mteb_evaluate.py --model runs/quickstart/export --through pylate --task TASK_FOLDER

``ours`` (the default) takes whatever ``model.checkpoint`` takes and needs this package beside mteb. ``pylate`` and
``sentence-transformers`` take an exported folder and need PyLate or sentence-transformers instead, in an environment
of their own (tools/parity/requirements.txt and mteb==2.26.24). Prints p-MRR and, on scales B and C, MAP@1000 and
nDCG@5, all x100 (mteb has no scale A).
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class IFIRRetriever:
    """mteb's SearchProtocol over a retriever of ours: each query's own candidates, encoded once and scored."""

    def __init__(self, checkpoint: str, device: str) -> None:
        from mteb.models import ModelMeta

        from ifir_lightning import load_retriever
        from ifir_lightning.records import Passage
        from ifir_lightning.reranking import Reranker

        self.mteb_model_meta = ModelMeta.create_empty({"name": "ifir_lightning/retriever", "revision": "local"})
        self.rerank, self.passage = Reranker(load_retriever(checkpoint, device=device)), Passage

    def index(self, corpus: Any, **_: Any) -> None:
        self.passages = {row["id"]: self.passage(row["id"], row.get("title") or "", row["text"]) for row in corpus}

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **_: Any) -> dict[str, dict[str, float]]:
        texts = {row["id"]: (row["text"], row.get("instruction") or "") for row in queries}
        run, _cut = self.rerank(texts, self.passages, top_ranked or dict.fromkeys(texts, tuple(self.passages)))
        ordered = {id_: sorted(scores.items(), key=lambda item: -item[1])[:top_k] for id_, scores in run.items()}
        return {id_: dict(scores) for id_, scores in ordered.items()}


def load(model: str, through: str, device: str) -> Any:
    """The model behind one of mteb's interfaces."""
    if through == "pylate":
        from mteb.models import ModelMeta
        from mteb.models.model_implementations.pylate_models import MultiVectorModel

        wrapped = MultiVectorModel(model, device=device)
        wrapped.mteb_model_meta = ModelMeta.create_empty({"name": "local/pylate", "revision": "local"})
        return wrapped
    if through == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model, device=device)
    return IFIRRetriever(model, device)


def local_task(folder: Path) -> Any:
    """A task folder under mteb's Core17 class, whose scores are those of every FollowIR task."""
    from mteb.tasks import Core17InstructionRetrieval

    changed = {"name": f"{folder.name}InstructionRetrieval", "dataset": {"path": str(folder), "revision": "main"}}

    class LocalTask(Core17InstructionRetrieval):
        metadata = Core17InstructionRetrieval.metadata.model_copy(update=changed)

    return LocalTask()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--through", choices=["ours", "pylate", "sentence-transformers"], default="ours")
    parser.add_argument("--task", type=Path, nargs="+", required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if find_spec("mteb") is None:
        parser.error("mteb is not installed here; allowed is an environment of tools/parity/requirements-mteb.txt")
    import mteb

    model = load(arguments.model, arguments.through, arguments.device)
    for folder in arguments.task:
        result = mteb.evaluate(model, local_task(folder), cache=None, show_progress_bar=False)
        scores = result.task_results[0].scores["test"][0]
        found = {"p_mrr": scores["p-MRR"]}
        for scale, run in (("b", "og"), ("c", "changed")):
            found |= {f"map_1000_{scale}": scores[run]["map_at_1000"], f"ndcg_5_{scale}": scores[run]["ndcg_at_5"]}
        print(json.dumps({"task": folder.name} | {name: round(100 * value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
