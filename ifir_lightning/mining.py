"""Hard negatives of training rows from a pool of passages, by exact search that can be continued."""

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ifir_lightning import durable
from ifir_lightning.errors import InputError
from ifir_lightning.records import Embeddings, Passage, Row, on_device
from ifir_lightning.reranking import Reranker, passage_chunks
from ifir_lightning.retriever import Retriever
from ifir_lightning.search import Best, in_blocks, merge, nothing
from ifir_lightning.teachers import check_finite

_log = logging.getLogger(__name__)

PASSAGES_PER_SLICE = 65_536
"""Passages searched from one state on disk to the next."""
STATE = "search.safetensors"


@dataclass(frozen=True)
class Choice:
    """Which passages of a ranking become hard negatives.

    Ranks count from 1 and leave out the row's own passages: positives and instruction negatives of all rows that ask
    the same (query and instruction). Of the ranks ``rank_from`` to ``rank_to`` those stay whose score s satisfies,
    with s+ the lowest score of the row's positives,

        s < s+ - absolute_margin    and    s < s+ - relative_margin * |s+|

    where a margin is given: a passage that scores like a positive may be one that nobody has marked. The best
    ``num_negatives`` of them are taken.

    Args:
        rank_from: First rank, from 1.
        rank_to: Last rank.
        num_negatives: At most so many for a row.
        absolute_margin: In units of the score; 0 leaves out what scores like the positive or higher.
        relative_margin: As a share of the positive's score, e.g. 0.05.

    Relations:
        sentence-transformers' ``mine_hard_negatives`` has the same two margins (for positive scores above 0), with
        ``range_min`` = rank_from - 1 and ``range_max`` = rank_to, but counts ``range_min`` among the passages that
        its margins leave, and positives among ``range_max``; here margins change no rank. NV-Retriever (Moreira et
        al., 2024, section 3.2) calls them TopK-MarginPos and TopK-PercPos, whose percentage is 1 - relative_margin.
    """

    rank_from: int = 10
    rank_to: int = 100
    num_negatives: int = 30
    absolute_margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rank_from <= self.rank_to:
            raise InputError(
                f"choice.rank_from is {self.rank_from} and rank_to {self.rank_to}; allowed is 1 <= rank_from <= "
                "rank_to: correct them"
            )
        if self.num_negatives < 1:
            raise InputError(f"choice.num_negatives is {self.num_negatives}; allowed is 1 or more: raise it")

    def __call__(self, ranked: Sequence[tuple[Passage, float]], positive_score: float) -> list[Passage]:
        """The hard negatives, best first.

        Args:
            ranked: Passages that are not the row's own with their scores, best first, from rank 1 on.
            positive_score: The lowest score of the row's positives.
        """
        below = float("inf")
        if self.absolute_margin is not None:
            below = positive_score - self.absolute_margin
        if self.relative_margin is not None:
            below = min(below, positive_score - self.relative_margin * abs(positive_score))
        chosen = [passage for passage, score in ranked[self.rank_from - 1 : self.rank_to] if score < below]
        return chosen[: self.num_negatives]


