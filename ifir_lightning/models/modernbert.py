"""ModernBERT on packed texts: transformers' weights, configuration and files, and a forward pass of our own.

The pass computes what transformers' does, with less memory traffic: queries and keys are rotated in one go, nothing is
padded or masked. Compiled, a layer is plain operations, which torch.compile fuses, around attention, which it leaves
alone.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifir_lightning.models.attention import Heads, Layout, packed_attention
from ifir_lightning.records import on_device, segment_rows

ModernBert = Any
"""``transformers.ModernBertModel``, whose parts the type checker does not know."""
Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of each token's angles, [T, 1, 1, width of a head / 2]; of each position's for ``triton``."""


def pack_layers(model: ModernBert) -> None:
    """Let every layer run packed; names of weights stay, so that checkpoints are read and written as ever."""
    model.layers = nn.ModuleList(PackedLayer(layer) for layer in model.layers)


def encode_packed(model: ModernBert, input_ids_T: Tensor, lengths_B: Tensor, layout: Layout) -> Tensor:
    """hidden_TD of the last layer, for texts of ``lengths_B`` tokens (on the CPU) laid end to end."""
    if layout.kernel == "triton":
        position = torch.arange(layout.max_length, device=input_ids_T.device)
    else:
        position = on_device(segment_rows(torch.zeros_like(lengths_B), lengths_B), input_ids_T.device)
    hidden_TD, update_TD = model.embeddings(input_ids_T), None
    rotations = {kind: _rotation(model, hidden_TD, position, kind) for kind in set(model.config.layer_types)}
    for layer in model.layers:
        hidden_TD, update_TD = layer(hidden_TD, update_TD, rotations[layer.attention_type], layout)
    return model.final_norm(hidden_TD + update_TD)


@final
class PackedLayer(nn.Module):
    """A layer of ModernBERT that takes over the modules of transformers' own."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attn_norm, self.attn = layer.attn_norm, layer.attn
        self.mlp_norm, self.mlp = layer.mlp_norm, layer.mlp
        self.attention_type: str = layer.attention_type

    def forward(
        self, hidden_TD: Tensor, update_TD: Tensor | None, rotation: Rotation, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Attention within each text, then the gated MLP, each added to what came in.

        The next layer adds the MLP's part, so that a compiler fuses that sum with the layer's norm.

        Args:
            hidden_TD: Hidden states.
            update_TD: What the layer before adds to them; None before the first.
            rotation: Of each token, or position.
            layout: Where each text begins and ends.
        """
        hidden_TD = hidden_TD if update_TD is None else hidden_TD + update_TD
        hidden_TD = hidden_TD + self._attend(self.attn_norm(hidden_TD), rotation, layout)
        first_TI, second_TI = _parts(self.mlp.Wi, self.mlp_norm(hidden_TD), 2)
        return hidden_TD, self.mlp.Wo(self.mlp.drop(self.mlp.act(first_TI) * second_TI))

    def _attend(self, hidden_TD: Tensor, rotation: Rotation, layout: Layout) -> Tensor:
        attn = self.attn
        dropout = attn.attention_dropout if self.training else 0.0
        scale = attn.head_dim**-0.5
        if layout.kernel == "triton":
            assert layout.tiles is not None
            from ifir_lightning.models.triton_attention import rotary_attention

            qkv_T3HW = attn.Wqkv(hidden_TD).unflatten(-1, (3, -1, attn.head_dim))
            cos_PV, sin_PV = (each[:, 0, 0] for each in rotation)
            heads_THW = rotary_attention(qkv_T3HW, cos_PV, sin_PV, layout.tiles, scale, attn.sliding_window)
        else:
            qkv_THW = rotated_heads(attn.Wqkv, hidden_TD, attn.head_dim, *rotation)
            heads_THW = packed_attention(qkv_THW, layout, scale, dropout, attn.sliding_window)
        return attn.out_drop(attn.Wo(heads_THW.flatten(1)))


