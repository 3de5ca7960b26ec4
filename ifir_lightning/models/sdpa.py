"""torch's attention for texts of equal length; where a window is much shorter than they are, in blocks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOWS = 6
"""Texts of more windows than this are attended in blocks: it is faster from there on, for a window of 65 on a CPU."""


def sdpa(
    qkv_BLHW: Sequence[Tensor], attend_BL: Tensor | None, scale: float, dropout: float, window: int | None
) -> Tensor:
    """heads_BLHW: attention within each text.

    Args:
        qkv_BLHW: Queries, keys and values of B texts of L tokens.
        attend_BL: Tokens that the others see; None for all.
        scale: Multiplies the products of queries and keys.
        dropout: Of attention weights.
        window: Token i sees token j where |i - j| < window; None for all tokens of the text.
    """
    length = qkv_BLHW[0].shape[1]
    if window is not None and length > WINDOWS * window:
        return _in_blocks(qkv_BLHW, attend_BL, scale, dropout, window)
    mask = None
    if window is not None and length > window:
        mask = qkv_BLHW[0].new_ones(length, length, dtype=torch.bool).tril(window - 1).triu(1 - window)
    if attend_BL is not None:
        attend_B11L = attend_BL[:, None, None]
        mask = attend_B11L if mask is None else mask & attend_B11L
    query, key, value = (each_BLHW.transpose(1, 2) for each_BLHW in qkv_BLHW)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale).transpose(1, 2)


def _in_blocks(
    qkv_BLHW: Sequence[Tensor], attend_BL: Tensor | None, scale: float, dropout: float, window: int
) -> Tensor:
    """In time and memory that grow with the length, not with its square (Beltagy et al. 2020).

    With blocks as long as the window reaches, a block's tokens see none but those of their own and of its two
    neighbours. The texts are filled up to whole blocks and laid end to end, so that the keys of all blocks are one
    overlapping view.
    """
    num_texts, length = qkv_BLHW[0].shape[:2]
    size = max(1, window - 1)
    query_NHSW = _filled(qkv_BLHW[0], size).unflatten(0, (-1, size)).transpose(1, 2)
    key_NHKW, value_NHKW = (_with_neighbours(each_BLHW, size).transpose(2, 3) for each_BLHW in qkv_BLHW[1:])
    mask_N1SK = _block_mask(length, size, window, query_NHSW.device).repeat(num_texts, 1, 1)[:, None]
    if attend_BL is not None:
        mask_N1SK = mask_N1SK & _with_neighbours(attend_BL, size)[:, None, None]
    heads_NHSW = F.scaled_dot_product_attention(query_NHSW, key_NHKW, value_NHKW, mask_N1SK, dropout, scale=scale)
    return heads_NHSW.transpose(1, 2).flatten(0, 1).unflatten(0, (num_texts, -1))[:, :length]


def _filled(each_BLX: Tensor, size: int) -> Tensor:
    """The texts end to end, each followed by zeros up to a whole number of blocks; X are any further dimensions."""
    missing = -each_BLX.shape[1] % size
    return F.pad(each_BLX, (0, 0) * (each_BLX.dim() - 2) + (0, missing)).flatten(0, 1)


def _with_neighbours(each_BLX: Tensor, size: int) -> Tensor:
    """[N blocks, X, 3 * size]: each block between its neighbours, zeros before the first and after the last."""
    each_TX = _filled(each_BLX, size)
    return F.pad(each_TX, (0, 0) * (each_TX.dim() - 1) + (size, size)).unfold(0, 3 * size, size)


def _block_mask(length: int, size: int, window: int, device: torch.device) -> Tensor:
    """[blocks of a text, size, 3 * size]: near enough, and a token of the text."""
    query_S, key_K = torch.arange(size, device=device), torch.arange(-size, 2 * size, device=device)
    near_SK = (query_S[:, None] - key_K).abs() < window
    position_MK = torch.arange(0, length, size, device=device)[:, None] + key_K
    return near_SK & ((position_MK >= 0) & (position_MK < length))[:, None]