@dataclass(frozen=True)
class Miner:
    """Searches a pool for all rows at once; the best so far go to disk after every slice of the pool.

    Args:
        retriever: Encodes and scores.
        pool: Distinct passages.
        choice: Which of those found are taken.
        max_tokens: Tokens encoded at a time.
    """

    retriever: Retriever
    pool: Sequence[Passage]
    choice: Choice
    max_tokens: int = 16384

    def __call__(self, rows: Sequence[Row], folder: Path) -> list[list[Passage]]:
        """The hard negatives of each row; a state in ``folder`` is continued.

        Every passage of the pool is encoded once, and forgotten; queries' embeddings and of each query the best
        scores are held. Of equal scores the earlier passage of the pool is the better one.
        """
        own, positive_scores = _own(rows), self._positive_scores(rows)
        depth = self.choice.rank_to + 2 * max(map(len, own))  # left out by id, and by text
        best = self._search(rows, folder, depth)
        return [
            self.choice(self._ranked(own_passages, scores, places), positive_score)
            for own_passages, scores, places, positive_score in zip(
                own, best[0].tolist(), best[1].tolist(), positive_scores, strict=True
            )
        ]

    @torch.inference_mode()
    def _search(self, rows: Sequence[Row], folder: Path, depth: int) -> Best:
        """scores_QK and places_QK in the pool, best first."""
        queries = self.retriever.tokenizer.queries((row.query, row.instruction) for row in rows)
        if num_cut := int(queries.cut_B.count_nonzero()):
            _log.warning(
                "the limit of %d tokens cuts %d of %d queries, whose instruction stands at their end: raise "
                "--text.max_query_length",
                self.retriever.tokenizer.format.max_query_length,
                num_cut,
                len(rows),
            )
        blocks = in_blocks(self.retriever.encode(queries, self.max_tokens))
        done, best = _read_state(folder / STATE, self.retriever.device) or (
            0,
            nothing(len(rows), self.retriever.device),
        )
        for start in range(done, len(self.pool), PASSAGES_PER_SLICE):
            stop = min(start + PASSAGES_PER_SLICE, len(self.pool))
            best, num_cut = self._search_slice(blocks, best, range(start, stop), depth)
            _write_state(folder / STATE, stop, best)
            _log.info(
                "searched %d of %d passages; of the last %d the limit of %d tokens cut %d",
                stop,
                len(self.pool),
                stop - start,
                self.retriever.tokenizer.format.max_passage_length,
                num_cut,
            )
        return best

    def _search_slice(self, blocks: Sequence[Embeddings], best: Best, places: range, depth: int) -> tuple[Best, int]:
        """The best of these passages and those before, and how many of these the limit cut."""
        device = self.retriever.device
        sizes = [len(block) for block in blocks]
        parts = list(zip(best[0].split(sizes), best[1].split(sizes), strict=True))
        passages = {str(place): self.pool[place] for place in places}
        num_cut = 0
        with closing(passage_chunks(self.retriever, passages, passages, self.max_tokens)) as chunks:
            for chunk in chunks:
                num_cut += int(chunk.tokens.cut_B.count_nonzero())
                embeddings = self.retriever(chunk.tokens.to(device))
                places_P = on_device(torch.tensor([int(id_) for id_ in chunk.ids]), device)
                for number, block in enumerate(blocks):
                    new = self.retriever.scorer(block, embeddings), places_P.expand(len(block), -1)
                    parts[number] = merge([parts[number], new], depth)
        scores, places_found = zip(*parts, strict=True)
        return (torch.cat(scores), torch.cat(places_found)), num_cut

    def _positive_scores(self, rows: Sequence[Row]) -> list[float]:
        """The lowest score of each row's positives."""
        passages = {f"{number}/{place}": p for number, row in enumerate(rows) for place, p in enumerate(row.positives)}
        candidates = {
            str(number): [f"{number}/{place}" for place in range(len(row.positives))] for number, row in enumerate(rows)
        }
        queries = {str(number): (row.query, row.instruction) for number, row in enumerate(rows)}
        run, _ = Reranker(self.retriever, self.max_tokens)(queries, passages, candidates)
        check_finite(rows, [list(scores.values()) for scores in run.values()])
        return [min(scores.values()) for scores in run.values()]

    def _ranked(self, own: set[Passage], scores: list[float], places: list[int]) -> list[tuple[Passage, float]]:
        """Passages found, best first, without the row's own, which are known by id and by text."""
        ids, texts = {p.id for p in own}, {(p.title, p.text) for p in own}
        found = [(self.pool[place], score) for place, score in zip(places, scores, strict=True)]
        return [(p, score) for p, score in found if p.id not in ids and (p.title, p.text) not in texts]


def check_pool(pool: Sequence[Passage], choice: Choice) -> None:
    """InputError for a pool that has not as many passages as the ranks ask for."""
    if len(pool) < choice.rank_to:
        raise InputError(
            f"the pool has {len(pool)} passages, choice.rank_to is {choice.rank_to}; allowed is 1 to {len(pool)}: "
            "lower --choice.rank_to (and rank_from), or name a larger --pool"
        )


def _own(rows: Sequence[Row]) -> list[set[Passage]]:
    """Of each row the positives and instruction negatives of all rows that ask the same."""
    own: dict[tuple[str, str], set[Passage]] = {}
    for row in rows:
        own.setdefault((row.query, row.instruction), set()).update(row.positives, row.instruction_negatives)
    return [own[row.query, row.instruction] for row in rows]


def _write_state(path: Path, num_done: int, best: Best) -> None:
    tensors = {"scores_QK": best[0].contiguous().cpu(), "places_QK": best[1].contiguous().cpu()}
    durable.write_bytes(path, save(tensors, {"done": json.dumps(num_done)}))


def _read_state(path: Path, device: torch.device) -> tuple[int, Best] | None:
    """How many passages were searched, and the best of them."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            best: tuple[Tensor, Tensor] = file.get_tensor("scores_QK"), file.get_tensor("places_QK")
            return json.loads(file.metadata()["done"]), best
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); allowed is to begin anew: remove the folder") from error
