"""The Triton kernels of ``triton_attention``, which says what they compute.

Halves of a head: a query turned by its position's angles is (first cos - second sin, second cos + first sin), and the
product of two of them that of the first halves plus that of the second ones.
"""

# mypy: allow-untyped-defs
# (A kernel's arguments get their types when it is compiled.)

import triton
import triton.language as tl

_UNSEEN = tl.constexpr(-1e30)
"""Finite, so that a tile in which a token sees nothing does no harm before one in which it sees itself."""


@triton.jit(do_not_specialize=["num_tokens"])
def forward_kernel(
    qkv, cos, sin, tiles, attended, divisor, num_tokens, scale_2,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    start, length, first = _tile(tiles)
    qkv += start * 3 * NUM_HEADS * 2 * HALF
    attended += start * NUM_HEADS * 2 * HALF
    divisor += head.to(tl.int64) * num_tokens + start
    row = first + tl.arange(0, TILE)
    query_1, query_2 = _turned(qkv, cos, sin, 0, row, length, head, NUM_HEADS, HALF)
    most = tl.full((TILE,), _UNSEEN, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, 2 * HALF), tl.float32)
    at, end = _reach(first, length, TILE, WINDOW)
    while at < end:
        column = at + tl.arange(0, TILE)
        key_1, key_2 = _turned(qkv, cos, sin, 1, column, length, head, NUM_HEADS, HALF)
        score = _products(query_1, query_2, key_1, key_2) * scale_2
        score = tl.where(_seen(row, column, length, WINDOW), score, _UNSEEN)
        higher = tl.maximum(most, tl.max(score, 1))
        weight = tl.math.exp2(score - higher[:, None])
        kept = tl.math.exp2(most - higher)
        total = total * kept + tl.sum(weight, 1)
        value = _value(qkv, column, length, head, NUM_HEADS, HALF)
        sums = sums * kept[:, None] + _dot(weight.to(value.dtype), value)
        most = higher
        at += TILE
    place = _places(row, head, NUM_HEADS, 2 * HALF)
    tl.store(attended + place, (sums / total[:, None]).to(attended.dtype.element_ty), mask=(row < length)[:, None])
    tl.store(divisor + row, most + tl.math.log2(total), mask=row < length)


