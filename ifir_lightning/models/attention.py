"""Attention over packed texts: one function and the kernels under it, chosen by what can run.

A sliding window is counted as transformers does: 65 means that token i sees token j where |i - j| <= 64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ifir_lightning.errors import InputError
from ifir_lightning.models.sdpa import sdpa
from ifir_lightning.records import on_device

Attention = Literal["auto", "flash_attention_2", "varlen", "triton", "sdpa"]
Kernel = Literal["flash_attention_2", "varlen", "triton", "sdpa"]
"""``triton`` rotates queries and keys itself (``triton_attention``); the others are given rotated ones."""
TRITON_WIDTHS = (32, 64, 128)
"""Of heads: both halves are a power of two that tensor cores take."""
TILE = 64
"""Tokens of a tile of ``triton``."""
Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, [T, H, W] each."""


@dataclass(frozen=True)
class Layout:
    """Where each text of a packed batch begins and ends, in the forms that the kernels ask for.

    Attributes:
        kernel: The kernel to run.
        cumulative: 0, then the end of each text: int32, on the device.
        max_length: Tokens of the longest text.
        groups: (number of texts, their length), for runs of neighbours of equal length: ``sdpa`` computes each
            run at once, without padding. Texts sorted by length make long runs.
        attend_T: Tokens that the others of their text see, None for all; only ``sdpa`` can leave some out.
        tiles: What ``triton`` asks for, on the device.
    """

    kernel: Kernel
    cumulative: Tensor
    max_length: int
    groups: tuple[tuple[int, int], ...]
    attend_T: Tensor | None
    tiles: Tensor | None = None


def make_layout(lengths_B: Tensor, kernel: Kernel, device: torch.device, attend_T: Tensor | None = None) -> Layout:
    """The layout of texts of ``lengths_B`` tokens (on the CPU), of which ``attend_T`` are seen by the others."""
    assert attend_T is None or kernel == "sdpa", f"{kernel} cannot leave tokens unattended"
    cumulative = F.pad(lengths_B.cumsum(0), (1, 0)).to(torch.int32)
    lengths, counts = lengths_B.unique_consecutive(return_counts=True)
    groups = tuple(zip(counts.tolist(), lengths.tolist(), strict=True))
    tiles = on_device(make_tiles(lengths_B), device) if kernel == "triton" else None
    return Layout(kernel, on_device(cumulative, device), int(lengths_B.max()), groups, attend_T, tiles)


def make_tiles(lengths_B: Tensor) -> Tensor:
    """tiles_N3, int32: where the text of each tile begins, its length, and the tile's first token within the text."""
    counts_B = (lengths_B + TILE - 1) // TILE
    starts_B, firsts_B = lengths_B.cumsum(0) - lengths_B, counts_B.cumsum(0) - counts_B
    text_N = torch.repeat_interleave(counts_B)
    within_N = torch.arange(len(text_N)) - firsts_B[text_N]
    return torch.stack([starts_B[text_N], lengths_B[text_N], within_N * TILE], dim=1).to(torch.int32)


def packed_attention(
    qkv_THW: Heads, layout: Layout, scale: float, dropout: float = 0.0, window: int | None = None
) -> Tensor:
    """heads_THW: attention within each text.

    Args:
        qkv_THW: Queries, keys and values of H heads of width W.
        layout: Where each text begins and ends; of every kernel but ``triton``.
        scale: Multiplies the products of queries and keys.
        dropout: Of attention weights.
        window: Token i sees token j where |i - j| < window; None for all tokens of the text.
    """
    return _KERNELS[layout.kernel](qkv_THW, layout, scale, dropout, window)


def _sdpa(qkv_THW: Heads, layout: Layout, scale: float, dropout: float, window: int | None) -> Tensor:
    sizes = [count * length for count, length in layout.groups]
    seen = [None] * len(sizes) if layout.attend_T is None else layout.attend_T.split(sizes)
    parts = zip(*(each_THW.split(sizes) for each_THW in qkv_THW), strict=True)
    outputs = []
    for (count, length), attend_T, part in zip(layout.groups, seen, parts, strict=True):
        qkv_BLHW = [each_THW.unflatten(0, (count, length)) for each_THW in part]
        attend_BL = None if attend_T is None else attend_T.view(count, length)
        outputs.append(sdpa(qkv_BLHW, attend_BL, scale, dropout, window).flatten(0, 1))
    return torch.cat(outputs)


