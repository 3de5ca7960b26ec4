"""Poolings against loops over texts, and PyLate's projection read from its folder."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ifir_lightning.errors import InputError
from ifir_lightning.models.pooling import CLSPooling, LastTokenPooling, MeanPooling, Pooling, TokenProjection
from ifir_lightning.records import Hidden

LENGTHS = [3, 1, 7, 2]
WIDTH = 6


def hidden() -> Hidden:
    """States of random texts; a skiplist drops every third token."""
    values_TD = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(0))
    return Hidden(torch.tensor(LENGTHS), values_TD, torch.arange(sum(LENGTHS)) % 3 != 1)


def texts(hidden: Hidden) -> list[Tensor]:
    return list(hidden.values_TD.split(hidden.lengths_B.tolist()))


def built(**settings: Any) -> TokenProjection:
    torch.manual_seed(1)
    pooling = TokenProjection(**settings)
    pooling.build(WIDTH)
    return pooling


def test_mean_equals_a_loop_in_float64() -> None:
    expected = [[sum(column) / len(column) for column in zip(*text.tolist(), strict=True)] for text in texts(hidden())]
    actual = MeanPooling()(hidden()).values_ND.double()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_mean_equals_the_formula_of_sentence_transformers() -> None:
    """sum(m * h) / max(sum(m), 1e-9) over padded texts."""
    padded_BLD = pad_sequence(texts(hidden()), batch_first=True, padding_value=99.0)
    mask_BL1 = pad_sequence([torch.ones(n, 1) for n in LENGTHS], batch_first=True)
    expected_BD = (padded_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1e-9)
    torch.testing.assert_close(MeanPooling()(hidden()).values_ND, expected_BD)


def test_mean_adds_up_in_float32_whatever_the_states_are() -> None:
    """In bf16 a sum of ones stops at 256."""
    ones = Hidden(torch.tensor([1000]), torch.ones(1000, 2, dtype=torch.bfloat16), torch.ones(1000, dtype=torch.bool))
    mean = MeanPooling()(ones).values_ND
    assert mean.dtype == torch.float32
    assert mean.tolist() == [[1.0, 1.0]]


def test_mean_gives_every_token_an_equal_share_of_the_gradient() -> None:
    states = hidden()
    states.values_TD.requires_grad_()
    MeanPooling()(states).values_ND.sum().backward()
    expected = torch.cat([torch.full((n, WIDTH), 1 / n) for n in LENGTHS])
    torch.testing.assert_close(states.values_TD.grad, expected)


@pytest.mark.parametrize(("pooling", "place"), [(CLSPooling(), 0), (LastTokenPooling(), -1)], ids=["cls", "last"])
def test_one_token_of_every_text(pooling: Pooling, place: int) -> None:
    assert pooling(hidden()).values_ND.equal(torch.stack([text[place] for text in texts(hidden())]))


@pytest.mark.parametrize("pooling", [MeanPooling(), CLSPooling(), LastTokenPooling()], ids=lambda p: type(p).__name__)
def test_pooling_to_one_vector_does_not_look_at_the_skiplist(pooling: Pooling) -> None:
    unskipped = Hidden(hidden().lengths_B, hidden().values_TD, torch.ones(sum(LENGTHS), dtype=torch.bool))
    pooled = pooling(hidden())
    assert pooled.values_ND.equal(pooling(unskipped).values_ND)
    assert pooled.lengths_B.tolist() == [1, 1, 1, 1]


def test_projection_equals_a_loop_over_kept_tokens() -> None:
    pooling = built(dim=4, bias=True)
    weight, bias = pooling.layers[0].linear.weight.double(), pooling.layers[0].linear.bias.double()
    expected = []
    for state, keep in zip(hidden().values_TD.double(), hidden().keep_T, strict=True):
        if keep:
            projected = torch.stack([(row * state).sum() for row in weight]) + bias
            expected.append(projected / projected.square().sum().sqrt())
    torch.testing.assert_close(pooling(hidden()).values_ND.double(), torch.stack(expected), atol=1e-6, rtol=0)


def test_lengths_count_the_kept_tokens_of_each_text() -> None:
    """keep_T drops tokens 1, 4, 7, 10 of texts that begin at 0, 3, 4 and 11."""
    assert built()(hidden()).lengths_B.tolist() == [2, 1, 4, 2]


def test_a_text_that_loses_all_its_tokens_has_no_embedding() -> None:
    states = Hidden(torch.tensor([1, 2]), torch.ones(3, WIDTH), torch.tensor([False, True, True]))
    assert built()(states).lengths_B.tolist() == [0, 2]


def test_without_normalize_the_projection_is_left_as_it_is() -> None:
    pooling = built(dim=4, normalize=False)
    expected = hidden().values_TD[hidden().keep_T] @ pooling.layers[0].linear.weight.T
    torch.testing.assert_close(pooling(hidden()).values_ND, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_the_projection_has_a_bias_if_asked(bias: bool) -> None:
    assert (built(dim=5, bias=bias).layers[0].linear.bias is not None) == bias


def test_layers_are_dense() -> None:
    with pytest.raises(InputError, match=r"model\.pooling layers hold Linear\(.*\); allowed are layers of Dense: give"):
        TokenProjection(layers=[torch.nn.Linear(WIDTH, 4)]).build(WIDTH)  # type: ignore[list-item]


def test_token_weights_start_at_exactly_one() -> None:
    embeddings = built(token_weights=True)(hidden())
    assert embeddings.weights_N is not None
    assert embeddings.weights_N.tolist() == [1.0] * len(embeddings.values_ND)
    assert embeddings.weights_N.dtype == torch.float32


def test_token_weights_receive_the_gradient_of_a_linear_layer() -> None:
    pooling = built(token_weights=True)
    pull_N = torch.arange(1.0, 10.0)
    (pooling(hidden()).weights_N * pull_N).sum().backward()
    kept_ND = hidden().values_TD[hidden().keep_T]
    torch.testing.assert_close(pooling.weight.weight.grad, (pull_N[:, None] * kept_ND).sum(0, keepdim=True))
    assert pooling.weight.bias.grad.tolist() == [pull_N.sum()]


def test_without_token_weights_there_are_none() -> None:
    pooling = built()
    assert pooling(hidden()).weights_N is None
    assert not pooling.has_weights
    assert pooling.weight is None
