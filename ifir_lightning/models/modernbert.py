"""ModernBERT on packed texts: transformers' weights, configuration and files, and a forward pass of our own.

The pass computes what transformers' does, with less memory traffic: queries and keys are rotated in one go, nothing is
padded or masked. Compiled, a layer is plain operations, which torch.compile fuses, around attention, which it leaves
alone.
"""

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
    hidden_TD = model.embeddings(input_ids_T)
    rotations = {kind: _rotation(model, hidden_TD, position, kind) for kind in set(model.config.layer_types)}
    for layer in model.layers:
        hidden_TD = layer(hidden_TD, rotations[layer.attention_type], layout)
    return model.final_norm(hidden_TD)


@final
class PackedLayer(nn.Module):
    """A layer of ModernBERT that takes over the modules of transformers' own."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attn_norm, self.attn = layer.attn_norm, layer.attn
        self.mlp_norm, self.mlp = layer.mlp_norm, layer.mlp
        self.attention_type: str = layer.attention_type

    def forward(self, hidden_TD: Tensor, rotation: Rotation, layout: Layout) -> Tensor:
        """Attention within each text, then the gated MLP, each added to what came in."""
        hidden_TD = hidden_TD + self._attend(self.attn_norm(hidden_TD), rotation, layout)
        first_TI, second_TI = _parts(self.mlp.Wi, self.mlp_norm(hidden_TD), 2)
        return hidden_TD + self.mlp.Wo(self.mlp.drop(self.mlp.act(first_TI) * second_TI))

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
    """Queries, keys and values; queries and keys turned by their token's angles (Su et al. 2021)."""
    if not torch.compiler.is_compiling():
        qkv_T3HW = linear(hidden_TD).unflatten(-1, (3, -1, width))
        query_THW, key_THW, value_THW = _Rotate.apply(qkv_T3HW, cos, sin).unbind(1)
        return query_THW, key_THW, value_THW
    query_THW, key_THW, value_THW = (part.unflatten(-1, (-1, width)) for part in _parts(linear, hidden_TD, 3))
    angles = (cos[:, 0], sin[:, 0])
    return _turned_half_by_half(query_THW, *angles), _turned_half_by_half(key_THW, *angles), value_THW


def _parts(linear: nn.Module, hidden_TD: Tensor, number: int) -> tuple[Tensor, ...]:
    """The product in equal parts. Compiled, by a product each: to lay their gradients side by side takes longer."""
    if torch.compiler.is_compiling() and type(linear) is nn.Linear and linear.bias is None:
        return tuple(F.linear(hidden_TD, weight) for weight in linear.weight.chunk(number))
    return linear(hidden_TD).chunk(number, dim=-1)


def _turned_half_by_half(heads_THW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``_turned``, in terms that a compiler makes one pass of, backward too."""
    heads_TH2V = heads_THW.unflatten(-1, (2, -1))
    sign_21 = torch.arange(-1, 2, 2, device=heads_THW.device)[:, None]
    turned_TH2V = heads_TH2V * cos[:, :, None] + heads_TH2V.flip(-2) * (sign_21 * sin[:, :, None])
    return turned_TH2V.flatten(-2).to(heads_THW.dtype)


def _rotation(model: ModernBert, hidden_TD: Tensor, position_T: Tensor, kind: str) -> Rotation:
    """transformers says every angle twice, for the two halves of a head."""
    cos, sin = model.rotary_emb(hidden_TD, position_T[None], kind)
    half = cos.shape[-1] // 2
    return cos[0, :, None, None, :half], sin[0, :, None, None, :half]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_T3HW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(qkv_T3HW, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of a rotation is the rotation back."""
        cos, sin = ctx.saved_tensors
        return _turned(gradients[0], cos, -sin), None, None


def _turned(qkv_T3HW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Products and sums in the precision of the angles, rounded once."""
    turned_T3HW = torch.empty_like(qkv_T3HW, dtype=torch.promote_types(qkv_T3HW.dtype, cos.dtype))
    first, second = qkv_T3HW[:, :2].chunk(2, dim=-1)
    to_first, to_second = turned_T3HW[:, :2].chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin)
    turned_T3HW[:, 2] = qkv_T3HW[:, 2]
    return turned_T3HW.to(qkv_T3HW.dtype)