def _varlen(qkv_THW: Heads, layout: Layout, scale: float, dropout: float, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = layout.cumulative, layout.max_length
    attended = varlen_attn(*qkv_THW, ends, ends, longest, longest, scale=scale, window_size=_reach(window))
    assert isinstance(attended, Tensor)
    return attended


def _flash(qkv_THW: Heads, layout: Layout, scale: float, dropout: float, window: int | None) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    ends, longest = layout.cumulative, layout.max_length
    return flash_attn_varlen_func(
        *qkv_THW, ends, ends, longest, longest, dropout, softmax_scale=scale, window_size=_reach(window)
    )


def _reach(window: int | None) -> tuple[int, int]:
    """Tokens seen to the left and right; -1 for all."""
    return (-1, -1) if window is None else (window - 1, window - 1)


_KERNELS: dict[Kernel, Callable[..., Tensor]] = {
    "flash_attention_2": _flash,
    "varlen": _varlen,
    "sdpa": _sdpa,
}
_EXPANSION = "it has no mask, which model.text.query_expansion unattended needs"


def choose_kernel(
    attention: Attention,
    device: torch.device,
    dtype: torch.dtype,
    dropout: float,
    unattended: bool = False,
    width: int = 64,
) -> Kernel:
    """The kernel for what the recipe asks, given where, in which precision and on what attention will run.

    ``auto`` prefers ``triton`` where it was measured to be faster than varlen, which is flash-attn's kernel within
    torch: on a Hopper GPU with heads of width 64, in bfloat16, forward and backward together, at every length of text
    from 64 to 8,192 tokens.

    Args:
        attention: What the recipe asks.
        device: Where it will run.
        dtype: What it will compute in.
        dropout: Of attention weights.
        unattended: Whether some tokens are not seen by the others.
        width: Of a head.

    Raises:
        InputError: The recipe names a kernel that cannot run there.
    """
    obstacles = _obstacles(device, dtype, dropout, unattended, width)
    possible: list[Kernel] = [kernel for kernel, obstacle in obstacles.items() if obstacle is None]
    if attention == "auto":
        measured = "triton" in possible and width == 64 and is_hopper(device)
        return "triton" if measured else possible[0]
    if attention not in possible:
        raise InputError(
            f"model.backbone.attention is {attention}: {obstacles[attention]}; possible here: "
            f"{', '.join(['auto', *possible])} (the extra 'flash' installs flash-attn, "
            "--trainer.precision bf16-mixed computes in bfloat16)"
        )
    return attention


def _obstacles(
    device: torch.device, dtype: torch.dtype, dropout: float, unattended: bool, width: int
) -> dict[Kernel, str | None]:
    """Why each kernel cannot run there, None where it can; the arguments as of ``choose_kernel``."""
    half = dtype in (torch.bfloat16, torch.float16)
    old = device.type == "cuda" and compute_capability(device) < (8, 0)
    flash = find_spec("flash_attn") is not None
    gpu = (
        (device.type != "cuda", f"it needs a CUDA device, not {device.type}"),
        (not half, f"it computes in bfloat16 or float16, not {dtype}"),
        (old, "it needs an Ampere GPU (compute capability 8.0) or newer"),
    )
    no_dropout = (dropout > 0, f"it has no attention dropout, and the checkpoint's is {dropout}")
    unseen = (unattended, _EXPANSION)
    return {
        "flash_attention_2": _first(*gpu, (not flash, "flash-attn is not installed"), unseen),
        "varlen": _first(
            *gpu,
            (width % 8 > 0 or width > 256, f"it takes heads of width 8, 16, ... 256, the checkpoint's have {width}"),
            no_dropout,
            unseen,
        ),
        "triton": _first(
            *gpu,
            (find_spec("triton") is None, "triton is not installed"),
            (width not in TRITON_WIDTHS, f"it takes heads of width 32, 64 or 128, and the checkpoint's have {width}"),
            no_dropout,
            unseen,
        ),
        "sdpa": None,
    }


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Generation of a CUDA device: (8, 0) is an A100, (9, 0) an H100."""
    return torch.cuda.get_device_capability(device)


def is_hopper(device: torch.device) -> bool:
    """Whether it is an H100, an H200 or their like. (AMD's GPUs are called cuda too, and some have their number.)"""
    return device.type == "cuda" and torch.version.hip is None and compute_capability(device)[0] == 9


def _first(*obstacles: tuple[bool, str]) -> str | None:
    return next((message for present, message in obstacles if present), None)
