"""``best_similarity`` on CUDA, as three Triton kernels of our own.

    best_NP[n, p] = max over the embeddings d of passage p of <query embedding n, d>

What one program owns: of the forward pass, 64 query rows and 4 passages, each read up to its true end; of the
queries' gradient, one query row; of the passages' gradient, 64 rows of one passage. No two programs write to one
place and nothing is added atomically, so two runs are equal bit for bit. Similarities live in registers only; what
stays for the backward pass is winner_NP, the winner's number within its passage (int16 below 32,768 embeddings).

The compiler sees the width and the tiles, not the numbers of rows: a new batch compiles nothing. Without a GPU the
kernels run under TRITON_INTERPRET=1. Its ``range`` does not take loaded bounds: hence ``while``.
"""

# mypy: allow-untyped-defs
# (A kernel's arguments get their types when it is compiled.)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ifir_lightning.records import Embeddings, on_device, segment_rows

TILE = 64
"""Rows of a tile, of queries and of passages: what the tensor cores take at once, little waste at 100 per passage."""
GROUP = 4
"""Passages for which a program of the forward pass keeps its query rows."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def fused_best_similarity(queries_ND: Tensor, passages: Embeddings) -> Tensor:
    """best_NP in float32, as ``best_similarity``; NaN where a similarity is NaN or beyond float32.

    Products are added in float32, forward and backward; float32 embeddings are multiplied in float32 too. Gradients
    have the embeddings' dtype; they go to the winning embedding only (the first one where several tie).
    """
    assert int(passages.lengths_B.min()) > 0, "a passage without embeddings has no best match"
    assert int(passages.lengths_B.sum()) == len(passages.values_ND), "lengths that do not make up the embeddings"
    assert queries_ND.shape[1] == passages.values_ND.shape[1], "embeddings of two widths"
    dtype = torch.promote_types(queries_ND.dtype, passages.values_ND.dtype)
    dtype = dtype if dtype in FLOATS else torch.float32
    values = (queries_ND.to(dtype).contiguous(), passages.values_ND.to(dtype).contiguous())
    with torch.cuda.device_of(queries_ND):
        return _FusedBestSimilarity.apply(*values, passages.lengths_B)


class _FusedBestSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_ND: Tensor, passages_ND: Tensor, lengths_P: Tensor) -> Tensor:
        num_rows, num_passages = len(queries_ND), len(lengths_P)
        bounds = _on_device(torch.cat((lengths_P.new_zeros(1), lengths_P.cumsum(0))), queries_ND)
        best_NP = queries_ND.new_empty(num_rows, num_passages, dtype=torch.float32)
        winner_NP = torch.empty_like(best_NP, dtype=torch.int16 if int(lengths_P.max()) < 2**15 else torch.int32)
        grid = (triton.cdiv(num_rows, TILE) * triton.cdiv(num_passages, GROUP),)
        width = queries_ND.shape[1]
        sizes = (num_rows, num_passages, width, _columns(width, queries_ND.dtype), TILE, GROUP)
        num_warps = _num_warps(queries_ND.dtype)
        _best_kernel[grid](queries_ND, passages_ND, bounds, best_NP, winner_NP, *sizes, num_warps=num_warps)
        ctx.save_for_backward(queries_ND, passages_ND, winner_NP, bounds)
        ctx.lengths_P = lengths_P
        return best_NP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The matrix of weights, gradient_NP at the winners, is sparse: rows of it are gathered, columns multiplied."""
        queries_ND, passages_ND, winner_NP, bounds = ctx.saved_tensors
        gradient_NP = gradients[0].contiguous()
        grad_queries_ND = grad_passages_ND = None
        if ctx.needs_input_grad[0]:
            grad_queries_ND = _grad_queries(passages_ND, bounds, winner_NP, gradient_NP)
        if ctx.needs_input_grad[1]:
            grad_passages_ND = _grad_passages(queries_ND, bounds, ctx.lengths_P, winner_NP, gradient_NP)
        return grad_queries_ND, grad_passages_ND, None


def _grad_queries(passages_ND: Tensor, bounds: Tensor, winner_NP: Tensor, gradient_NP: Tensor) -> Tensor:
    (num_rows, num_passages), width = winner_NP.shape, passages_ND.shape[1]
    grad_ND = passages_ND.new_empty(num_rows, width)
    columns = min(_padded(width), 128)
    tensors = (passages_ND, bounds, winner_NP, gradient_NP, grad_ND)
    _queries_kernel[(num_rows, triton.cdiv(width, columns))](*tensors, num_passages, width, columns, 32)
    return grad_ND


def _grad_passages(
    queries_ND: Tensor, bounds: Tensor, lengths_P: Tensor, winner_NP: Tensor, gradient_NP: Tensor
) -> Tensor:
    num_rows, width = queries_ND.shape
    grad_ND = queries_ND.new_empty(int(lengths_P.sum()), width)
    tiles_P = (lengths_P + TILE - 1) // TILE
    first_T = segment_rows(torch.zeros_like(tiles_P), tiles_P) * TILE
    tiles_2T = _on_device(torch.stack((torch.repeat_interleave(tiles_P), first_T)), queries_ND)
    columns = min(_padded(width), 128)
    tensors = (queries_ND, bounds, tiles_2T, winner_NP.T.contiguous(), gradient_NP.T.contiguous(), grad_ND)
    grid = (len(first_T), triton.cdiv(width, columns))
    _passages_kernel[grid](*tensors, num_rows, width, columns, TILE, num_warps=_num_warps(queries_ND.dtype))
    return grad_ND


def _on_device(numbers: Tensor, like: Tensor) -> Tensor:
    return on_device(numbers.to(torch.int32), like.device)


