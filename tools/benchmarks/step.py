"""One library's training step, measured in a process of its own: step.py SIDE MODEL TEXTS STEPS QUERIES PASSAGES

SIDE is ours, ours-chunked (recomputed in chunks of 4,096 tokens), ours-dense, pylate, multi-vector or dense (the last
two of sentence-transformers); QUERIES and PASSAGES are MODEL's limits in tokens. Texts are tokenised beforehand. Prints
one line of JSON: CPU and wall seconds of each step after a warm-up, peak memory, first loss.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], torch.Tensor]
GPU_STEPS, GPU_WARM_UP = 5, 3


def columns(texts: dict[str, list]) -> list[list[str]]:
    """Positives, first negatives, second negatives, ..."""
    return [list(column) for column in zip(*texts["passages"], strict=True)]


def _on(features: Any, device: str) -> dict[str, Any]:
    """A copy, which the library may change, on the device."""
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in dict(features).items()}


def ours(
    model: str, texts: dict[str, list], temperature: float = 1.0, max_tokens: int | None = None
) -> tuple[torch.nn.Module, Step]:
    from ifir_lightning.losses import InfoNCE, pair_kinds
    from ifir_lightning.records import Passage, Tokens
    from ifir_lightning.retriever import load_retriever

    torch.set_flush_denormal(True)  # as the command line does
    retriever, loss = load_retriever(model).train(), InfoNCE(temperature)
    retriever.backbone.max_tokens_per_chunk = max_tokens
    size = len(texts["passages"][0])
    queries = retriever.tokenizer.queries((text, "") for text in texts["queries"])
    passages = retriever.tokenizer.passages(Passage("", "", text) for group in texts["passages"] for text in group)
    kinds_P = torch.tensor([0] + [2] * (size - 1)).repeat(len(queries))
    targets_Q = torch.arange(len(queries)) * size
    kinds_QP = pair_kinds(kinds_P, torch.arange(len(passages)), targets_Q, size)

    def step() -> torch.Tensor:
        encoded = retriever(Tokens.concat([queries, passages])).split(len(queries), len(passages))
        return loss(retriever.scorer(*encoded), targets_Q, kinds_QP)

    return retriever, step


def pylate(model: str, texts: dict[str, list], device: str = "cpu") -> tuple[torch.nn.Module, Step]:
    from pylate import losses, models

    colbert = models.ColBERT(model, device=device).train()
    loss = losses.Contrastive(colbert)
    names = [texts["queries"], *columns(texts)]
    features = [colbert.tokenize(each, is_query=not number, pad=True) for number, each in enumerate(names)]
    return colbert, lambda: loss([_on(each, device) for each in features])


def multi_vector(model: str, texts: dict[str, list], device: str = "cpu") -> tuple[torch.nn.Module, Step]:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

    encoder = MultiVectorEncoder(model, device=device).train()
    loss = MultiVectorMultipleNegativesRankingLoss(encoder)
    tasks = [("query", texts["queries"]), *(("document", column) for column in columns(texts))]
    features = [_on(encoder.preprocess(each, task=task), device) | {"task": task} for task, each in tasks]
    return encoder, lambda: loss(features)


def dense(model: str, texts: dict[str, list]) -> tuple[torch.nn.Module, Step]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    encoder = SentenceTransformer(model, device="cpu").train()
    loss = MultipleNegativesRankingLoss(encoder, scale=20.0)
    features = [encoder.tokenize(each) for each in (texts["queries"], *columns(texts))]
    return encoder, lambda: loss([dict(each) for each in features], None)


SIDES: dict[str, Callable[..., tuple[torch.nn.Module, Step]]] = {
    "ours": ours,
    "ours-chunked": lambda model, texts: ours(model, texts, max_tokens=4096),
    "ours-dense": lambda model, texts: ours(model, texts, temperature=0.05),
    "pylate": pylate,
    "multi-vector": multi_vector,
    "dense": dense,
}


def num_tokens(texts: dict[str, list], query_limit: int, passage_limit: int) -> int:
    """Real tokens of the texts; a word is one, and two stand around them."""
    passages = [passage for group in texts["passages"] for passage in group]
    named = ((texts["queries"], query_limit), (passages, passage_limit))
    return sum(min(limit, 2 + len(text.split())) for column, limit in named for text in column)


def main(side: str, model: str, texts: str, steps: int, *limits: int) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    content = json.loads(Path(texts).read_text())
    module, step = SIDES[side](model, content)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    record: dict[str, Any] = {"cpu_seconds": [], "wall_seconds": [], "tokens": num_tokens(content, *limits)}
    for number in range(steps + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        loss = step()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number:  # the first step warms up
            record["cpu_seconds"].append(time.process_time() - cpu)
            record["wall_seconds"].append(time.perf_counter() - wall)
        else:
            record["first_loss"] = loss.item()
    libraries = ("torch", "transformers", {"pylate": "pylate"}.get(side, "sentence-transformers"))
    record["versions"] = {name: version(name) for name in libraries if not (side.startswith("ours") and "-" in name)}
    record["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
