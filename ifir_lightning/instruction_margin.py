"""Does the instruction tell the positive from the passages that break it? A leading indicator of p-MRR."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ifir_lightning.records import Passage, Row
from ifir_lightning.retriever import Retriever


def instruction_negatives(row: Row) -> tuple[Passage, ...]:
    """Those that are not also positives, by id."""
    positive_ids = {passage.id for passage in row.positives}
    return tuple(passage for passage in row.instruction_negatives if passage.id not in positive_ids)


@torch.inference_mode()
def instruction_margins(retriever: Retriever, rows: Sequence[Row]) -> Tensor:
    """figures_R4 of rows that have instruction negatives n (q the query, i its instruction, p its first positive).

    - mean over n of s(q + i, p) - s(q + i, n), in units of the score;
    - the same without i: s(q, p) - s(q, n);
    - whether s(q + i, p) > s(q + i, n) for all n, 0 or 1;
    - the same without i.
    """
    queries = [(row.query, instruction) for row in rows for instruction in (row.instruction, "")]
    negatives = [instruction_negatives(row) for row in rows]
    passages = [p for row, broken in zip(rows, negatives, strict=True) for p in (row.positives[0], *broken)]
    groups = [1 + len(broken) for broken in negatives]
    index, first = [], 0
    for number, size in enumerate(groups):
        own = range(first, first + size)
        index += [(query, passage) for query in (2 * number, 2 * number + 1) for passage in own]
        first = own.stop
    tokenizer = retriever.tokenizer
    encoded = retriever.encode(tokenizer.queries(queries)), retriever.encode(tokenizer.passages(passages))
    scores = retriever.scorer.pairs(*encoded, torch.tensor(index)).split([2 * size for size in groups])
    margins = [part.view(2, -1)[:, :1] - part.view(2, -1)[:, 1:] for part in scores]
    return torch.stack([torch.cat([each.mean(1), (each > 0).all(1).float()]) for each in margins])