def _padded(width: int) -> int:
    """The next power of two, at least the 16 that a matrix product takes."""
    return max(16, triton.next_power_of_2(width))


def _columns(width: int, dtype: torch.dtype) -> int:
    """Columns multiplied at a time: all of a head's, so that a query is read once; fewer where memory forbids it.

    The tensor cores do no float32: those products are held in registers, which 16 columns fill.
    """
    if dtype == torch.float32:
        return 16
    return _padded(width) if width <= 256 else 64


def _num_warps(dtype: torch.dtype) -> int:
    return 8 if dtype == torch.float32 else 4


@triton.jit(do_not_specialize=["num_rows", "num_passages"])
def _best_kernel(
    queries,
    passages,
    bounds,
    best_out,
    winner_out,
    num_rows,
    num_passages,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
):
    num_tiles = tl.cdiv(num_rows, TILE)
    n = tl.program_id(0) % num_tiles * TILE + tl.arange(0, TILE)
    column = tl.arange(0, COLUMNS)
    query = _load(queries, n, column, n < num_rows, WIDTH)
    p = tl.program_id(0) // num_tiles * GROUP
    end = tl.minimum(p + GROUP, num_passages)
    while p < end:
        start, stop = tl.load(bounds + p), tl.load(bounds + p + 1)
        best = tl.full([TILE], float("-inf"), tl.float32)
        winner = tl.zeros([TILE], tl.int32)
        first = start
        while first < stop:
            row = first + tl.arange(0, TILE)
            passage = _load(passages, row, column, row < stop, WIDTH)
            similarity = tl.dot(query, passage.T, input_precision="ieee")
            for more in range(COLUMNS, WIDTH, COLUMNS):
                query_part = _load(queries, n, more + column, n < num_rows, WIDTH)
                passage_part = _load(passages, row, more + column, row < stop, WIDTH)
                similarity = tl.dot(query_part, passage_part.T, similarity, input_precision="ieee")
            similarity = tl.where(similarity == similarity, similarity, float("inf"))
            similarity = tl.where((row < stop)[None, :], similarity, float("-inf"))
            tile_best, tile_winner = tl.max(similarity, axis=1, return_indices=True)
            winner = tl.where(tile_best > best, tile_winner + first - start, winner)
            best = tl.maximum(best, tile_best)
            first += TILE
        place = n.to(tl.int64) * num_passages + p
        best = tl.where(best == float("inf"), float("nan"), best)
        tl.store(best_out + place, best, n < num_rows)
        tl.store(winner_out + place, winner.to(winner_out.dtype.element_ty), n < num_rows)
        p += 1


@triton.jit(do_not_specialize=["num_passages"])
def _queries_kernel(
    passages,
    bounds,
    winners,
    gradients,
    out,
    num_passages,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PASSAGES: tl.constexpr,
):
    """out[n] = sum over p of gradient[n, p] * the winner's embedding."""
    n = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([PASSAGES, COLUMNS], tl.float32)
    first = 0
    while first < num_passages:
        p = first + tl.arange(0, PASSAGES)
        inside = p < num_passages
        row = tl.load(bounds + p, inside, 0) + tl.load(winners + n * num_passages + p, inside, 0)
        gradient = tl.load(gradients + n * num_passages + p, inside, 0.0)
        total += gradient[:, None] * _load(passages, row, column, inside, WIDTH).to(tl.float32)
        first += PASSAGES
    tl.store(out + n * WIDTH + column, tl.sum(total, axis=0).to(out.dtype.element_ty), column < WIDTH)


@triton.jit(do_not_specialize=["num_rows"])
def _passages_kernel(
    queries,
    bounds,
    tiles,
    winners,
    gradients,
    out,
    num_rows,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    """out[row] = sum over the n that ``row`` won of gradient[n, p] * query n: a product with a sparse matrix."""
    p = tl.load(tiles + tl.program_id(0)).to(tl.int64)
    local = tl.load(tiles + tl.num_programs(0) + tl.program_id(0)) + tl.arange(0, TILE)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([TILE, COLUMNS], tl.float32)
    first = 0
    while first < num_rows:
        n = first + tl.arange(0, TILE)
        winner = tl.load(winners + p * num_rows + n, n < num_rows, -1)
        gradient = tl.load(gradients + p * num_rows + n, n < num_rows, 0.0)
        weight = tl.where(winner[None, :] == local[:, None], gradient[None, :], 0.0)
        total = _add_product(total, weight, _load(queries, n, column, n < num_rows, WIDTH))
        first += TILE
    row = tl.load(bounds + p) + local
    mask = (row < tl.load(bounds + p + 1))[:, None] & (column < WIDTH)[None, :]
    place = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask)


@triton.jit
def _load(values, row, column, inside, WIDTH: tl.constexpr):
    """values[row, column], 0 outside; row offsets are 64-bit, for 2^31 numbers and more."""
    mask = inside[:, None] & (column < WIDTH)[None, :]
    return tl.load(values + row.to(tl.int64)[:, None] * WIDTH + column[None, :], mask, 0.0)


@triton.jit
def _add_product(total, weight, values):
    """total + weight @ values, the weights as exact as float32 sums of them are.

    bfloat16 values keep the fast product: the weight is the sum of two bfloat16, its rounding and the rest.
    """
    if values.dtype == tl.bfloat16:
        rounded = weight.to(tl.bfloat16)
        total = tl.dot(rounded, values, total)
        total = tl.dot((weight - rounded.to(tl.float32)).to(tl.bfloat16), values, total)
    elif values.dtype == tl.float16:
        total = tl.dot(weight, values.to(tl.float32), total, input_precision="tf32x3")
    else:
        total = tl.dot(weight, values, total, input_precision="ieee")
    return total
