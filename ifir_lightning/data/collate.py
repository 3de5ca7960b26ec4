"""Groups -> Batch: tokenised and packed, in the loader's workers."""

import hashlib
from collections.abc import Sequence

import torch

from ifir_lightning.records import Batch, Group
from ifir_lightning.text import TextTokenizer


def collate(groups: Sequence[Group], rows: Sequence[int], tokenizer: TextTokenizer) -> Batch:
    """The batch of groups of equal size; ``rows`` are their rows in the table."""
    passages = [passage for group in groups for passage in group.passages]
    taught = [group.teacher_scores for group in groups if group.teacher_scores is not None]
    assert len(taught) in (0, len(groups)), "teacher scores are checked at the door"
    return Batch(
        queries=tokenizer.queries((group.query, group.instruction) for group in groups),
        passages=tokenizer.passages(passages),
        passage_ids_P=torch.tensor([id_digest(passage.id) for passage in passages]),
        kinds_P=torch.tensor([kind for group in groups for kind in group.kinds], dtype=torch.int8),
        rows_Q=torch.tensor(rows),
        teacher_QG=torch.tensor(taught) if taught else None,
    )


def id_digest(passage_id: str) -> int:
    """A signed 64-bit number for an id: equal ids have equal numbers, on every rank and in every process.

    Two different ids share a number once in 2**64 / (pairs compared): below 1e-9 for a million passages.
    """
    return int.from_bytes(hashlib.blake2b(passage_id.encode(), digest_size=8).digest(), "big", signed=True)
