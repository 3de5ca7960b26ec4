"""Which rows make a global batch: pure functions of (seed, epoch, step), the same for any number of ranks.

Order is never stored and never drawn from a shared generator: it is computed again wherever it is needed, so
a resume, another number of ranks or of loader workers sees the same batches.
"""

import numpy as np

from ifir_lightning.errors import InputError

EPOCH_ORDER = 0
"""The purpose of the permutation of an epoch's rows; sampling has its own (see ``permutation``)."""


def permutation(length: int, *, purpose: int, seed: int, epoch: int = 0, row: int = 0) -> np.ndarray:
    """A random order of ``range(length)`` that belongs to one address.

    The address is the key (seed, purpose) and the counter (row, epoch) of a Philox stream: no two addresses
    share a number. Raw words are sorted, and ``Generator.permutation`` is not used, because numpy promises
    equal bit streams in all its versions, but not equal distributions.
    """
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, row, epoch, 0], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(length)
    return np.argsort(words, kind="stable")


def check_seed(seed: int) -> None:
    """InputError unless the seed fits the key of ``permutation``."""
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed}: it must lie between 0 and 2**64 - 1: choose another")


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits rows 0 to ``num_rows`` - 1, each once."""
    check_seed(seed)
    return permutation(num_rows, purpose=EPOCH_ORDER, seed=seed, epoch=epoch)


def mixed_counts(num_with: int, num_without: int, instruction_fraction: float) -> tuple[int, int]:
    """How many rows with and without an instruction an epoch keeps: as many as the share allows, none twice.

    The kind that is short keeps all its rows; the other is cut, to the nearest whole row.
    """
    share = instruction_fraction
    if not 0 <= share <= 1:
        raise InputError(
            f"instruction_fraction {share}: it must lie between 0 and 1: choose a share, or null for all rows"
        )
    if (share > 0 and num_with == 0) or (share < 1 and num_without == 0):
        raise InputError(
            f"instruction_fraction {share} needs rows of both kinds (0 and 1 need one), but {num_with} have "
            f"an instruction and {num_without} have none: set it to null or add rows"
        )
    if share > 0 and num_with * (1 - share) <= num_without * share:
        return num_with, round(num_with * (1 - share) / share)
    return round(num_without * share / (1 - share)), num_without


def mixed_order(has_instruction: np.ndarray, instruction_fraction: float, seed: int, epoch: int) -> np.ndarray:
    """``epoch_order`` without the rows that would spoil the share of rows with an instruction.

    ``has_instruction`` [num_rows] is boolean. Which rows of the over-represented kind are left out changes
    with the epoch; how many rows are kept does not (``sum(mixed_counts(...))``).
    """
    order = epoch_order(len(has_instruction), seed, epoch)
    flags = has_instruction[order]
    num_with, num_without = mixed_counts(int(flags.sum()), int((~flags).sum()), instruction_fraction)
    return order[np.where(flags, np.cumsum(flags) <= num_with, np.cumsum(~flags) <= num_without)]


def num_batches(num_rows: int, global_batch_size: int) -> int:
    """Whole global batches in an epoch: the incomplete one at its end is dropped."""
    if global_batch_size < 1:
        raise InputError(f"data.global_batch_size is {global_batch_size}; allowed is 1 or more: raise it")
    if num_rows < global_batch_size:
        raise InputError(
            f"global batch size {global_batch_size} exceeds the {num_rows} rows to train on: allowed is 1 to "
            f"{num_rows}: lower the batch size or add rows"
        )
    return num_rows // global_batch_size


def whole_steps(num_batches: int, accumulated: int) -> int:
    """Batches of an epoch without those of a last step that is not full: of it, Lightning would divide the gradient by
    all ``accumulated`` batches of a full one.
    """
    if num_batches < accumulated:
        raise InputError(
            f"trainer.accumulate_grad_batches is {accumulated}, but an epoch has {num_batches} batches; allowed are 1 "
            f"to {num_batches}: lower it, or data.global_batch_size"
        )
    return num_batches - num_batches % accumulated


def rows_of_batch(order: np.ndarray, step: int, global_batch_size: int) -> np.ndarray:
    """The rows of global batch ``step`` of the epoch that has this order."""
    assert 0 <= step < num_batches(len(order), global_batch_size)
    return order[step * global_batch_size : (step + 1) * global_batch_size]


def rows_of_rank(rows: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The share of one rank: every ``world_size``-th row of the global batch, from its rank on."""
    assert 0 <= rank < world_size
    if len(rows) % world_size:
        raise InputError(
            f"global batch size {len(rows)} is not divisible by {world_size} ranks, which take equal "
            f"shares of it: choose a multiple of {world_size}"
        )
    return rows[rank::world_size]
