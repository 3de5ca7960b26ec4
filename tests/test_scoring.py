"""Scores against three nested loops in float64: every pair, listed pairs, any chunk size, any precision."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ifir_lightning.errors import InputError
from ifir_lightning.models import scoring
from ifir_lightning.models.maxsim import best_similarity
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, Scorer, WeightedMaxSim
from ifir_lightning.records import Embeddings

MAXSIMS = [MaxSim("sum"), MaxSim("mean"), WeightedMaxSim("sum"), WeightedMaxSim("mean")]
INDEX = [[2, 0], [0, 4], [2, 0], [1, 3], [0, 0], [2, 4], [1, 1]]


def name(scorer: Scorer) -> str:
    return f"{type(scorer).__name__}-{getattr(scorer, 'reduction', '')}"


@pytest.fixture(params=[*MAXSIMS, Cosine(), Dot()], ids=name)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return request.param


def texts(lengths: list[int], seed: int, dtype: torch.dtype = torch.float32) -> Embeddings:
    """Random embeddings, none normalised; weights of both signs."""
    generator = torch.Generator().manual_seed(seed)
    values_ND = torch.randn(sum(lengths), 5, generator=generator).to(dtype)
    return Embeddings(torch.tensor(lengths), values_ND, torch.randn(sum(lengths), generator=generator))


def example(scorer: Scorer, dtype: torch.dtype = torch.float32) -> tuple[Embeddings, Embeddings]:
    if scorer.one_per_text:
        return texts([1] * 3, 0, dtype), texts([1] * 5, 1, dtype)
    return texts([4, 1, 6], 0, dtype), texts([3, 9, 1, 3, 5], 1, dtype)


def loops(scorer: Scorer, queries: Embeddings, passages: Embeddings) -> Tensor:
    """Queries, their tokens, passage tokens, one number at a time."""
    assert queries.weights_N is not None
    parts = (tensor.double().split(queries.lengths_B.tolist()) for tensor in (queries.values_ND, queries.weights_N))
    passage_texts = passages.values_ND.double().split(passages.lengths_B.tolist())
    rows = []
    for tokens, weights in zip(*parts, strict=True):
        for passage in passage_texts:
            score = torch.zeros((), dtype=torch.float64)
            for token, weight in zip(tokens, weights, strict=True):
                dots = [(token * other).sum() for other in passage]
                if isinstance(scorer, Cosine):
                    dots = [dots[0] / token.norm() / passage[0].norm()]
                score = score + max(dots) * (weight if isinstance(scorer, WeightedMaxSim) else 1)
            rows.append(score / len(tokens) if getattr(scorer, "reduction", "sum") == "mean" else score)
    return torch.stack(rows).view(len(queries), len(passages))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=0)


def test_all_pairs_equal_three_loops(scorer: Scorer) -> None:
    queries, passages = example(scorer)
    close(scorer(queries, passages), loops(scorer, queries, passages))


def test_listed_pairs_equal_all_pairs_in_any_order_and_with_repeats(scorer: Scorer) -> None:
    queries, passages = example(scorer)
    query_K, passage_K = torch.tensor(INDEX).T
    expected = loops(scorer, queries, passages)[query_K, passage_K]
    close(scorer.pairs(queries, passages, torch.tensor(INDEX)), expected)
    close(Scorer.pairs(scorer, queries, passages, torch.tensor(INDEX)), expected)  # what one of your own has


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16", "bf16-autocast"])
def test_bf16_embeddings_are_multiplied_and_added_in_float32(scorer: Scorer, autocast: bool) -> None:
    queries, passages = example(scorer, torch.bfloat16)
    expected = loops(scorer, queries, passages)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        everything, listed = scorer(queries, passages), scorer.pairs(queries, passages, torch.tensor(INDEX))
    close(everything, expected)
    close(listed, expected[tuple(torch.tensor(INDEX).T)])


def test_float32_embeddings_are_not_rounded_under_autocast(scorer: Scorer) -> None:
    queries, passages = example(scorer)
    with torch.autocast("cpu", torch.bfloat16):
        everything, listed = scorer(queries, passages), scorer.pairs(queries, passages, torch.tensor(INDEX))
    close(everything, loops(scorer, queries, passages))
    close(listed, everything[tuple(torch.tensor(INDEX).T)])


@pytest.mark.parametrize("scorer", MAXSIMS[:2], ids=name)
def test_a_best_similarity_below_zero_stays_below_zero(scorer: Scorer) -> None:
    """Where a peer offers 0 for padding, the short passage would win by tokens that it does not have."""
    queries = Embeddings(torch.tensor([2]), torch.ones(2, 1))
    passages = Embeddings(torch.tensor([1, 4]), torch.tensor([[-3.0], [-2.0], [-5.0], [-2.5], [-4.0]]))
    expected = [[-6.0, -4.0]] if scorer.reduction == "sum" else [[-3.0, -2.0]]  # type: ignore[attr-defined]
    assert scorer(queries, passages).tolist() == expected
    assert scorer.pairs(queries, passages, torch.tensor([[0, 0], [0, 1]])).tolist() == expected[0]


def test_a_negative_weight_takes_reward_away() -> None:
    queries = Embeddings(torch.tensor([2]), torch.eye(2), torch.tensor([1.0, -0.5]))
    passages = Embeddings(torch.tensor([1, 2]), torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]]))
    assert WeightedMaxSim()(queries, passages).tolist() == [[1.0, 0.5]]
    assert WeightedMaxSim().pairs(queries, passages, torch.tensor([[0, 1], [0, 0]])).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_of_one_are_plain_maxsim(reduction: scoring.Reduction) -> None:
    queries, passages = example(MaxSim())
    ones = Embeddings(queries.lengths_B, queries.values_ND, torch.ones(len(queries.values_ND)))
    assert WeightedMaxSim(reduction)(ones, passages).equal(MaxSim(reduction)(queries, passages))


def test_equal_lengths_of_one_make_maxsim_a_dot() -> None:
    queries, passages = example(Dot())
    torch.testing.assert_close(MaxSim()(queries, passages), Dot()(queries, passages))


def test_gradients_equal_those_of_the_loops(scorer: Scorer) -> None:
    queries, passages = example(scorer)
    inputs = [queries.values_ND, passages.values_ND]
    if isinstance(scorer, WeightedMaxSim):
        inputs.append(queries.weights_N)
    for tensor in inputs:
        tensor.requires_grad_()
    pull_QP = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((loops(scorer, queries, passages) * pull_QP).sum(), inputs)
    actual = torch.autograd.grad((scorer(queries, passages) * pull_QP).sum(), inputs)
    for ours, theirs in zip(actual, expected, strict=True):
        close(ours, theirs)


def test_the_first_of_tied_tokens_takes_the_gradient() -> None:
    """Also where the tied passage is padded, and where every token ties."""
    queries_ND = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    values_ND = torch.tensor([[1.0, 0], [1.0, 0], [5.0, 0], [2.0, 0], [5.0, 0], [7.0, 0]], requires_grad=True)
    scores_NP = best_similarity(queries_ND, Embeddings(torch.tensor([2, 3, 1]), values_ND))
    (scores_NP * torch.tensor([[1.0, 10, 100], [0, 0, 1000]])).sum().backward()
    assert values_ND.grad is not None
    assert values_ND.grad.tolist() == [[1, 0], [0, 0], [10, 0], [0, 0], [0, 0], [100, 1000]]
    assert queries_ND.grad is not None
    assert queries_ND.grad.tolist() == [[1 * 1 + 10 * 5 + 100 * 7, 0], [1000 * 7, 0]]


@pytest.mark.parametrize("max_elements", [1, 33, 70, 100, 10**6])
def test_the_piece_size_changes_neither_similarities_nor_gradients(max_elements: int) -> None:
    queries, passages = example(MaxSim())
    results = []
    for size in (2**24, max_elements):
        inputs = [queries.values_ND.clone().requires_grad_(), passages.values_ND.clone().requires_grad_()]
        best_NP = best_similarity(inputs[0], Embeddings(passages.lengths_B, inputs[1]), size)
        results.append([best_NP, *torch.autograd.grad(best_NP.square().sum(), inputs)])
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("max_elements", [1, 60, 200])
@pytest.mark.parametrize("scorer", MAXSIMS, ids=name)
def test_the_part_size_of_listed_pairs_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, scorer: Scorer, max_elements: int
) -> None:
    monkeypatch.setattr(scoring, "MAX_BLOCK_ELEMENTS", max_elements)
    test_listed_pairs_equal_all_pairs_in_any_order_and_with_repeats(scorer)


class LargestTensor(TorchDispatchMode):
    """Watches the number of elements of every tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [value for value in (result if isinstance(result, tuple) else [result]) if isinstance(value, Tensor)]
        self.elements = max([self.elements, *(value.numel() for value in made)])
        return result


