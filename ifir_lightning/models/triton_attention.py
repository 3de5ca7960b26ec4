"""Rotation and attention of packed texts on CUDA, as four Triton kernels of our own.

    out[t] = sum over the tokens s that t sees of softmax(scale <rotated query[t], rotated key[s]>) value[s]

For texts of some hundred tokens, where kernels made for long ones wait for memory. One kernel rotates queries and keys
by their token's angles; two write the gradients of queries, and of keys and values, rotated back, to their places in
one tensor. A program owns TILE tokens of one text and one head and walks over the tiles of that text within reach.
Nothing is added atomically: two runs are equal bit for bit. Softmax is computed as in FlashAttention (Dao et al. 2022),
in base 2: what stays for the backward pass is the rotated tensor with its values, the output, and one number for each
token and head.

The compiler sees the heads, their width, the window, the tile and whether anything learns: a new batch compiles
nothing. Without a GPU the kernels run under TRITON_INTERPRET=1, whose ``range`` takes no loaded bounds in Triton 3.6:
hence ``while``.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ifir_lightning.models.attention import TILE, is_hopper
from ifir_lightning.models.triton_attention_kernels import forward_kernel, keys_kernel, queries_kernel, rotate_kernel

FORWARD_REGISTERS, KEYS_REGISTERS = 96, 168
"""Of a thread on a Hopper GPU: fewer than the compiler would take, so that more programs run at a time."""


def rotary_attention(
    qkv_T3HW: Tensor, cos_PV: Tensor, sin_PV: Tensor, tiles_N3: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """heads_THW: attention within each text, of queries and keys rotated by their position's angles.

    Args:
        qkv_T3HW: Queries, keys and values of H heads of width W (32, 64 or 128), of all texts end to end.
        cos_PV: Of the angles of each position up to the longest text, for the V = W / 2 pairs of a head; float32.
        sin_PV: Likewise.
        tiles_N3: Of ``attention.make_tiles``, on the device.
        scale: Multiplies the products of queries and keys.
        window: Token i sees token j where |i - j| < window; None for all tokens of the text.

    Products are added in float32; rotated queries and keys, weights and their gradients are rounded to the dtype of
    ``qkv_T3HW``, in which the gradients come back too.
    """
    tables = (cos_PV.float().contiguous(), sin_PV.float().contiguous())
    learns = torch.is_grad_enabled() and qkv_T3HW.requires_grad
    out_THW, *_ = _attend(qkv_T3HW.contiguous(), *tables, tiles_N3, scale, window or 0, learns)
    return out_THW


@torch.library.custom_op("ifir_lightning::rotary_attention", mutates_args=())
def _attend(
    qkv_T3HW: Tensor, cos_PV: Tensor, sin_PV: Tensor, tiles_N3: Tensor, scale: float, window: int, learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """heads_THW, and what the backward pass needs; opaque to torch.compile.

    That is: the logarithm (base 2) of the sum of exponentials of each token's scores, [H, T]; and qkv_T3HW with queries
    and keys rotated, whose values are there only if it ``learns``: the tensor that came in need not be kept then.
    """
    out_THW, lse_HT, rotated_T3HW = _outputs(qkv_T3HW)
    grid, sizes = _shape(qkv_T3HW, tiles_N3)
    with torch.cuda.device_of(qkv_T3HW):
        rotate_kernel[grid](qkv_T3HW, cos_PV, sin_PV, tiles_N3, rotated_T3HW, *sizes, learns)
        tensors = (rotated_T3HW, qkv_T3HW, tiles_N3, out_THW, lse_HT, len(qkv_T3HW))
        forward_kernel[grid](*tensors, scale, *sizes, window, **_registers(qkv_T3HW, FORWARD_REGISTERS))
    return out_THW, lse_HT, rotated_T3HW


@torch.library.custom_op("ifir_lightning::rotary_attention_backward", mutates_args=())
def _attend_backward(
    d_out_THW: Tensor,
    rotated_T3HW: Tensor,
    cos_PV: Tensor,
    sin_PV: Tensor,
    tiles_N3: Tensor,
    out_THW: Tensor,
    lse_HT: Tensor,
    scale: float,
    window: int,
) -> Tensor:
    d_qkv_T3HW, delta_HT = torch.empty_like(rotated_T3HW), torch.empty_like(lse_HT)
    grid, sizes = _shape(rotated_T3HW, tiles_N3)
    results = (out_THW, lse_HT, delta_HT, d_out_THW.contiguous(), d_qkv_T3HW)
    arguments = (rotated_T3HW, cos_PV, sin_PV, tiles_N3, *results, len(rotated_T3HW), scale, *sizes, window)
    with torch.cuda.device_of(rotated_T3HW):
        queries_kernel[grid](*arguments)
        keys_kernel[grid](*arguments, **_registers(rotated_T3HW, KEYS_REGISTERS))
    return d_qkv_T3HW


def _outputs(qkv_T3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, _, num_heads, width = qkv_T3HW.shape
    out_THW = qkv_T3HW.new_empty(num_tokens, num_heads, width)
    lse_HT = qkv_T3HW.new_empty(num_heads, num_tokens, dtype=torch.float32)
    return out_THW, lse_HT, torch.empty_like(qkv_T3HW)


def _shape(qkv_T3HW: Tensor, tiles_N3: Tensor) -> tuple[tuple[int], tuple[int, int, int]]:
    """A program for each tile and head, and what the compiler is told."""
    num_heads, width = qkv_T3HW.shape[2:]
    return (len(tiles_N3) * num_heads,), (num_heads, width // 2, TILE)


def _registers(heads: Tensor, at_most: int) -> dict[str, int]:
    """A launch option. Wider heads would spill on a Hopper GPU, all on an A100."""
    return {"maxnreg": at_most} if is_hopper(heads.device) and heads.shape[-1] <= 64 else {}


@_attend.register_fake
def _(qkv_T3HW: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(qkv_T3HW)


@_attend_backward.register_fake
def _(d_out_THW: Tensor, rotated_T3HW: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(rotated_T3HW)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, *tables, ctx.scale, ctx.window, _ = inputs
    out_THW, lse_HT, rotated_T3HW = output
    ctx.save_for_backward(rotated_T3HW, *tables, out_THW, lse_HT)
    ctx.mark_non_differentiable(lse_HT, rotated_T3HW)


@partial(_attend.register_autograd, setup_context=_remember)
def _(ctx: Any, d_out_THW: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    return _attend_backward(d_out_THW, *ctx.saved_tensors, ctx.scale, ctx.window), *[None] * 6
