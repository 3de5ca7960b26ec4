"""Exact search equals re-ranking of all passages, cut; on any number of ranks."""

import math
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from small import HEADS, Head, retriever
from test_reranking import PASSAGES, QUERIES, ready

from ifir_lightning import reranking, search
from ifir_lightning.metrics import Run, ranks
from ifir_lightning.records import Passage
from ifir_lightning.reranking import Reranker

DEPTH = 5


def best(run: Run, depth: int) -> Run:
    return {query_id: {id_: scores[id_] for id_ in list(ranks(scores))[:depth]} for query_id, scores in run.items()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("block", "max_tokens"), [(256, 10**6), (3, 40), (1, 1)])
def test_it_finds_what_re_ranking_all_passages_finds(
    modernbert: Path, head: Head, block: int, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "QUERIES_PER_BLOCK", block)
    module = ready(modernbert, head)
    everything, _ = Reranker(module.retriever)(QUERIES, PASSAGES, dict.fromkeys(QUERIES, tuple(PASSAGES)))
    done: list[int] = []
    found, cut = search.search(module.retriever, QUERIES, PASSAGES, DEPTH, max_tokens, done.append)
    assert (cut, sum(done)) == (0.0, len(PASSAGES))
    for query_id, scores in best(everything, DEPTH).items():
        assert list(found[query_id]) == list(scores), "best first"
        assert found[query_id] == pytest.approx(scores, abs=2e-6)


def test_a_depth_beyond_the_passages_keeps_them_all(modernbert: Path) -> None:
    found, _ = search.search(ready(modernbert, "maxsim").retriever, QUERIES, PASSAGES, 2**31)
    assert {len(scores) for scores in found.values()} == {len(PASSAGES)}


def test_of_equal_scores_the_greater_id_is_kept(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which the passages come: here one at a time, longest first."""
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", 1)
    module = ready(modernbert, "bi-encoder")
    module.retriever.scorer.forward = lambda queries, passages: torch.zeros(len(queries), len(passages))  # type: ignore[method-assign]
    passages = {id_: Passage(id_, "", "garden " * length) for id_, length in {"b": 9, "d": 1, "a": 7, "c": 3}.items()}
    found, _ = search.search(module.retriever, QUERIES, passages, 2)
    assert {tuple(scores) for scores in found.values()} == {("d", "c")}


def searched(backbone: Path, depth: int, slice_: int) -> tuple[Run, float]:
    reranking.TEXTS_PER_SLICE = slice_
    return search.search(retriever(backbone, "maxsim").eval().retriever, QUERIES, PASSAGES, depth, max_tokens=60)


@pytest.mark.parametrize(("depth", "slice_"), [(DEPTH, 4), (2**31, 4), (DEPTH, len(PASSAGES))])
def test_the_number_of_ranks_changes_no_bit(
    modernbert: Path, depth: int, slice_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether both hold more than the depth, less, or one of them nothing."""
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", slice_)  # and restored
    alone = searched(modernbert, depth, slice_)
    for found in on_ranks(2, searched, modernbert, depth, slice_):
        assert found == alone
        assert [list(scores) for scores in found[0].values()] == [list(scores) for scores in alone[0].values()]


def test_what_is_filled_in_for_a_rank_comes_after_a_passage_that_nothing_matches() -> None:
    """Whose score is minus infinity, as a rank's that has fewer passages than the others."""
    part = torch.tensor([[2.0, -torch.inf]]), torch.tensor([[7, 3]])
    (filled,) = search._gathered(part, 4)
    scores, places = search.merge([filled], 2)
    assert (scores.tolist(), places.tolist()) == ([[2.0, -torch.inf]], [[7, 3]])


@pytest.mark.parametrize("depth", [3, 40, 2**31])
def test_the_best_of_parts_are_those_of_a_slow_loop(depth: int) -> None:
    """With many equal scores, zeros of both signs, infinities, and numbers that are none, which nothing may hide."""
    nan, values = float("nan"), [-torch.inf, -3e38, -2.5, -1e-45, -0.0, 0.0, 1e-45, 1.5, 3e38, torch.inf]
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor(values)[torch.randint(0, len(values), (4, 60), generator=generator)]
    scores[3, :2] = torch.tensor([nan, -nan])
    places = torch.randperm(2**20, generator=generator)[:60].expand(4, -1).clone()
    places[:, 0] = search._BEYOND
    sizes = [7, 0, 33, 20]
    found = search.merge(list(zip(scores.split(sizes, 1), places.split(sizes, 1), strict=True)), depth)
    for query in range(4):
        pairs = list(zip(scores[query].tolist(), places[query].tolist(), strict=True))
        pairs.sort(key=lambda pair: (-torch.inf if math.isnan(pair[0]) else -pair[0], pair[1]))
        assert found[1][query].tolist() == [place for _, place in pairs[:depth]]
        assert str(found[0][query].tolist()) == str([score for score, _ in pairs[:depth]])


def test_all_that_is_sorted_is_a_few_times_what_is_found(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted anew with every passage it would be half their number times as much."""
    widths: list[int] = []
    merge = search.merge

    def counted(parts: list[search.Best], depth: int) -> search.Best:
        widths.append(sum(scores_QK.shape[1] for scores_QK, _ in parts))
        return merge(parts, depth)

    monkeypatch.setattr(search, "merge", counted)
    passages = {str(number): Passage(str(number), "", f"garden {number}") for number in range(64)}
    search.search(ready(modernbert, "bi-encoder").retriever, {"q": ("hotel", "")}, passages, 2**31, max_tokens=1)
    assert sum(widths) <= 4 * len(passages)