def test_the_similarity_matrix_is_never_whole() -> None:
    """60 query tokens x 3,000 passage tokens are 180,000 similarities; no tensor comes near, forward or backward."""
    for lengths, largest_elements in (([10] * 300, 60 * 300), ([3000], 3000 * 5)):  # winners; the passage itself
        queries, passages = texts([20] * 3, 0), texts(lengths, 1)
        inputs = [queries.values_ND.requires_grad_(), passages.values_ND.requires_grad_()]
        with LargestTensor() as largest:
            best_similarity(inputs[0], passages, max_elements=6000).sum().backward()
        assert largest.elements == largest_elements


def test_winners_beyond_16_bits_are_found() -> None:
    values_ND = torch.zeros(2**15 + 3, 1)
    values_ND[[7, -1], 0] = torch.tensor([2.0, 3.0])
    inputs = [torch.ones(1, 1, requires_grad=True), values_ND.requires_grad_()]
    best_NP = best_similarity(inputs[0], Embeddings(torch.tensor([2**15 + 3]), inputs[1]))
    assert best_NP.tolist() == [[3.0]]
    query_gradient, passage_gradient = torch.autograd.grad(best_NP.sum(), inputs)
    assert query_gradient.tolist() == [[3.0]]
    assert passage_gradient.nonzero().tolist() == [[2**15 + 2, 0]]


