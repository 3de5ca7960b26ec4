"""Score every query of a task against its own candidates: the one way from texts to a run."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from ifir_lightning import distributed
from ifir_lightning.metrics import Run
from ifir_lightning.records import Embeddings, Passage, Tokens, token_chunks
from ifir_lightning.retriever import Retriever

S = TypeVar("S")
T = TypeVar("T")
TEXTS_PER_SLICE = 256
"""Passages tokenised at a time, and what one rank takes in turn."""


@dataclass(frozen=True)
class Chunk:
    """Passages to encode together."""

    ids: list[str]
    tokens: Tokens


@dataclass(frozen=True)
class Encoded:
    """What re-ranking holds while a chunk of passages is encoded: all that can be known of these pairs.

    Attributes:
        queries: All queries of the task.
        ids: Ids of the chunk's passages.
        tokens: Their tokens, ids on the device.
        passages: Their embeddings.
        index_K2: The listed pairs: (number of the query, number of the passage in the chunk).
    """

    queries: Embeddings
    ids: list[str]
    tokens: Tokens
    passages: Embeddings
    index_K2: Tensor


Observer = Callable[[Encoded], None]


@dataclass(frozen=True)
class Reranker:
    """Scores candidates.

    Args:
        retriever: Encodes and scores.
        max_tokens: Tokens encoded at a time.
    """

    retriever: Retriever
    max_tokens: int = 16384

    @torch.inference_mode()
    def __call__(
        self,
        queries: Mapping[str, tuple[str, str]],
        passages: Mapping[str, Passage],
        candidates: Mapping[str, Sequence[str]],
        advance: Callable[[int], None] = lambda num_passages: None,
        observe: Observer = lambda encoded: None,
    ) -> tuple[Run, float]:
        """The run of all queries, complete on every rank, and the share of passage tokens that the limit cut.

        Each distinct candidate is encoded once, by one rank, scored at once against the queries that list it, and
        forgotten: only (query, passage, score) travels. Which texts are encoded together does not depend on the
        number of ranks, so neither do the scores. While a slice is encoded, the next ones are tokenised; scores leave
        the device together, at the end.

        Args:
            queries: id -> (query, instruction).
            passages: id -> passage.
            candidates: query id -> ids of the passages to score.
            advance: Called with the number of passages done (on a GPU: sent to it), for a progress bar.
            observe: Called with every chunk that is encoded.
        """
        encoded = self.retriever.encode(self.retriever.tokenizer.queries(queries.values()), self.max_tokens)
        listed = _listing(list(queries), candidates)
        scored: list[tuple[int, str]] = []
        scores: list[Tensor] = []
        cut = total = 0
        with closing(passage_chunks(self.retriever, passages, listed, self.max_tokens)) as chunks:
            for chunk in chunks:
                pairs = [(query, place) for place, id_ in enumerate(chunk.ids) for query in listed[id_]]
                scores.append(self._score(encoded, chunk, torch.tensor(pairs), observe))
                scored += [(query, chunk.ids[place]) for query, place in pairs]
                cut, total = cut + int(chunk.tokens.cut_B.sum()), total + int(chunk.tokens.lengths_B.sum())
                advance(len(chunk.ids))
        return self._merge(as_run(list(queries), scored, scores)), share_cut(cut, total)

    def _score(self, queries: Embeddings, chunk: Chunk, index_K2: Tensor, observe: Observer) -> Tensor:
        """scores_K of (query, passage) pairs, on the device; the passages' embeddings end here."""
        tokens = chunk.tokens.to(self.retriever.device)
        passages = self.retriever(tokens)
        observe(Encoded(queries, chunk.ids, tokens, passages, index_K2))
        return self.retriever.scorer.pairs(queries, passages, index_K2)

    @staticmethod
    def _merge(run: Run) -> Run:
        parts = distributed.gather_objects(run)
        return {query_id: {k: v for part in parts for k, v in part[query_id].items()} for query_id in run}


def passage_chunks(
    retriever: Retriever, passages: Mapping[str, Passage], ids: Iterable[str], max_tokens: int
) -> Generator[Chunk, None, None]:
    """This rank's share of the passages ``ids``, tokenised ahead, in chunks of similar length to encode at a time.

    To close the generator ends the thread that tokenises.
    """
    ordered = sorted(ids, key=lambda id_: (-len(passages[id_].text), id_))
    slices = [ordered[start : start + TEXTS_PER_SLICE] for start in range(0, len(ordered), TEXTS_PER_SLICE)]
    own = slices[distributed.rank() :: distributed.world_size()]
    with closing(_ahead(lambda part: _tokenize(retriever, passages, part, max_tokens), own)) as ready:
        yield from chain.from_iterable(ready)


def share_cut(cut: int, kept: int) -> float:
    """Share of tokens cut, from the counts of this rank and all others."""
    counts = distributed.gather_objects((cut, kept))
    cut, kept = (sum(each) for each in zip(*counts, strict=True))
    return cut / max(1, cut + kept)


def _tokenize(
    retriever: Retriever, passages: Mapping[str, Passage], ids: Sequence[str], max_tokens: int
) -> list[Chunk]:
    """A slice in chunks, in memory from which a GPU copies without a wait."""
    tokens = retriever.tokenizer.passages(passages[id_] for id_ in ids)
    chunks = []
    for index in token_chunks(tokens.lengths_B, max_tokens):
        part = tokens.select(index)
        part = part.pin_memory() if retriever.device.type == "cuda" else part
        chunks.append(Chunk([ids[i] for i in index.tolist()], part))
    return chunks


def _ahead(function: Callable[[S], T], items: Sequence[S], num_ready: int = 2) -> Generator[T, None, None]:
    """``function`` of every item, in order; one thread computes up to ``num_ready`` results that nobody asked for yet.

    An error of ``function`` is raised here, in its turn. To close the iterator ends the thread.
    """
    pool = ThreadPoolExecutor(1)
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_ready:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def as_run(query_ids: Sequence[str], scored: Sequence[tuple[int, str]], scores: Sequence[Tensor]) -> Run:
    """Scores of (number of the query, id of the passage) pairs as a run."""
    run: Run = {query_id: {} for query_id in query_ids}
    values = torch.cat(list(scores)).tolist() if scores else []
    for (query, passage_id), score in zip(scored, values, strict=True):
        run[query_ids[query]][passage_id] = score
    return run


def _listing(query_ids: Sequence[str], candidates: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """passage id -> numbers of the queries that list it."""
    listed: dict[str, list[int]] = {}
    for number, query_id in enumerate(query_ids):
        for passage_id in candidates[query_id]:
            listed.setdefault(passage_id, []).append(number)
    return listed
