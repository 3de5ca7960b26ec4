"""A training batch encoded in chunks, each computed again in the backward pass: the gradients of the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens
from ranks import on_ranks
from small import DROPOUT, HEADS, TINY, Head, make_head, retriever, synthetic_data, trainer
from torch import Tensor

from ifir_lightning import retriever as retriever_file
from ifir_lightning.errors import InputError
from ifir_lightning.models.backbone import BackboneSettings
from ifir_lightning.records import Embeddings, Tokens, token_chunks
from ifir_lightning.retriever import Retriever, build_retriever

LENGTHS = [5, 9, 3, 7, 20, 4, 4, 11]


def build(folder: Path, head: Head, dropout: bool, max_tokens: int | None, packed: bool = True) -> Retriever:
    settings: dict[str, Any] = {"max_tokens_per_chunk": max_tokens}
    if packed:
        settings |= {"config": TINY | (DROPOUT if dropout else {}), "tokenizer": str(folder)}
    return build_retriever(None if packed else str(folder), BackboneSettings(**settings), *make_head(head)).train()


def gradients(model: Retriever, embeddings: Embeddings) -> dict[str, Tensor]:
    """Of a weighted sum of all rows, whose order therefore matters."""
    weights_N = torch.linspace(0.5, 2.0, len(embeddings.values_ND))
    total = (embeddings.values_ND.sum(1) * weights_N).sum()
    if embeddings.weights_N is not None:
        total = total + (embeddings.weights_N * weights_N).sum()
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_equal(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5 * scale, rtol=1e-5, msg=name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("packed", [True, False], ids=["modernbert", "bert"])
@pytest.mark.parametrize("max_tokens", [1, 16, 40, 10**6])
def test_chunks_equal_the_whole(max_tokens: int, packed: bool, head: Head, modernbert: Path, bert: Path) -> None:
    folder, tokens = modernbert if packed else bert, random_tokens(LENGTHS)
    whole = build(folder, head, False, None, packed).eval()
    chunked = build(folder, head, False, max_tokens, packed).eval()
    torch.testing.assert_close(chunked(tokens).values_ND, whole(tokens).values_ND, atol=1e-6, rtol=1e-5)
    check_equal(gradients(chunked, chunked(tokens)), gradients(whole, whole(tokens)))


@pytest.mark.parametrize("max_tokens", [16, 40])
def test_chunks_are_computed_again_with_the_same_dropout(max_tokens: int, modernbert: Path) -> None:
    """Against the same chunks, one after the other, whose activations are kept."""
    tokens = random_tokens(LENGTHS)
    chunked, kept = (build(modernbert, "weighted", True, each) for each in (max_tokens, None))
    torch.manual_seed(3)
    ours = gradients(chunked, chunked(tokens))
    torch.manual_seed(3)
    chunks = list(token_chunks(tokens.lengths_B, max_tokens))
    parts = Embeddings.concat([kept(tokens.select(chunk)) for chunk in chunks])
    expected = gradients(kept, parts.select(torch.cat(chunks).argsort()))
    check_equal(ours, expected)
    torch.manual_seed(4)
    kept.zero_grad()
    with pytest.raises(AssertionError):
        check_equal(ours, gradients(kept, kept(tokens)))


def test_recomputation_is_given_a_tensor_of_the_device(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU, torch keeps the random numbers for those only that it sees among the arguments, not within Tokens."""
    given, recompute = [], retriever_file.recompute

    def listening(function: Any, *arguments: Any, **options: Any) -> Any:
        given.append(arguments)
        return recompute(function, *arguments, **options)

    monkeypatch.setattr(retriever_file, "recompute", listening)
    build(modernbert, "maxsim", False, 16)(random_tokens(LENGTHS))
    assert given
    assert all(torch.is_tensor(arguments[0]) for arguments in given)
    given.clear()
    build(modernbert, "maxsim", False, sum(LENGTHS))(random_tokens(LENGTHS))
    assert not given, "a batch that is one chunk is computed twice"


def test_no_chunk_is_larger_than_asked(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build(modernbert, "maxsim", False, 16), []
    forward = model.backbone.forward

    def listening(tokens: Tokens) -> Any:
        seen.append(tokens.lengths_B.tolist())
        return forward(tokens)

    monkeypatch.setattr(model.backbone, "forward", listening)
    embeddings = model(random_tokens(LENGTHS))
    assert sorted(length for lengths in seen for length in lengths) == sorted(LENGTHS)
    assert all(sum(lengths) <= 16 or len(lengths) == 1 for lengths in seen)
    forwards = len(seen)
    gradients(model, embeddings)
    assert len(seen) == 2 * forwards
    with torch.no_grad():
        model(random_tokens(LENGTHS))
    assert len(seen) == 2 * forwards + 1, "without gradients there is nothing to save"


def trained(folder: Path, backbone: Path, max_tokens: int | None) -> dict[str, Tensor]:
    module = retriever(backbone, "weighted")
    module.retriever.backbone.max_tokens_per_chunk = max_tokens
    trainer(folder, max_steps=3).fit(module, synthetic_data())
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_training_in_chunks_equals_training_at_once(num_ranks: int, modernbert: Path, tmp_path: Path) -> None:
    """Under DDP too, where each parameter's gradient is reduced once however many chunks there are."""
    expected = trained(tmp_path / "whole", modernbert, None)
    if num_ranks == 1:
        ours = trained(tmp_path / "chunks", modernbert, 32)
    else:
        (ours, _) = on_ranks(2, trained, tmp_path / "ranks", modernbert, 32)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, atol=2e-4, rtol=0, msg=name)


def test_a_chunk_of_nothing_is_refused(modernbert: Path) -> None:
    with pytest.raises(InputError, match=r"max_tokens_per_chunk is 0; allowed is 1 or more"):
        build(modernbert, "maxsim", False, 0)
