"""Score every query of a task against its own candidates: the one way from texts to a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ifir_lightning import distributed
from ifir_lightning.metrics import Run
from ifir_lightning.records import Embeddings, Passage, Tokens, token_chunks
from ifir_lightning.retriever import Retriever

TEXTS_PER_SLICE = 128
"""Passages tokenised at a time, and what one rank takes in turn."""


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
    ) -> tuple[Run, float]:
        """The run of all queries, complete on every rank, and the share of passage tokens that the limit cut.

        Each distinct candidate is encoded once, by one rank, scored at once against the queries that list it, and
        forgotten: only (query, passage, score) travels. Which texts are encoded together does not depend on the
        number of ranks, so neither do the scores.

        Args:
            queries: id -> (query, instruction).
            passages: id -> passage.
            candidates: query id -> ids of the passages to score.
            advance: Called with the number of passages done, for a progress bar.
        """
        tokenizer = self.retriever.tokenizer
        encoded = self.retriever.encode(tokenizer.queries(queries.values()), self.max_tokens)
        listed = _listing(list(queries), candidates)
        run: Run = {query_id: {} for query_id in queries}
        cut = total = 0
        for ids in self._own_slices(passages, listed):
            passage_tokens = tokenizer.passages(passages[id_] for id_ in ids)
            cut, total = cut + int(passage_tokens.cut_B.sum()), total + int(passage_tokens.lengths_B.sum())
            for chunk in token_chunks(passage_tokens.lengths_B, self.max_tokens):
                self._score(encoded, passage_tokens.select(chunk), [ids[i] for i in chunk.tolist()], listed, run)
            advance(len(ids))
        cuts = distributed.gather_objects((cut, total))
        return self._merge(run), _share(cuts)

    def _own_slices(self, passages: Mapping[str, Passage], listed: Mapping[str, list[int]]) -> list[list[str]]:
        """Slices of passages of similar length; every rank takes its turn."""
        ids = sorted(listed, key=lambda id_: (-len(passages[id_].text), id_))
        slices = [ids[start : start + TEXTS_PER_SLICE] for start in range(0, len(ids), TEXTS_PER_SLICE)]
        return slices[distributed.rank() :: distributed.world_size()]

    def _score(
        self,
        queries: Embeddings,
        tokens: Tokens,
        ids: Sequence[str],
        listed: Mapping[str, list[int]],
        run: Run,
    ) -> None:
        pairs = [(query, passage) for passage, id_ in enumerate(ids) for query in listed[id_]]
        embeddings = self.retriever(tokens.to(self.retriever.device))
        scores_K = self.retriever.scorer.pairs(queries, embeddings, torch.tensor(pairs))
        query_ids = list(run)
        for (query, passage), score in zip(pairs, scores_K.tolist(), strict=True):
            run[query_ids[query]][ids[passage]] = score

    @staticmethod
    def _merge(run: Run) -> Run:
        parts = distributed.gather_objects(run)
        return {query_id: {k: v for part in parts for k, v in part[query_id].items()} for query_id in run}


def _listing(query_ids: Sequence[str], candidates: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """passage id -> numbers of the queries that list it."""
    listed: dict[str, list[int]] = {}
    for number, query_id in enumerate(query_ids):
        for passage_id in candidates[query_id]:
            listed.setdefault(passage_id, []).append(number)
    return listed


def _share(cuts: Sequence[tuple[int, int]]) -> float:
    """Share of tokens cut, from the (cut, kept) counts of every rank."""
    cut, kept = (sum(counts) for counts in zip(*cuts, strict=True))
    return cut / max(1, cut + kept)
