"""The Triton kernels of ``triton_attention``, which says what they compute.

Halves of a head: a query rotated by its position's angles is (first cos - second sin, second cos + first sin).
"""

# mypy: allow-untyped-defs
# (A kernel's arguments get their types when it is compiled.)

import triton
import triton.language as tl

_UNSEEN = tl.constexpr(-1e30)
"""Finite, so that a tile in which a token sees nothing does no harm before one in which it sees itself."""
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def rotate_kernel(
    qkv, cos, sin, tiles, rotated, NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, VALUES: tl.constexpr
):  # fmt: skip
    """Queries and keys rotated, and, if VALUES, values as they are."""
    head, start, length, first = _program(tiles, NUM_HEADS)
    qkv += start * 3 * NUM_HEADS * 2 * HALF
    rotated += start * 3 * NUM_HEADS * 2 * HALF
    row = first + tl.arange(0, TILE)
    inside = (row < length)[:, None]
    c, s = _angles(cos, sin, row, inside, HALF)
    for which in tl.static_range(2):
        place = _places(row, 2 * (which * NUM_HEADS + head), 2 * 3 * NUM_HEADS, HALF)
        one = tl.load(qkv + place, mask=inside, other=0.0).to(tl.float32)
        two = tl.load(qkv + place + HALF, mask=inside, other=0.0).to(tl.float32)
        tl.store(rotated + place, (one * c - two * s).to(rotated.dtype.element_ty), mask=inside)
        tl.store(rotated + place + HALF, (two * c + one * s).to(rotated.dtype.element_ty), mask=inside)
    if VALUES:
        place = _places(row, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
        tl.store(rotated + place, tl.load(qkv + place, mask=inside, other=0.0), mask=inside)


@triton.jit(do_not_specialize=["num_tokens"])
def forward_kernel(
    rotated, qkv, tiles, out, lse, num_tokens, scale,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Queries and keys are those of ``rotated``, values those of ``qkv``."""
    head, start, length, first = _program(tiles, NUM_HEADS)
    rotated += start * 3 * NUM_HEADS * 2 * HALF
    qkv += start * 3 * NUM_HEADS * 2 * HALF
    out += start * NUM_HEADS * 2 * HALF
    lse += head.to(tl.int64) * num_tokens + start
    row = first + tl.arange(0, TILE)
    query = _load(rotated, row, length, head, 3 * NUM_HEADS, 2 * HALF)
    row_max = tl.full((TILE,), _UNSEEN, tl.float32)
    row_sum = tl.zeros((TILE,), tl.float32)
    acc = tl.zeros((TILE, 2 * HALF), tl.float32)
    at, end = _reach(first, length, TILE, WINDOW)
    while at < end:
        column = at + tl.arange(0, TILE)
        key = _load(rotated, column, length, NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
        value = _load(qkv, column, length, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
        score = _dot(query, tl.trans(key)) * (scale * _LOG2_E)
        score = tl.where(_seen(row, column, length, WINDOW), score, _UNSEEN)
        new_max = tl.maximum(row_max, tl.max(score, 1))
        weight = tl.math.exp2(score - new_max[:, None])
        kept = tl.math.exp2(row_max - new_max)
        row_sum = row_sum * kept + tl.sum(weight, 1)
        acc = acc * kept[:, None] + _dot(weight.to(value.dtype), value)
        row_max = new_max
        at += TILE
    place = _places(row, head, NUM_HEADS, 2 * HALF)
    tl.store(out + place, (acc / row_sum[:, None]).to(out.dtype.element_ty), mask=(row < length)[:, None])
    tl.store(lse + row, row_max + tl.math.log2(row_sum), mask=row < length)


@triton.jit(do_not_specialize=["num_tokens"])
def queries_kernel(
    rotated, cos, sin, tiles, out, lse, delta, d_out, d_qkv, num_tokens, scale,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's queries, from the keys and values that they see; runs before ``keys_kernel``.

    Leaves in ``delta`` what every gradient of a token's scores loses: its d_out times its out.
    """
    head, start, length, first = _program(tiles, NUM_HEADS)
    rotated, d_qkv, out, d_out, lse, delta = _from_text(
        rotated, d_qkv, out, d_out, lse, delta, start, head, num_tokens, NUM_HEADS, HALF
    )
    row = first + tl.arange(0, TILE)
    query = _load(rotated, row, length, head, 3 * NUM_HEADS, 2 * HALF)
    d_o = _load(d_out, row, length, head, NUM_HEADS, 2 * HALF)
    o = _load(out, row, length, head, NUM_HEADS, 2 * HALF)
    delta_row = tl.sum(d_o.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + row, delta_row, mask=row < length)
    lse_row = tl.load(lse + row, mask=row < length, other=0.0)
    d_query = tl.zeros((TILE, 2 * HALF), tl.float32)
    at, end = _reach(first, length, TILE, WINDOW)
    while at < end:
        column = at + tl.arange(0, TILE)
        key = _load(rotated, column, length, NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
        value = _load(rotated, column, length, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
        score = _dot(query, tl.trans(key)) * (scale * _LOG2_E)
        weight = tl.where(_seen(row, column, length, WINDOW), tl.math.exp2(score - lse_row[:, None]), 0.0)
        d_score = weight * (_dot(d_o, tl.trans(value)) - delta_row[:, None])
        d_query += _dot(d_score.to(key.dtype), key)
        at += TILE
    _store_rotated_back(d_qkv, cos, sin, d_query * scale, head, row, length, NUM_HEADS, HALF)


@triton.jit(do_not_specialize=["num_tokens"])
def keys_kernel(
    rotated, cos, sin, tiles, out, lse, delta, d_out, d_qkv, num_tokens, scale,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's keys and values, from the queries that see them: a score's row is a key here."""
    head, start, length, first = _program(tiles, NUM_HEADS)
    rotated, d_qkv, out, d_out, lse, delta = _from_text(
        rotated, d_qkv, out, d_out, lse, delta, start, head, num_tokens, NUM_HEADS, HALF
    )
    row = first + tl.arange(0, TILE)
    key = _load(rotated, row, length, NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
    value = _load(rotated, row, length, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
    d_key = tl.zeros((TILE, 2 * HALF), tl.float32)
    d_value = tl.zeros((TILE, 2 * HALF), tl.float32)
    at, end = _reach(first, length, TILE, WINDOW)
    while at < end:
        column = at + tl.arange(0, TILE)
        query = _load(rotated, column, length, head, 3 * NUM_HEADS, 2 * HALF)
        d_o = _load(d_out, column, length, head, NUM_HEADS, 2 * HALF)
        lse_row = tl.load(lse + column, mask=column < length, other=0.0)
        delta_row = tl.load(delta + column, mask=column < length, other=0.0)
        score = _dot(key, tl.trans(query)) * (scale * _LOG2_E)
        weight = tl.where(_seen(row, column, length, WINDOW), tl.math.exp2(score - lse_row[None, :]), 0.0)
        d_value += _dot(weight.to(d_o.dtype), d_o)
        d_score = weight * (_dot(value, tl.trans(d_o)) - delta_row[None, :])
        d_key += _dot(d_score.to(query.dtype), query)
        at += TILE
    _store_rotated_back(d_qkv, cos, sin, d_key * scale, NUM_HEADS + head, row, length, NUM_HEADS, HALF)
    place = _places(row, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
    tl.store(d_qkv + place, d_value.to(d_qkv.dtype.element_ty), mask=(row < length)[:, None])


@triton.jit
def _program(tiles, NUM_HEADS: tl.constexpr):
    """The program's head, where its text begins, the text's length, and the first token of its tile.

    The heads of a tile run side by side: they lie side by side in memory.
    """
    tiles += 3 * (tl.program_id(0) // NUM_HEADS)
    return tl.program_id(0) % NUM_HEADS, tl.load(tiles).to(tl.int64), tl.load(tiles + 1), tl.load(tiles + 2)


@triton.jit
def _from_text(
    rotated, d_qkv, out, d_out, lse, delta, start, head, num_tokens,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """The tensors from a text's first token on: what is added to them within a text fits in 32 bits."""
    vectors = start * NUM_HEADS * 2 * HALF
    numbers = head.to(tl.int64) * num_tokens + start
    return (
        rotated + 3 * vectors, d_qkv + 3 * vectors, out + vectors, d_out + vectors,
        lse + numbers, delta + numbers,
    )  # fmt: skip


@triton.jit
def _reach(first, length, TILE: tl.constexpr, WINDOW: tl.constexpr):
    """First and last token, in whole tiles, that a tile's tokens see."""
    at, end = first * 0, length
    if WINDOW > 0:
        at = tl.maximum(first - WINDOW + 1, 0) // TILE * TILE
        end = tl.minimum(length, first + TILE + WINDOW - 1)
    return at, end


@triton.jit
def _seen(row, column, length, WINDOW: tl.constexpr):
    seen = (row < length)[:, None] & (column < length)[None, :]
    if WINDOW > 0:
        seen = seen & (tl.abs(row[:, None] - column[None, :]) < WINDOW)
    return seen


@triton.jit
def _places(row, head, num_heads, WIDTH: tl.constexpr):
    """Of the rows' vectors of one head, among ``num_heads`` of width WIDTH for each token."""
    return (row[:, None] * num_heads + head) * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _load(vectors, row, length, head, num_heads, WIDTH: tl.constexpr):
    return tl.load(vectors + _places(row, head, num_heads, WIDTH), mask=(row < length)[:, None], other=0.0)


@triton.jit
def _angles(cos, sin, row, inside, HALF: tl.constexpr):
    place = row[:, None] * HALF + tl.arange(0, HALF)[None, :]
    return tl.load(cos + place, mask=inside, other=0.0), tl.load(sin + place, mask=inside, other=0.0)


@triton.jit
def _store_rotated_back(d_qkv, cos, sin, found, head, row, length, NUM_HEADS: tl.constexpr, HALF: tl.constexpr):
    """The gradient of a rotation is the rotation back."""
    inside = (row < length)[:, None]
    c, s = _angles(cos, sin, row, inside, HALF)
    one, two = tl.split(tl.trans(tl.reshape(found, (found.shape[0], 2, HALF)), 0, 2, 1))
    place = _places(row, 2 * head, 2 * 3 * NUM_HEADS, HALF)
    kind = d_qkv.dtype.element_ty
    tl.store(d_qkv + place, (one * c + two * s).to(kind), mask=inside)
    tl.store(d_qkv + place + HALF, (two * c - one * s).to(kind), mask=inside)


@triton.jit
def _dot(a, b):
    """In float32 where the operands are."""
    return tl.dot(a, b, input_precision="ieee")
