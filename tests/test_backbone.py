"""A packed batch has the hidden states and gradients of Hugging Face's padded model, however it is arranged."""

from pathlib import Path

import pytest
import torch
from conftest import random_tokens
from small import load_backbone
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import rotate_half

from ifir_lightning.models.backbone import Backbone
from ifir_lightning.models.modernbert import rotated_heads
from ifir_lightning.records import Tokens

# The window of fixture ``modernbert`` reaches 8 tokens: 9 is the last length that it does not cut.
LENGTHS = [3, 18, 9, 1, 10, 40, 9, 8, 2, 17, 10, 70, 1]


@pytest.fixture
def packed(modernbert: Path) -> Backbone:
    return load_backbone(modernbert).eval()


@pytest.fixture(params=["modernbert", "bert"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def hugging_face(checkpoint: Path) -> PreTrainedModel:
    return AutoModel.from_pretrained(checkpoint, attn_implementation="sdpa", dtype=torch.float32).eval()


def padded_states(model: PreTrainedModel, tokens: Tokens) -> Tensor:
    """Hidden states of real tokens, by one padded rectangle."""
    texts = tokens.input_ids_T.split(tokens.lengths_B.tolist())
    input_ids_BL = pad_sequence(list(texts), batch_first=True)
    mask_BL = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    return model(input_ids=input_ids_BL, attention_mask=mask_BL).last_hidden_state[mask_BL.bool()]


def states(backbone: Backbone, tokens: Tokens) -> Tensor:
    hidden = backbone(tokens)
    assert hidden.lengths_B.equal(tokens.lengths_B)
    assert hidden.keep_T.equal(tokens.keep_T)
    return hidden.values_TD


def gradients(model: torch.nn.Module, states_TD: Tensor) -> dict[str, Tensor]:
    """Of a loss in which every number of every token counts differently."""
    weights_TD = torch.randn(states_TD.shape, generator=torch.Generator().manual_seed(5))
    (states_TD * weights_TD).sum().div(len(states_TD)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_forward_equals_the_padded_model(checkpoint: Path) -> None:
    tokens = random_tokens(LENGTHS)
    ours, theirs = states(load_backbone(checkpoint).eval(), tokens), padded_states(hugging_face(checkpoint), tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_parameter_gradients_equal_those_of_the_padded_model(checkpoint: Path) -> None:
    tokens = random_tokens(LENGTHS)
    backbone, reference = load_backbone(checkpoint).eval(), hugging_face(checkpoint)
    ours = gradients(backbone.model, states(backbone, tokens))
    theirs = gradients(reference, padded_states(reference, tokens))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours[name] / scale, expected / scale, atol=1e-5, rtol=0, msg=lambda m, n=name: n + m)


def test_every_parameter_has_a_gradient(checkpoint: Path) -> None:
    """DDP refuses the others: BERT's pooler would be two of them."""
    backbone = load_backbone(checkpoint)
    gradients(backbone, states(backbone, random_tokens([4, 30])))
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("length", [1, 8, 9, 10, 11, 60])
def test_a_text_alone_equals_the_padded_model(packed: Backbone, modernbert: Path, length: int) -> None:
    tokens = random_tokens([length], seed=length)
    torch.testing.assert_close(
        states(packed, tokens), padded_states(hugging_face(modernbert), tokens), atol=1e-5, rtol=0
    )


def test_the_order_of_texts_changes_nothing(checkpoint: Path) -> None:
    backbone, tokens = load_backbone(checkpoint).eval(), random_tokens(LENGTHS)
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(0))
    expected = backbone(tokens).select(order).values_TD
    torch.testing.assert_close(states(backbone, tokens.select(order)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(1,) * 13, (6, 7), (12, 1)], ids=str)
def test_the_chunks_that_texts_are_encoded_in_change_nothing(checkpoint: Path, sizes: tuple[int, ...]) -> None:
    backbone, tokens = load_backbone(checkpoint).eval(), random_tokens(LENGTHS)
    chunks = torch.cat([states(backbone, part) for part in tokens.split(*sizes)])
    torch.testing.assert_close(chunks, states(backbone, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_padded_tokens", [1, 40, 100, 10**6])
def test_the_size_of_padded_rectangles_changes_nothing(bert: Path, max_padded_tokens: int) -> None:
    tokens = random_tokens(LENGTHS)
    ours = states(load_backbone(bert, max_padded_tokens=max_padded_tokens).eval(), tokens)
    torch.testing.assert_close(ours, padded_states(hugging_face(bert), tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_padded_tokens", [30, 100])
def test_padded_rectangles_keep_to_their_size(bert: Path, max_padded_tokens: int) -> None:
    backbone, sizes = load_backbone(bert, max_padded_tokens=max_padded_tokens), []
    backbone.model.register_forward_pre_hook(
        lambda _, args, inputs: sizes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    backbone(random_tokens(LENGTHS))
    assert sum(rows for rows, _ in sizes) == len(LENGTHS)
    assert all(rows * length <= max_padded_tokens or rows == 1 for rows, length in sizes)


def test_a_packed_model_run_by_transformers_fails_instead_of_mixing_texts(packed: Backbone) -> None:
    """transformers takes ``position_ids`` alone without a word, and lets every token see every text."""
    tokens = random_tokens([3, 5])
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    with pytest.raises(TypeError, match=r"PackedLayer.forward"):
        packed.model(input_ids=tokens.input_ids_T[None], position_ids=position_ids)


def test_positions_begin_anew_with_every_text(packed: Backbone) -> None:
    """Rotary positions are relative, so numbers do not show it until long batches cost them their precision."""
    seen = []
    packed.model.rotary_emb.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].tolist()))
    packed(random_tokens([3, 1, 2]))
    assert seen == 2 * [[[0, 0, 1, 0, 1, 2]]]


def test_no_text_sees_another(packed: Backbone) -> None:
    tokens, other = random_tokens([12, 20, 12]), random_tokens([12, 20, 12], seed=9)
    changed = Tokens.concat([tokens.split(2, 1)[0], other.split(2, 1)[1]])
    assert states(packed, changed)[:32].equal(states(packed, tokens)[:32])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_tokens", [5, 100])
def test_rotation_equals_that_of_transformers(num_tokens: int, bias: bool) -> None:
    """Its dimensions are in another order: what must be equal are products of queries and keys, values, gradients.

    100 tokens are more than the 96 rows of the weight, which is then laid in pairs instead of the product.
    """
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 96, bias=bias).double()
    hidden_TD = torch.randn(num_tokens, 32, dtype=torch.float64, requires_grad=True)
    angle_TV = torch.randn(num_tokens, 8, dtype=torch.float64)

    def found(query_THW: Tensor, key_THW: Tensor, value_THW: Tensor) -> list[Tensor]:
        products_HTT = torch.einsum("thw,uhw->htu", query_THW, key_THW)
        loss = products_HTT.sin().sum() + (products_HTT @ value_THW.transpose(0, 1)).cos().sum()
        return [products_HTT, value_THW, *torch.autograd.grad(loss, [hidden_TD, *linear.parameters()])]

    *turning, value_THW = linear(hidden_TD).unflatten(-1, (3, 2, 16)).unbind(1)
    cos_T1W, sin_T1W = (torch.cat([each, each], dim=-1)[:, None] for each in (angle_TV.cos(), angle_TV.sin()))
    query_THW, key_THW = (each * cos_T1W + rotate_half(each) * sin_T1W for each in turning)
    theirs = found(query_THW, key_THW, value_THW)
    cos, sin = (each[:, None, None] for each in (angle_TV.cos(), angle_TV.sin()))
    torch.testing.assert_close(found(*rotated_heads(linear, hidden_TD, 16, cos, sin)), theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_runs_and_is_near_float32(checkpoint: Path, autocast: bool) -> None:
    backbone, tokens = load_backbone(checkpoint).eval(), random_tokens(LENGTHS)
    exact = states(backbone, tokens)
    if not autocast:
        backbone.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        near = states(backbone, tokens).float()
    similarity = torch.cosine_similarity(near, exact, dim=-1)
    assert 0.99 < similarity.mean() < 1
