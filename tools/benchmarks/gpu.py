"""What is measured on a GPU at the size of gte-modernbert-base: a step, the largest batch, a validation.

Random weights (gte-modernbert-base.json), bf16 autocast, lengths of the Promptriever mix.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.step import GPU_STEPS, GPU_WARM_UP
from benchmarks.texts import VOCABULARY, make_texts

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

CONFIG = json.loads((Path(__file__).parent / "gte-modernbert-base.json").read_text(encoding="utf-8"))
MEASURED_PEAK = 790e12
"""bf16 FLOP/s of a large matrix product on an H200 or H100, as measured."""
CHUNK_TOKENS = 65536
"""Of a training step that is computed in chunks."""
VALIDATION_TOKENS = 131072
"""Encoded at a time."""

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


def build(tokenizer: Path, attention: Attention = "auto", max_passage_length: int = 300, **settings: Any) -> Retriever:
    """A late-interaction model in training mode on the GPU."""
    backbone = BackboneSettings(config=CONFIG, tokenizer=str(tokenizer), attention=attention, **settings)
    text = TextSettings(max_query_length=304, max_passage_length=max_passage_length)
    model = build_retriever(None, backbone, TokenProjection(dim=128), MaxSim("mean"), text).cuda().train()
    model.prepare(torch.device("cuda"), torch.bfloat16)
    return model


def autocast() -> torch.autocast:
    """Lightning's, which keeps no weight in bfloat16 from one product to the next."""
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


def step(model: Retriever, loss: InfoNCE, batch: Batch) -> None:
    with autocast():
        queries, passages = model(batch.tokens).split(*batch.sizes)
        value = loss(model.scorer(queries, passages), batch.targets_Q, batch.kinds_QP)
    value.backward()


def seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure_steps(model: Retriever, num_queries: int = 128, group_size: int = 8) -> Figures:
    """Batches of other lengths at every step; medians."""
    loss, optimizer = InfoNCE(0.02).cuda(), torch.optim.AdamW(model.parameters(), lr=1e-6)

    def whole(batch: Batch) -> None:
        step(model, loss, batch)
        optimizer.step()
        optimizer.zero_grad()

    batches = [Batch(model, num_queries, group_size, seed) for seed in range(GPU_WARM_UP + GPU_STEPS)]
    warm_up = [seconds(lambda batch=batch: whole(batch)) for batch in batches[:GPU_WARM_UP]]
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.cuda.reset_peak_memory_stats()
    times = [seconds(lambda batch=batch: whole(batch)) for batch in batches[GPU_WARM_UP:]]
    lengths = [batch.tokens.lengths_B for batch in batches[GPU_WARM_UP:]]
    config, weights = model.backbone.model.config, matrix_weights(model.backbone.model)
    rates = [training_flops(config, weights, each) / time for each, time in zip(lengths, times, strict=True)]
    peak = peak_flops(torch.cuda.get_device_name())
    return {
        "kernel": model.backbone.kernel,
        "batch": f"{num_queries} x {group_size}",
        "step_seconds": statistics.median(times),
        "tokens_per_second": sum(int(each.sum()) for each in lengths) / sum(times),
        "texts_per_second": num_queries * (1 + group_size) / statistics.median(times),
        "mfu_of_790": statistics.median(rates) / MEASURED_PEAK,
        "mfu": statistics.median(rates) / peak if peak else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "warm_up_seconds": sum(warm_up),
        "compiled_after_warm_up": torch._dynamo.utils.counters["stats"]["unique_graphs"] - compiled,
        "scoring_share": scoring_seconds(model, loss, batches[-1]) / statistics.median(times),
    }


def scoring_seconds(model: Retriever, loss: InfoNCE, batch: Batch) -> float:
    """Of MaxSim and the loss, forward and backward."""
    with torch.no_grad(), autocast():
        found = model(batch.tokens)
    values_ND = found.values_ND.detach().requires_grad_()

    def score() -> None:
        with autocast():
            queries, passages = Embeddings(found.lengths_B, values_ND).split(*batch.sizes)
            value = loss(model.scorer(queries, passages), batch.targets_Q, batch.kinds_QP)
        value.backward()

    return statistics.median(seconds(score) for _ in range(GPU_WARM_UP + GPU_STEPS))


def largest_batch(tokenizer: Path, limit_seconds: float = 30) -> Figures:
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


def validation(
    tokenizer: Path, attention: Attention, num_passages: int = 98_312, num_queries: int = 208, limit: int = 512
) -> Figures:
    """Each passage encoded once; two variants of a query share their candidates.

    ``model_seconds`` is what the model alone would take at its rate for 256 of the passages.
    """
    model = build(tokenizer, attention, max_passage_length=limit, compile=True).eval()
    draw = np.random.default_rng(0)
    names = np.array([f"w{number}" for number in range(5, VOCABULARY)])
    lengths = np.clip(draw.lognormal(np.log(520), 0.35, num_passages), 20, 1500).astype(int)
    texts = [" ".join(draw.choice(names, size)) for size in lengths[:8192]]
    passages = {f"d{n}": Passage(f"d{n}", "", texts[n % len(texts)]) for n in range(num_passages)}
    queries = {
        f"q{n}": (" ".join(draw.choice(names, 20)), " ".join(draw.choice(names, 80))) for n in range(num_queries)
    }
    ids, pairs = list(passages), num_queries // 2
    candidates = {
        f"q{n}": ids[(n // 2) * num_passages // pairs : (n // 2 + 1) * num_passages // pairs]
        for n in range(num_queries)
    }
    rerank = Reranker(model, VALIDATION_TOKENS)
    with autocast():
        rerank(queries, passages, {name: found[:8] for name, found in candidates.items()})
        taken = seconds(lambda: rerank(queries, passages, candidates))
        some = model.tokenizer.passages(passages[name] for name in ids[:256]).to("cuda")
        with torch.inference_mode():
            rate = statistics.median(seconds(lambda: model(some)) for _ in range(GPU_STEPS)) / int(some.lengths_B.sum())
    tokenising = seconds(lambda: [model.tokenizer.passages(passages[name] for name in ids[:4096])])
    tokens = sum(min(int(lengths[n % len(texts)]) + 2, limit) for n in range(num_passages))
    return {
        "passages": num_passages,
        "queries": num_queries,
        "limit": limit,
        "kernel": model.backbone.kernel,
        "tokens": tokens,
        "seconds": taken,
        "model_seconds": rate * tokens,
        "tokens_per_second": tokens / taken,
        "seconds_to_tokenise_4096": tokenising,
    }