def test_listed_pairs_are_scored_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BLOCK_ELEMENTS", 6000)
    index_K2 = torch.cartesian_prod(torch.arange(3), torch.arange(300))
    with LargestTensor() as largest:
        MaxSim().pairs(texts([20] * 3, 0), texts([10] * 300, 1), index_K2)
    assert 1000 <= largest.elements <= 3000 * 5


def test_parts_of_many_listed_pairs_take_no_longer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that are looked at, over all parts: twice as many as there are pairs at most."""
    looked, arange = [], torch.arange
    monkeypatch.setattr(scoring, "MAX_BLOCK_ELEMENTS", 6000)
    queries, passages = texts([20] * 3, 0), texts([10] * 300, 1)
    index_K2 = torch.cartesian_prod(arange(3), arange(300))
    monkeypatch.setattr(torch, "arange", lambda start, end: looked.append(end - start) or arange(start, end))
    parts = list(scoring._pair_parts(queries, passages, index_K2, arange(900)))
    assert len(parts) > 50
    assert sum(looked) <= 2 * 900


def test_a_passage_without_embeddings_is_no_candidate() -> None:
    with pytest.raises(AssertionError, match=r"no best match"):
        MaxSim()(texts([2], 0), texts([0, 2], 1))


class Diagonal(Scorer):
    """A scorer of a user's that scores each query against its own passage only."""

    def forward(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        return (queries.values_ND * passages.values_ND).sum(1)


def test_scores_of_another_shape_than_all_pairs() -> None:
    message = r"the scorer Diagonal returned scores of shape \[3\] for 3 queries and 3 passages; allowed is \[3, 3\]: "
    with pytest.raises(InputError, match=message):
        Diagonal()(texts([1] * 3, 0), texts([1] * 3, 1))
