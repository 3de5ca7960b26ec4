"""Exact search: every query against every passage of a task, of which the best are kept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from ifir_lightning import distributed
from ifir_lightning.benchmarks.task import RankingTask
from ifir_lightning.metrics import Run
from ifir_lightning.records import Embeddings, Passage, on_device
from ifir_lightning.reranking import Observer, Reranker, passage_chunks, share_cut
from ifir_lightning.retriever import Retriever

QUERIES_PER_BLOCK = 256
"""Queries scored at a time against a chunk of passages."""


def run_task(
    retriever: Retriever,
    task: RankingTask,
    max_tokens: int = 16384,
    advance: Callable[[int], None] = lambda num_passages: None,
    observe: Observer = lambda encoded: None,
    depth: int = 0,
) -> tuple[Run, float]:
    """The run of a task, by re-ranking its candidates or by search, and the share of passage tokens that were cut.

    ``observe`` is called where candidates are re-ranked (``Reranker``). A search keeps ``depth`` passages of each query
    where that is more than the task's own.
    """
    queries = {id_: (text, task.instructions[id_]) for id_, text in task.queries.items()}
    if task.candidates is None:
        return search(retriever, queries, task.passages, max(task.depth, depth), max_tokens, advance)
    return Reranker(retriever, max_tokens)(queries, task.passages, task.candidates, advance, observe)


def in_blocks(queries: Embeddings) -> Sequence[Embeddings]:
    """Queries as many at a time as are scored against a chunk of passages."""
    starts = range(0, len(queries), QUERIES_PER_BLOCK)
    return queries.split(*(min(QUERIES_PER_BLOCK, len(queries) - start) for start in starts))


@torch.inference_mode()
def search(
    retriever: Retriever,
    queries: Mapping[str, tuple[str, str]],
    passages: Mapping[str, Passage],
    depth: int,
    max_tokens: int = 16384,
    advance: Callable[[int], None] = lambda num_passages: None,
) -> tuple[Run, float]:
    """The best ``depth`` passages of each query, and the share of passage tokens that the limit cut.

    Every passage is encoded once, by one rank, and forgotten; of each query only the best so far are held. Of equal
    scores the greater id is the better one, as in trec_eval, so the run is the same on any number of ranks.

    Args:
        retriever: Encodes and scores.
        queries: id -> (query, instruction).
        passages: id -> passage.
        depth: Passages kept for each query.
        max_tokens: Tokens encoded at a time.
        advance: Called with the number of passages done, for a progress bar.
    """
    blocks = in_blocks(retriever.encode(retriever.tokenizer.queries(queries.values()), max_tokens))
    ordered = sorted(passages, reverse=True)
    place_of = {id_: place for place, id_ in enumerate(ordered)}
    best = [[nothing(len(block), retriever.device)] for block in blocks]
    held = new = cut = total = 0
    with closing(passage_chunks(retriever, passages, passages, max_tokens)) as chunks:
        for chunk in chunks:
            embeddings = retriever(chunk.tokens.to(retriever.device))
            places_P = on_device(torch.tensor([place_of[id_] for id_ in chunk.ids]), retriever.device)
            for parts, block in zip(best, blocks, strict=True):
                parts.append((retriever.scorer(block, embeddings), places_P.expand(len(block), -1)))
            new += len(chunk.ids)
            if new >= held:  # so that all sorting together costs little more than the last
                best, held, new = [[merge(parts, depth)] for parts in best], min(depth, held + new), 0
            cut, total = cut + int(chunk.tokens.cut_B.sum()), total + int(chunk.tokens.lengths_B.sum())
            advance(len(chunk.ids))
    found = _of_all_ranks([merge(parts, depth) for parts in best], min(depth, len(passages)))
    return _run(list(queries), ordered, found), share_cut(cut, total)


_BEYOND = 2**32 - 1
"""A place after all passages: the last one that ``merge`` tells from a lower score."""
Best = tuple[Tensor, Tensor]
"""scores_QK of each query's best passages so far, best first, and their places_QK in descending order of ids."""


def nothing(num_queries: int, device: torch.device) -> Best:
    return torch.empty(num_queries, 0, device=device), torch.empty(num_queries, 0, dtype=torch.int64, device=device)


def merge(parts: Sequence[Best], depth: int) -> Best:
    """The best of all parts, by score and then by place; a score that is no number counts as infinite.

    One selection by whole numbers that hold both, where to sort by place and then by score takes 2 to 5 times as long.
    """
    scores_QK, places_QK = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    bits_QK = (scores_QK.float().nan_to_num(inf, inf, -inf) + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    ordered_QK = bits_QK ^ (bits_QK >> 31 & 0x7FFFFFFF)  # below zero the larger magnitude is the lower score
    best_QK = ((ordered_QK.long() << 32) - places_QK).topk(min(depth, scores_QK.shape[1]), dim=1).indices
    return scores_QK.gather(1, best_QK), places_QK.gather(1, best_QK)


def _of_all_ranks(best: list[Best], depth: int) -> list[Best]:
    """The best of every rank, on every rank, a block of queries at a time."""
    width = distributed.all_reduce_max(max((places_QK.shape[1] for _, places_QK in best), default=0))
    return [merge(_gathered(each, width), depth) for each in best]


def _gathered(best: Best, width: int) -> list[Best]:
    """Those of each rank; where it holds less than ``width``, what is filled in comes after all passages."""
    scores_QK, places_QK = best
    missing = (0, width - scores_QK.shape[1])
    scores_RK = distributed.gather_rows(pad(scores_QK, missing, value=-inf))
    places_RK = distributed.gather_rows(pad(places_QK, missing, value=_BEYOND))
    return list(zip(scores_RK.split(len(scores_QK)), places_RK.split(len(places_QK)), strict=True))


def _run(query_ids: list[str], passage_ids: list[str], best: list[Best]) -> Run:
    scores = [row for scores_QK, _ in best for row in scores_QK.tolist()]
    places = [row for _, places_QK in best for row in places_QK.tolist()]
    return {
        query_id: dict(zip((passage_ids[place] for place in own_places), own_scores, strict=True))
        for query_id, own_scores, own_places in zip(query_ids, scores, places, strict=True)
    }
