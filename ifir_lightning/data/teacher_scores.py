"""A teacher's scores in a training table: a column of one list per row, checked at the door."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ifir_lightning.errors import InputError

COLUMN = "teacher_scores"
SCORED_COLUMNS = ("positive_passages", "new_negatives", "negative_passages")
"""In the order of the scores: positives, instruction negatives, hard negatives."""


def has_scores(table: datasets.Dataset) -> bool:
    """Whether any row has scores (a table of jsonl files always has the column)."""
    return COLUMN in table.column_names and table.data.column(COLUMN).null_count < len(table)


def check_scores(table: datasets.Dataset, path: str, rows: np.ndarray) -> None:
    """InputError unless each of these rows has one finite score for each of its passages.

    Reads list offsets and scores, no text.
    """
    kind = table.data.schema.field(COLUMN).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_floating(kind.value_type):
        raise InputError(f"{path}: the column {COLUMN} has the type {kind}; allowed is a list of floats: convert it")
    faulty = np.concatenate([_faulty(batch) for batch in table.data.select([COLUMN, *SCORED_COLUMNS]).to_batches()])
    if len(wrong := rows[faulty[rows]]):
        raise InputError(
            f"{path}: row {wrong[0]} has no whole list of {COLUMN} ({len(wrong)} of {len(rows)} rows); allowed is one "
            "finite number for each positive, instruction negative and hard negative, in this order: correct the "
            "column, or give the scores of the command teach as data.teacher_scores"
        )


def _faulty(batch: pa.RecordBatch) -> np.ndarray:
    """True for rows whose scores are too few, too many or not finite."""
    wanted = sum(_lengths(batch.column(name)) for name in SCORED_COLUMNS)
    scores = batch.column(COLUMN)
    faulty = _lengths(scores) != wanted
    unusable = ~pc.fill_null(pc.is_finite(scores.flatten()), False).to_numpy(zero_copy_only=False)
    faulty[pc.list_parent_indices(scores).to_numpy()[unusable]] = True
    return faulty


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
