"""Re-ranking equals a slow loop over listed pairs, whatever is encoded together and on however many ranks."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ranks import on_ranks
from small import HEADS, WORDS, Head, retriever

from ifir_lightning import reranking
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Run
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Embeddings, Passage, Tokens
from ifir_lightning.reranking import Reranker

NUM_PASSAGES = 11  # 3 slices of 4 with one missing
SLICE = 4


def text(seed: int, length: int) -> str:
    return " ".join(WORDS[(seed * 7 + i * (seed + 1)) % len(WORDS)] for i in range(length))


LENGTHS = (2, 15, 5, 10)  # sorting them is not its own inverse
QUERIES = {f"{i}-og": (text(i, 2), text(i + 50, length)) for i, length in enumerate(LENGTHS)}
PASSAGES = {
    f"p{number}": Passage(f"p{number}", "", text(number, 1 + 5 * number % 23)) for number in range(NUM_PASSAGES)
}
PASSAGES["unlisted"] = Passage("unlisted", "", "never read")
CANDIDATES = {
    "0-og": [f"p{number}" for number in range(NUM_PASSAGES)],
    "1-og": ["p3", "p9", "p0"],
    "2-og": ["p9"],
    "3-og": [f"p{number}" for number in range(0, NUM_PASSAGES, 2)],
}


def reranker(module: RetrieverModule, max_tokens: int = 40) -> Reranker:
    return Reranker(module.retriever, max_tokens)


def ready(backbone: Path, head: Head) -> RetrieverModule:
    return retriever(backbone, head).eval()


def slow_run(module: RetrieverModule, head: Head) -> Run:
    """Every text alone, every pair by loops over tokens in float64."""
    with torch.no_grad():
        queries = {id_: module.retriever(module.retriever.tokenizer.queries([query])) for id_, query in QUERIES.items()}
        passages = {
            id_: module.retriever(module.retriever.tokenizer.passages([passage])) for id_, passage in PASSAGES.items()
        }
    return {q: {p: slow_score(queries[q], passages[p], head) for p in CANDIDATES[q]} for q in QUERIES}


def slow_score(query: Embeddings, passage: Embeddings, head: Head) -> float:
    if head == "bi-encoder":
        return F.cosine_similarity(query.values_ND[0].double(), passage.values_ND[0].double(), dim=0).item()
    weights = [1.0] * len(query.values_ND) if query.weights_N is None else query.weights_N.tolist()
    total = 0.0
    for vector, weight in zip(query.values_ND.double(), weights, strict=True):
        total += weight * max((vector @ other).item() for other in passage.values_ND.double())
    return total / len(query.values_ND)


@pytest.mark.parametrize("head", HEADS)
def test_a_run_equals_the_slow_loop_over_listed_pairs(modernbert: Path, head: Head) -> None:
    module = ready(modernbert, head)
    run, cut = reranker(module)(QUERIES, PASSAGES, CANDIDATES)
    expected = slow_run(module, head)
    assert cut == 0.0
    assert list(run) == list(QUERIES)
    for query_id, scores in expected.items():
        assert run[query_id].keys() == set(CANDIDATES[query_id])
        assert run[query_id] == pytest.approx(scores, abs=2e-6)


@pytest.mark.parametrize("head", HEADS)
def test_texts_encoded_at_a_time_change_nothing(modernbert: Path, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ready(modernbert, head)
    whole, _ = reranker(module, 10**6)(QUERIES, PASSAGES, CANDIDATES)
    for max_tokens, texts_per_slice in ((1, 128), (40, 128), (10**6, 3), (25, 1)):
        monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", texts_per_slice)
        run, _ = reranker(module, max_tokens)(QUERIES, PASSAGES, CANDIDATES)
        for query_id, scores in whole.items():
            assert run[query_id] == pytest.approx(scores, abs=2e-6)


def listen(module: RetrieverModule, heard: Callable[[Tokens], None]) -> None:
    """Tell ``heard`` of all tokens that are encoded."""
    forward = module.retriever.forward

    def listening(tokens: Tokens) -> Embeddings:
        heard(tokens)
        return forward(tokens)

    module.retriever.forward = listening  # type: ignore[method-assign]


def test_no_chunk_exceeds_max_tokens_unless_it_is_one_text(modernbert: Path) -> None:
    module, seen = ready(modernbert, "maxsim"), []
    listen(module, lambda tokens: seen.append(tokens.lengths_B.tolist()))
    reranker(module, max_tokens=20)(QUERIES, PASSAGES, CANDIDATES)
    assert all(sum(lengths) <= 20 or len(lengths) == 1 for lengths in seen)
    assert any(sum(lengths) > 20 for lengths in seen)
    assert any(len(lengths) > 1 for lengths in seen)


def encoded_texts(backbone: Path) -> tuple[Counter[tuple[int, ...]], int]:
    """How often this rank encoded each text, and how many passages it reported as done."""
    module = ready(backbone, "bi-encoder")
    texts: Counter[tuple[int, ...]] = Counter()
    done: list[int] = []
    listen(module, lambda tokens: texts.update(tuple(t.input_ids_T.tolist()) for t in tokens.split(*[1] * len(tokens))))
    reranking.TEXTS_PER_SLICE = SLICE
    reranker(module)(QUERIES, PASSAGES, CANDIDATES, done.append)
    return texts, sum(done)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_each_listed_passage_is_encoded_once_by_one_rank(
    modernbert: Path, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", SLICE)  # and restored
    results = [encoded_texts(modernbert)] if num_ranks == 1 else on_ranks(num_ranks, encoded_texts, modernbert)
    tokenizer = retriever(modernbert).retriever.tokenizer
    once = Counter(ids(tokenizer.passages([PASSAGES[f"p{number}"]])) for number in range(NUM_PASSAGES))
    queries = Counter(ids(tokenizer.queries([query])) for query in QUERIES.values())
    assert sum((texts for texts, _ in results), Counter()) == once + Counter(
        {query: num_ranks * count for query, count in queries.items()}
    )
    assert sum(done for _, done in results) == NUM_PASSAGES
    assert all(done for _, done in results)


def ids(tokens: Tokens) -> tuple[int, ...]:
    return tuple(tokens.input_ids_T.tolist())


def reranked(backbone: Path, head: Head) -> tuple[Run, float]:
    reranking.TEXTS_PER_SLICE = SLICE
    return reranker(ready(backbone, head))(QUERIES, PASSAGES, CANDIDATES)


@pytest.mark.parametrize("head", HEADS)
def test_the_number_of_ranks_changes_no_bit(modernbert: Path, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", SLICE)  # and restored
    alone = reranked(modernbert, head)
    assert on_ranks(2, reranked, modernbert, head) == [alone, alone]
    if head == "bi-encoder":
        assert on_ranks(4, reranked, modernbert, head) == [alone] * 4  # one rank without a passage


def test_the_share_of_passage_tokens_that_the_limit_cut(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", SLICE)
    module = ready(modernbert, "bi-encoder")
    full = [len(ids(module.retriever.tokenizer.passages([PASSAGES[f"p{number}"]]))) for number in range(NUM_PASSAGES)]
    module.retriever.tokenizer.format = replace(module.retriever.tokenizer.format, max_passage_length=10)
    _, cut = reranker(module)(QUERIES, PASSAGES, CANDIDATES)
    assert cut == sum(max(0, length - 10) for length in full) / sum(full)


@pytest.mark.parametrize("head", HEADS)
def test_tokenising_ahead_changes_no_bit(modernbert: Path, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(function: Callable, items: Iterable) -> Iterator:
        for item in items:
            yield function(item)

    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", 2)
    ahead = reranker(ready(modernbert, head))(QUERIES, PASSAGES, CANDIDATES)
    monkeypatch.setattr(reranking, "_ahead", in_turn)
    assert reranker(ready(modernbert, head))(QUERIES, PASSAGES, CANDIDATES) == ahead


def test_the_next_two_slices_are_tokenised_while_one_is_encoded(
    modernbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", 1)
    module, tokenised = ready(modernbert, "maxsim"), threading.Semaphore(0)
    passages = module.retriever.tokenizer.passages

    def counted(texts: Iterable[Passage]) -> Tokens:
        tokenised.release()
        return passages(texts)

    module.retriever.tokenizer.passages = counted  # type: ignore[method-assign]
    waited = []

    def at_first_passage(num_passages: int) -> None:
        if not waited:  # three slices: the one that is done, and two more before another is asked for
            waited.extend(tokenised.acquire(timeout=20) for _ in range(3))

    reranker(module)(QUERIES, PASSAGES, CANDIDATES, at_first_passage)
    assert waited == [True] * 3


def test_an_error_while_tokenising_surfaces_as_itself(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", 2)
    module, threads, done = ready(modernbert, "maxsim"), set(threading.enumerate()), []
    passages = module.retriever.tokenizer.passages

    def refusing(texts: Iterable[Passage]) -> Tokens:
        listed = list(texts)
        if any(passage.id == "p5" for passage in listed):
            raise InputError("passage p5 is refused")
        return passages(listed)

    module.retriever.tokenizer.passages = refusing  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"^passage p5 is refused$"):
        reranker(module)(QUERIES, PASSAGES, CANDIDATES, done.append)
    assert 0 < sum(done) < NUM_PASSAGES  # the slices before it were encoded
    assert set(threading.enumerate()) <= threads


def test_the_thread_ends_when_encoding_fails(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", 1)
    module, threads, tokenised = ready(modernbert, "maxsim"), set(threading.enumerate()), []
    passages = module.retriever.tokenizer.passages

    def counted(texts: Iterable[Passage]) -> Tokens:
        tokenised.append(1)
        return passages(texts)

    def out_of_memory(num_passages: int) -> None:
        raise RuntimeError("out of memory")

    module.retriever.tokenizer.passages = counted  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        reranker(module)(QUERIES, PASSAGES, CANDIDATES, out_of_memory)
    assert set(threading.enumerate()) <= threads
    assert len(tokenised) <= 3  # the first slice and the two after it, of 11


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_of_passages_are_forgotten(modernbert: Path, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "TEXTS_PER_SLICE", 2)
    module, made, alive = ready(modernbert, head), [], []
    forward = module.retriever.forward

    def remembering(tokens: Tokens) -> Embeddings:
        embeddings = forward(tokens)
        made.append(weakref.ref(embeddings.values_ND))
        return embeddings

    module.retriever.forward = remembering  # type: ignore[method-assign]
    reranker(module)(QUERIES, PASSAGES, CANDIDATES, lambda _: alive.append(sum(ref() is not None for ref in made)))
    assert len(alive) >= 5
    assert len(made) > len(alive)  # those of the queries, which are copied into one
    assert max(alive) == 0


def test_scores_stay_float32_under_bf16_autocast(modernbert: Path) -> None:
    module = ready(modernbert, "maxsim")
    with torch.autocast("cpu", torch.bfloat16):
        run, _ = reranker(module)(QUERIES, PASSAGES, CANDIDATES)
    scores = torch.tensor([score for scores in run.values() for score in scores.values()])
    assert (scores.bfloat16().float() != scores).float().mean() > 0.5
