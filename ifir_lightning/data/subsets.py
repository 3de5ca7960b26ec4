"""Parts of a training table for the question how much data a model needs: fewer queries, fewer instructions of each.

A query is its text without the instruction: its rows differ in instruction and go together. What is kept follows from
a hash of the seed and the text alone, so 1% of the queries lie inside 3% of them, and these inside 10%.
"""

import hashlib
from collections import defaultdict

import datasets
import numpy as np

from ifir_lightning.data import formats
from ifir_lightning.errors import InputError


def subset(
    table: datasets.Dataset, rows: np.ndarray, fraction: float | None, instructions_per_query: int | None, seed: int
) -> np.ndarray:
    """Those of ``rows`` that stay: of about a ``fraction`` of the queries, at most so many rows with an instruction.

    Rows without an instruction are not counted. Which of a query's rows stay is nested, too: one is among two.

    Raises:
        InputError: Nothing would be left, or a setting out of its range.
    """
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"data.fraction is {fraction}; allowed is more than 0 and at most 1: set it to 0.1, say")
    if instructions_per_query is not None and instructions_per_query < 1:
        raise InputError(
            f"data.instructions_per_query is {instructions_per_query}; allowed is 1 or more: for none set data.rows to "
            "without_instruction"
        )
    if fraction is None and instructions_per_query is None:
        return rows
    queries = list(formats.query_texts(table, rows))
    kept = [index for index, query in enumerate(queries) if place(f"{seed}/{query}") < (fraction or 1)]
    if instructions_per_query is not None:
        kept = _limited(table, rows, queries, kept, instructions_per_query, seed)
    if not kept:
        raise InputError(
            f"data.fraction {fraction} keeps none of the {len(set(queries))} queries; allowed is a share that keeps "
            "one: raise it"
        )
    return rows[kept]


def _limited(
    table: datasets.Dataset, rows: np.ndarray, queries: list[str], kept: list[int], limit: int, seed: int
) -> list[int]:
    """Of each query's rows with an instruction the first by the hash of their id."""
    asks, ids = formats.has_instruction(table)[rows], list(formats.query_ids(table))
    by_query: dict[str, list[int]] = defaultdict(list)
    for index in kept:
        if asks[index]:
            by_query[queries[index]].append(index)
    dropped: set[int] = set()
    for indices in by_query.values():
        dropped |= set(sorted(indices, key=lambda index: place(f"{seed}/{ids[rows[index]]}"))[limit:])
    return [index for index in kept if index not in dropped]


def place(text: str) -> float:
    """A hash in [0, 1), evenly spread."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
