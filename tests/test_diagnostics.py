"""Scores taken apart, and other operators on the same vectors: against loops in float64 and by hand."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from ifir_lightning.diagnostics import PairDiagnostics, Spectrum, spectrum_figures
from ifir_lightning.metrics import p_mrr
from ifir_lightning.models.scoring import MaxSim, WeightedMaxSim
from ifir_lightning.records import Embeddings
from ifir_lightning.spans import Span
from ifir_lightning.task_diagnostics import Pairs, change_figures, ranking_figures, share_figures

Q, I, M, E = Span.QUERY, Span.INSTRUCTION, Span.MARKERS, Span.EXPANSION
SPANS = [[M, Q, Q, I, I, I, M, E], [M, Q, M], [M, Q, I, M]]
PASSAGES = [5, 1, 9, 2]
PAIRS = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1], [1, 3], [2, 2], [0, 0]])


def embeddings(lengths: list[int], seed: int, weights: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    values_ND = torch.nn.functional.normalize(torch.randn(sum(lengths), 6, generator=generator), dim=-1)
    weights_N = 1 + torch.randn(sum(lengths), generator=generator) if weights else None
    return Embeddings(torch.tensor(lengths), values_ND, weights_N)


def special() -> Tensor:
    return torch.cat([torch.tensor([True] + [False] * (length - 1)) for length in PASSAGES])


def slow_figures(query: Tensor, weights: list[float], spans: list[Span], passage: Tensor, mean: bool) -> dict[str, Any]:
    """One pair, token by token."""
    figures: dict[str, Any] = dict.fromkeys(
        ("query", "instruction", "markers", "expansion", "special", "maxsim", "smooth_maximum", "top_k_mean"), 0.0
    )
    figures |= {"weighted": 0.0, "negative": 0, "without_instruction_tokens": 0.0}
    winners: Counter[int] = Counter()
    names = {Q: "query", I: "instruction", M: "markers", E: "expansion"}
    length = len(spans) if mean else 1
    for vector, weight, span in zip(query.double(), weights, spans, strict=True):
        similarities = [float(vector @ other) for other in passage.double()]
        best = max(similarities)
        winner = similarities.index(best)
        winners[winner] += 1
        figures[names[span]] += weight * best / length
        if winner == 0 or span == M:
            figures["special"] += weight * best / length
        if span == I:
            figures["negative"] += best < 0
        else:
            kept = sum(each != I for each in spans) if mean else 1
            figures["without_instruction_tokens"] += weight * best / kept
        figures["maxsim"] += best
        figures["weighted"] += weight * best
        exponents = [math.exp(each / 0.1) for each in similarities]
        figures["smooth_maximum"] += sum(e * s for e, s in zip(exponents, similarities, strict=True)) / sum(exponents)
        top = sorted(similarities, reverse=True)[:3]
        figures["top_k_mean"] += sum(top) / len(top)
    shares = [count / len(spans) for count in winners.values()]
    most = math.log(min(len(spans), len(passage)))
    figures["winner_entropy"] = -sum(p * math.log(p) for p in shares) / most if most else 0.0
    pooled = query.double().mean(0), passage.double().mean(0)
    figures["mean_pooled_cosine"] = float(torch.nn.functional.cosine_similarity(*pooled, dim=0))
    return figures


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_every_figure_equals_a_loop(weighted: bool, reduction: Any) -> None:
    queries = embeddings([len(spans) for spans in SPANS], 1, weighted)
    passages = embeddings(PASSAGES, 2)
    spans_N = torch.tensor([span for spans in SPANS for span in spans])
    found = PairDiagnostics(queries, spans_N, reduction)(passages, special(), PAIRS)
    weights_N = torch.ones(len(spans_N)) if queries.weights_N is None else queries.weights_N
    weights = weights_N.split(queries.lengths_B.tolist())
    for place, (query, passage) in enumerate(PAIRS.tolist()):
        expected = slow_figures(
            queries.unpack()[query],
            weights[query].tolist(),
            SPANS[query],
            passages.unpack()[passage],
            reduction == "mean",
        )
        if not weighted:
            del expected["weighted"]
        assert {name: float(values[place]) for name, values in found.items()} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scorer", [MaxSim("sum"), MaxSim("mean"), WeightedMaxSim("sum"), WeightedMaxSim("mean")])
def test_the_parts_of_a_score_add_up_to_it(scorer: Any) -> None:
    queries = embeddings([len(spans) for spans in SPANS], 3, isinstance(scorer, WeightedMaxSim))
    passages = embeddings(PASSAGES, 4)
    spans_N = torch.tensor([span for spans in SPANS for span in spans])
    found = PairDiagnostics(queries, spans_N, scorer.reduction)(passages, special(), PAIRS)
    parts = sum(found[name] for name in ("query", "instruction", "markers", "expansion"))
    torch.testing.assert_close(parts, scorer.pairs(queries, passages, PAIRS), atol=1e-5, rtol=0)


def test_effective_rank_and_mean_cosine_by_hand() -> None:
    """Two orthogonal directions, one taken 9 times as often: singular values 3 and 1."""
    spectrum, other = Spectrum(), Spectrum()
    spectrum.add(torch.tensor([[2.0, 0.0, 0.0]]).repeat(5, 1))
    other.add(torch.tensor([[5.0, 0.0, 0.0]]).repeat(4, 1))
    other.add(torch.tensor([[0.0, 0.1, 0.0]]))
    figures = spectrum_figures([spectrum.sums, other.sums, Spectrum().sums])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert figures == pytest.approx({"effective_rank": math.exp(entropy), "mean_cosine": 0.9**2 + 0.1**2}, abs=1e-6)


NAMES = ("query", "instruction", "markers", "expansion", "special", "winner_entropy", "negative")


def pairs_by_hand() -> Pairs:
    """One base query with two candidates of which p changed: original p, d; changed p, d."""
    rows = [
        ("1-og", "p", (3.0, 1.0, 0.5, 0.0, 1.0, 0.25, 1.0)),
        ("1-og", "d", (2.0, 1.0, 0.5, 0.0, 1.0, 0.75, 0.0)),
        ("1-changed", "p", (2.0, -1.0, 0.5, 0.0, 0.5, 0.5, 2.0)),
        ("1-changed", "d", (2.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0)),
    ]
    values = torch.tensor([row[2] for row in rows]).T
    return Pairs([row[0] for row in rows], [row[1] for row in rows], dict(zip(NAMES, values, strict=True)))


def test_shares_by_hand() -> None:
    figures = share_figures(pairs_by_hand(), {"1-og": 2, "1-changed": 3})
    assert figures == pytest.approx(
        {
            "score_share/query": 100 * 9.5 / 14,
            "score_share/instruction": 100 * 2.0 / 14,
            "score_share/markers": 100 * 2.0 / 14,
            "score_share/expansion": 100 * 0.5 / 14,
            "special_share": 100 * 3.0 / 14,
            "winner_entropy": 50.0,
            "negative_similarity": 100 * 3 / 10,
        }
    )
    assert sum(value for name, value in figures.items() if name.startswith("score_share")) == pytest.approx(100)


def test_changes_by_hand() -> None:
    figures = change_figures(pairs_by_hand(), {"1": ("p", "unlisted"), "2": ()})
    expected = {
        "change/query": -100.0,
        "change/instruction": -200.0,
        "change/markers": 0.0,
        "change/expansion": 0.0,
        "relative_change/query": 100 * (-1.0 - (-1.0 + 0.5) / 2),
        "relative_change/instruction": 100 * (-2.0 - (-2.0 + 0.0) / 2),
        "relative_change/markers": 0.0,
        "relative_change/expansion": 100 * (0.0 - 0.5 / 2),
    }
    assert figures == pytest.approx(expected)


def test_rankings_are_those_of_the_figure() -> None:
    pairs = pairs_by_hand()
    figures = {"maxsim": pairs.figures["query"], "without_instruction_tokens": -pairs.figures["query"]}
    ranked = ranking_figures(
        Pairs(pairs.query_ids, pairs.passage_ids, figures),
        {"1-og": {"p": 1}, "1-changed": {"d": 1}},
        {"1": ("p",)},
        "map_1000",
    )
    assert ranked == {
        "scorer/maxsim/p_mrr": 50.0,  # from 1 to 2
        "scorer/maxsim/score_b": 100.0,
        "without_instruction_tokens/p_mrr": -50.0,
        "without_instruction_tokens/score_b": 50.0,
    }
    run = Pairs(pairs.query_ids, pairs.passage_ids, figures).run("maxsim")
    assert p_mrr(run, {"1": ("p",)}).mean == 0.5