def rotated_heads(linear: nn.Module, hidden_TD: Tensor, width: int, cos: Tensor, sin: Tensor) -> Heads:
    """Queries, keys and values; queries and keys rotated by their token's angles (Su et al. 2021).

    The dimensions of queries and keys may come out in another order, the same for both: their products are as ever.
    """
    if torch.compiler.is_compiling():
        query_THW, key_THW, value_THW = (part.unflatten(-1, (-1, width)) for part in _parts(linear, hidden_TD, 3))
        angles = (cos[:, 0], sin[:, 0])
        return _rotated_half_by_half(query_THW, *angles), _rotated_half_by_half(key_THW, *angles), value_THW
    qkv_TK = _paired_product(linear, hidden_TD, width)
    return _Rotate.apply(qkv_TK.unflatten(-1, (3, -1, width)), cos[:, 0], sin[:, 0])


def _paired_product(linear: nn.Module, hidden_TD: Tensor, width: int) -> Tensor:
    """Queries, keys and values in pairs, by way of the shorter of weight and product."""
    if type(linear) is nn.Linear and linear.bias is None and len(hidden_TD) > len(linear.weight):
        return F.linear(hidden_TD, _in_pairs(linear.weight, width, dim=0))
    return _in_pairs(linear(hidden_TD), width, dim=1)


def _in_pairs(qkv: Tensor, width: int, dim: int) -> Tensor:
    """Of each head of queries and keys: the two dimensions that turn together, half a head apart, as neighbours."""
    qk, values = qkv.unflatten(dim, (3, -1, 2, width // 2)).split((2, 1), dim)
    return torch.cat([each.flatten(dim, dim + 3) for each in (qk.transpose(dim + 2, dim + 3), values)], dim)


def _parts(linear: nn.Module, hidden_TD: Tensor, number: int) -> tuple[Tensor, ...]:
    """The product in equal parts. Compiled, by a product each: to lay their gradients side by side takes longer."""
    if torch.compiler.is_compiling() and type(linear) is nn.Linear and linear.bias is None:
        return tuple(F.linear(hidden_TD, weight) for weight in linear.weight.chunk(number))
    return linear(hidden_TD).chunk(number, dim=-1)


def _rotated_half_by_half(heads_THW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``_Rotate``, in terms that a compiler makes one pass of, backward too."""
    heads_TH2V = heads_THW.unflatten(-1, (2, -1))
    sign_21 = torch.arange(-1, 2, 2, device=heads_THW.device)[:, None]
    rotated_TH2V = heads_TH2V * cos[:, :, None] + heads_TH2V.flip(-2) * (sign_21 * sin[:, :, None])
    return rotated_TH2V.flatten(-2).to(heads_THW.dtype)


def _rotation(model: ModernBert, hidden_TD: Tensor, position_T: Tensor, kind: str) -> Rotation:
    """transformers says every angle twice, for the two halves of a head."""
    cos, sin = model.rotary_emb(hidden_TD, position_T[None], kind)
    half = cos.shape[-1] // 2
    return cos[0, :, None, None, :half], sin[0, :, None, None, :half]


class _Rotate(torch.autograd.Function):
    """To turn the pair (x, y) by an angle is to multiply x + iy by cos + i sin: one pass over memory."""

    @staticmethod
    def forward(ctx: Any, qkv_T3HW: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        return _rotated(qkv_T3HW.unbind(1), cos, sin).unbind(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of a rotation is the rotation back."""
        cos, sin = ctx.saved_tensors
        return _rotated([each_THW.contiguous() for each_THW in gradients], cos, -sin), None, None


def _rotated(qkv_THW: Sequence[Tensor], cos: Tensor, sin: Tensor) -> Tensor:
    """qkv_T3HW: products and sums in float32 or better, rounded once."""
    *rotating, value_THW = qkv_THW
    precision = torch.promote_types(torch.promote_types(value_THW.dtype, cos.dtype), torch.float32)
    angle_T1V = torch.complex(cos.to(precision), sin.to(precision))
    rotated_T3HW = value_THW.new_empty(len(value_THW), 3, *value_THW.shape[1:])
    for each_THW, rotated_THW in zip(rotating, rotated_T3HW.unbind(1), strict=False):
        if precision == rotated_THW.dtype:
            torch.mul(_complex(each_THW), angle_T1V, out=_complex(rotated_THW))
        else:
            rotated_THW.copy_(torch.view_as_real(_complex(each_THW.to(precision)) * angle_T1V).flatten(-2))
    rotated_T3HW[:, 2] = value_THW
    return rotated_T3HW


def _complex(heads_THW: Tensor) -> Tensor:
    return torch.view_as_complex(heads_THW.unflatten(-1, (-1, 2)))