@triton.jit(do_not_specialize=["num_tokens"])
def keys_kernel(
    qkv, cos, sin, tiles, attended, divisor, gradient, gradients, num_tokens, scale,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's keys and values, from the queries that see them."""
    head = tl.program_id(1)
    start, length, first = _tile(tiles)
    qkv, gradients, attended, gradient, divisor = _from_text(
        qkv, gradients, attended, gradient, divisor, start, head, num_tokens, NUM_HEADS, HALF
    )
    column = first + tl.arange(0, TILE)
    key_1, key_2 = _turned(qkv, cos, sin, 1, column, length, head, NUM_HEADS, HALF)
    value = _value(qkv, column, length, head, NUM_HEADS, HALF)
    d_key_1 = tl.zeros((TILE, HALF), tl.float32)
    d_key_2 = tl.zeros((TILE, HALF), tl.float32)
    d_value = tl.zeros((TILE, 2 * HALF), tl.float32)
    at, end = _reach(first, length, TILE, WINDOW)
    while at < end:
        row = at + tl.arange(0, TILE)
        query_1, query_2 = _turned(qkv, cos, sin, 0, row, length, head, NUM_HEADS, HALF)
        pull, shared, log_2 = _pull(attended, gradient, divisor, row, length, head, NUM_HEADS, HALF)
        weight = _weights(query_1, query_2, key_1, key_2, scale, log_2, _seen(row, column, length, WINDOW))
        d_value += _dot(tl.trans(weight.to(value.dtype)), pull)
        d_score = tl.trans((weight * (_dot(pull, tl.trans(value)) - shared[:, None])).to(value.dtype))
        d_key_1 += _dot(d_score, query_1)
        d_key_2 += _dot(d_score, query_2)
        at += TILE
    _store_turned_back(gradients, cos, sin, d_key_1, d_key_2, scale, 1, column, length, head, NUM_HEADS, HALF)
    place = _places(column, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
    tl.store(gradients + place, d_value.to(gradients.dtype.element_ty), mask=(column < length)[:, None])


@triton.jit(do_not_specialize=["num_tokens"])
def queries_kernel(
    qkv, cos, sin, tiles, attended, divisor, gradient, gradients, num_tokens, scale,
    NUM_HEADS: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's queries, from the keys and values that they see."""
    head = tl.program_id(1)
    start, length, first = _tile(tiles)
    qkv, gradients, attended, gradient, divisor = _from_text(
        qkv, gradients, attended, gradient, divisor, start, head, num_tokens, NUM_HEADS, HALF
    )
    row = first + tl.arange(0, TILE)
    query_1, query_2 = _turned(qkv, cos, sin, 0, row, length, head, NUM_HEADS, HALF)
    pull, shared, log_2 = _pull(attended, gradient, divisor, row, length, head, NUM_HEADS, HALF)
    d_query_1 = tl.zeros((TILE, HALF), tl.float32)
    d_query_2 = tl.zeros((TILE, HALF), tl.float32)
    at, end = _reach(first, length, TILE, WINDOW)
    while at < end:
        column = at + tl.arange(0, TILE)
        key_1, key_2 = _turned(qkv, cos, sin, 1, column, length, head, NUM_HEADS, HALF)
        value = _value(qkv, column, length, head, NUM_HEADS, HALF)
        weight = _weights(query_1, query_2, key_1, key_2, scale, log_2, _seen(row, column, length, WINDOW))
        d_score = (weight * (_dot(pull, tl.trans(value)) - shared[:, None])).to(value.dtype)
        d_query_1 += _dot(d_score, key_1)
        d_query_2 += _dot(d_score, key_2)
        at += TILE
    _store_turned_back(gradients, cos, sin, d_query_1, d_query_2, scale, 0, row, length, head, NUM_HEADS, HALF)


@triton.jit
def _tile(tiles):
    """Where the program's text begins, its length, and the first token of its tile."""
    tiles += 3 * tl.program_id(0)
    return tl.load(tiles).to(tl.int64), tl.load(tiles + 1), tl.load(tiles + 2)


@triton.jit
def _from_text(
    qkv, gradients, attended, gradient, divisor, start, head, num_tokens, NUM_HEADS: tl.constexpr, HALF: tl.constexpr
):
    """The tensors from a text's first token on: what is added to them within a text fits in 32 bits."""
    vectors = start * NUM_HEADS * 2 * HALF
    divisor += head.to(tl.int64) * num_tokens + start
    return qkv + 3 * vectors, gradients + 3 * vectors, attended + vectors, gradient + vectors, divisor


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
def _turned(qkv, cos, sin, which, row, length, head, NUM_HEADS: tl.constexpr, HALF: tl.constexpr):
    """Both halves of the rows' queries (``which`` 0) or keys (1), turned by the angles of their positions."""
    inside = (row < length)[:, None]
    place = _places(row, 2 * (which * NUM_HEADS + head), 2 * 3 * NUM_HEADS, HALF)
    first = tl.load(qkv + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(qkv + place + HALF, mask=inside, other=0.0).to(tl.float32)
    along, across = _angles(cos, sin, row, inside, HALF)
    kind = qkv.dtype.element_ty
    return (first * along - second * across).to(kind), (second * along + first * across).to(kind)


@triton.jit
def _angles(cos, sin, row, inside, HALF: tl.constexpr):
    place = row[:, None] * HALF + tl.arange(0, HALF)[None, :]
    return tl.load(cos + place, mask=inside, other=0.0), tl.load(sin + place, mask=inside, other=0.0)


@triton.jit
def _store_turned_back(
    gradients, cos, sin, first, second, scale, which, row, length, head, NUM_HEADS: tl.constexpr, HALF: tl.constexpr
):
    """The gradient of a rotation is the rotation back."""
    inside = (row < length)[:, None]
    place = _places(row, 2 * (which * NUM_HEADS + head), 2 * 3 * NUM_HEADS, HALF)
    along, across = _angles(cos, sin, row, inside, HALF)
    kind = gradients.dtype.element_ty
    tl.store(gradients + place, ((first * along + second * across) * scale).to(kind), mask=inside)
    tl.store(gradients + place + HALF, ((second * along - first * across) * scale).to(kind), mask=inside)


@triton.jit
def _value(qkv, row, length, head, NUM_HEADS: tl.constexpr, HALF: tl.constexpr):
    place = _places(row, 2 * NUM_HEADS + head, 3 * NUM_HEADS, 2 * HALF)
    return tl.load(qkv + place, mask=(row < length)[:, None], other=0.0)


@triton.jit
def _pull(attended, gradient, divisor, row, length, head, NUM_HEADS: tl.constexpr, HALF: tl.constexpr):
    """The rows' gradients, their products with what was attended, and the logarithms of their divisors."""
    place = _places(row, head, NUM_HEADS, 2 * HALF)
    pull = tl.load(gradient + place, mask=(row < length)[:, None], other=0.0)
    found = tl.load(attended + place, mask=(row < length)[:, None], other=0.0)
    shared = tl.sum(pull.to(tl.float32) * found.to(tl.float32), 1)
    return pull, shared, tl.load(divisor + row, mask=row < length, other=0.0)


@triton.jit
def _weights(query_1, query_2, key_1, key_2, scale, log_2, seen):
    score = _products(query_1, query_2, key_1, key_2) * (scale * 1.4426950408889634)
    return tl.where(seen, tl.math.exp2(score - log_2[:, None]), 0.0)


@triton.jit
def _products(query_1, query_2, key_1, key_2):
    return _dot(query_1, tl.trans(key_1)) + _dot(query_2, tl.trans(key_2))


@triton.jit
def _dot(a, b):
    """In float32 where the operands are."""
    return tl.dot(a, b, input_precision="ieee")
