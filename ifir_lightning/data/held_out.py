"""Which queries of a training table stay out of training."""

import datasets
import numpy as np

from ifir_lightning.data import formats
from ifir_lightning.data.subsets import place
from ifir_lightning.errors import InputError


def held_out_rows(table: datasets.Dataset, share: float) -> np.ndarray:
    """Flags [num_rows] of the rows of about a ``share`` of the queries.

    Which they are follows from a hash of the query's text alone: the rows of a query go together, with and without
    instruction (each has an id of its own), and neither seed nor order nor the other rows change them; a larger share
    holds a smaller one.

    Raises:
        InputError: A share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"held-out share {share}: allowed is more than 0 and less than 1: set it to 0.01")
    queries = formats.query_texts(table, np.arange(len(table)))
    return np.fromiter((place(query) < share for query in queries), dtype=bool, count=len(table))
