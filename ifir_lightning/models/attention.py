"""Attention over packed texts: one function registered with transformers, three kernels under it.

A sliding window reaches the function as transformers counts it: ``sliding_window=65`` means that token i sees
token j where |i - j| <= 64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from ifir_lightning.errors import InputError

Attention = Literal["auto", "flash_attention_2", "varlen", "sdpa"]
Kernel = Literal["flash_attention_2", "varlen", "sdpa"]
PACKED_ATTENTION = "ifir_packed"


@dataclass(frozen=True)
class Layout:
    """Where each text of a packed batch begins and ends, in the forms that the kernels ask for.

    Attributes:
        kernel: The kernel to run.
        cumulative: 0, then the end of each text: int32, on the device.
        max_length: Tokens of the longest text.
        groups: (number of texts, their length), for runs of neighbours of equal length: ``sdpa`` computes each
            run at once, without padding. Texts sorted by length make long runs.
        distance: |i - j| up to the longest text; only ``sdpa`` needs it.
        attend_T: Tokens that the others of their text see, None for all; only ``sdpa`` can leave some out.
    """

    kernel: Kernel
    cumulative: Tensor
    max_length: int
    groups: tuple[tuple[int, int], ...]
    distance: Tensor | None
    attend_T: Tensor | None


def make_layout(lengths_B: Tensor, kernel: Kernel, device: torch.device, attend_T: Tensor | None = None) -> Layout:
    """The layout of texts of ``lengths_B`` tokens (on the CPU), of which ``attend_T`` are seen by the others."""
    assert attend_T is None or kernel == "sdpa", f"{kernel} cannot leave tokens unattended"
    cumulative = F.pad(lengths_B.cumsum(0), (1, 0)).to(torch.int32)
    lengths, counts = lengths_B.unique_consecutive(return_counts=True)
    position = torch.arange(int(lengths_B.max()), device=device)
    distance = (position[:, None] - position).abs() if kernel == "sdpa" else None
    groups = tuple(zip(counts.tolist(), lengths.tolist(), strict=True))
    return Layout(kernel, cumulative.to(device, non_blocking=True), len(position), groups, distance, attend_T)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each text of [1, heads, T, width] tensors; returns [1, T, heads, width].

    The signature is that of transformers' attention interface; ``layout`` arrives through the model's keyword
    arguments. A model run without it fails here instead of mixing its texts.
    """
    assert attention_mask is None, "packed texts have no mask"
    heads = _KERNELS[layout.kernel](query[0], key[0], value[0], layout, scaling, dropout, sliding_window)
    return heads.unsqueeze(0), None


def _sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, p: float, window: int | None) -> Tensor:
    sizes = [count * length for count, length in layout.groups]
    parts = (tensor.split(sizes, dim=1) for tensor in (q, k, v))
    seen = [None] * len(sizes) if layout.attend_T is None else layout.attend_T.split(sizes)
    outputs = []
    for (count, length), attend_T, *heads in zip(layout.groups, seen, *parts, strict=True):
        query, key, value = (part.unflatten(1, (count, length)).transpose(0, 1) for part in heads)
        mask = None
        if window is not None and length > window:
            assert layout.distance is not None
            mask = layout.distance[:length, :length] < window
        if attend_T is not None:
            attend_B11L = attend_T.view(count, 1, 1, length)
            mask = attend_B11L if mask is None else mask & attend_B11L
        attended = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=p, scale=scale)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, p: float, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    attended = varlen_attn(
        q.transpose(0, 1),
        k.transpose(0, 1),
        v.transpose(0, 1),
        layout.cumulative,
        layout.cumulative,
        layout.max_length,
        layout.max_length,
        scale=scale,
        window_size=_reach(window),
    )
    assert isinstance(attended, Tensor)
    return attended


def _flash(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, p: float, window: int | None) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        q.transpose(0, 1),
        k.transpose(0, 1),
        v.transpose(0, 1),
        layout.cumulative,
        layout.cumulative,
        layout.max_length,
        layout.max_length,
        dropout_p=p,
        softmax_scale=scale,
        window_size=_reach(window),
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
AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def choose_kernel(
    attention: Attention, device: torch.device, dtype: torch.dtype, dropout: float, unattended: bool = False
) -> Kernel:
    """The kernel for what the recipe asks, given where, in which precision and on what attention will run.

    Raises:
        InputError: The recipe names a kernel that cannot run there.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    old = device.type == "cuda" and compute_capability(device) < (8, 0)
    flash = find_spec("flash_attn") is not None
    obstacles: dict[Kernel, str | None] = {
        "flash_attention_2": _first(
            (device.type != "cuda", f"it needs a CUDA device, not {device.type}"),
            (not half, f"it computes in bfloat16 or float16, not {dtype}"),
            (old, "it needs an Ampere GPU (compute capability 8.0) or newer"),
            (not flash, "flash-attn is not installed"),
            (unattended, _EXPANSION),
        ),
        "varlen": _first(
            (device.type != "cuda", f"it needs a CUDA device, not {device.type}"),
            (not half, f"it computes in bfloat16 or float16, not {dtype}"),
            (old, "it needs an Ampere GPU (compute capability 8.0) or newer"),
            (dropout > 0, f"it has no attention dropout, and the checkpoint's is {dropout}"),
            (unattended, _EXPANSION),
        ),
        "sdpa": None,
    }
    possible: list[Kernel] = [kernel for kernel, obstacle in obstacles.items() if obstacle is None]
    if attention == "auto":
        return possible[0]
    if attention not in possible:
        raise InputError(
            f"model.backbone.attention is {attention}: {obstacles[attention]}; possible here: "
            f"{', '.join(['auto', *possible])} (the extra 'flash' installs flash-attn, "
            "--trainer.precision bf16-mixed computes in bfloat16)"
        )
    return attention


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Generation of a CUDA device: (8, 0) is an A100, (9, 0) an H100."""
    return torch.cuda.get_device_capability(device)


def _first(*obstacles: tuple[bool, str]) -> str | None:
    return next((message for present, message in obstacles if present), None)
