"""The nouns that every part of the project shares.

Letters in tensor names (``scores_QP`` is a matrix of queries by passages):

    B  texts in a batch          T  tokens of all texts, one after the other
    Q  queries                   D  width of a hidden state or an embedding
    P  passages                  N  embedding rows: one per kept token, or one per text
    G  group size (1 positive + its negatives)
    K  listed (query, passage) pairs

Nothing is padded: B texts are one flat tensor of T tokens and B lengths. The passages of a batch are
*group-major*: those of query i are the rows i*G to (i+1)*G, its positive first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Passage:
    """A text that can be retrieved."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Row:
    """One training query with all its passages, whatever layout it was stored in.

    ``query`` is the query without its instruction, ``instruction`` is "" where there is none.
    ``teacher_scores``, where present, follow the order positives, instruction negatives, hard negatives.
    """

    query_id: str
    query: str
    instruction: str
    positives: tuple[Passage, ...]
    hard_negatives: tuple[Passage, ...]
    instruction_negatives: tuple[Passage, ...]
    teacher_scores: tuple[float, ...] | None = None


def row_passages(row: Row) -> tuple[Passage, ...]:
    """All passages of a row, in the order of its ``teacher_scores``."""
    return row.positives + row.instruction_negatives + row.hard_negatives


class Kind(IntEnum):
    """What a passage is to a query."""

    POSITIVE = 0
    INSTRUCTION_NEGATIVE = 1  # fits the query, breaks the instruction
    HARD_NEGATIVE = 2  # mined for this query
    IN_BATCH = 3  # belongs to another query of the global batch
    EXCLUDED = 4  # the query's own positive once more: neither positive nor negative


@dataclass(frozen=True)
class Group:
    """One query and its ``group_size`` passages: the positive, then instruction negatives, then hard ones.

    ``teacher_scores``, where the row has them, are those of these passages.
    """

    query: str
    instruction: str
    passages: tuple[Passage, ...]
    kinds: tuple[Kind, ...]
    teacher_scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Packed:
    """Texts laid end to end: ``lengths_B`` says where one stops and the next begins.

    Fields whose name ends in ``_B`` have one entry per text, all others one row per token (or embedding). Every
    method keeps them together. ``lengths_B``, and ``keep_T`` where there is one, stay on the CPU, so that shapes are
    known without a device wait.
    """

    lengths_B: Tensor

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def offsets_B(self) -> Tensor:
        """Row at which each text begins."""
        return self.lengths_B.cumsum(0) - self.lengths_B

    def to(self, device: torch.device | str) -> Self:
        """The same texts on another device, by way of ``on_device``."""
        return self._map(lambda name, value: value if name == "keep_T" else on_device(value, torch.device(device)))

    def pin_memory(self) -> Self:
        """The same texts in page-locked memory (called by the data loader)."""
        return self._map(lambda name, value: value if name == "keep_T" else value.pin_memory())

    def select(self, index_K: Tensor) -> Self:
        """The texts ``index_K``, in that order."""
        lengths_K = self.lengths_B[index_K]
        rows = segment_rows(self.offsets_B[index_K], lengths_K)

        def pick(name: str, value: Tensor) -> Tensor:
            index = index_K if name.endswith("_B") else rows
            return value[on_device(index, value.device)]

        return replace(self._map(pick), lengths_B=lengths_K)

    def split(self, *num_texts: int) -> tuple[Self, ...]:
        """Consecutive parts: one of as many texts as each number says."""
        bounds = torch.tensor((0, *num_texts)).cumsum(0).tolist()
        assert bounds[-1] == len(self), f"parts of {num_texts} texts do not make {len(self)}"
        return tuple(self._slice(start, stop) for start, stop in pairwise(bounds))

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All texts of ``parts``, one after the other."""
        values: dict[str, Tensor | None] = {}
        for field in fields(cls):
            present = [value for part in parts if (value := getattr(part, field.name)) is not None]
            assert len(present) in (0, len(parts)), f"{field.name} is set in some parts only"
            values[field.name] = torch.cat(present) if present else None
        return cls(**values)  # type: ignore[arg-type]

    def _slice(self, start: int, stop: int) -> Self:
        first, last = int(self.lengths_B[:start].sum()), int(self.lengths_B[:stop].sum())
        part = self._map(lambda name, v: v[start:stop] if name.endswith("_B") else v[first:last])
        return replace(part, lengths_B=self.lengths_B[start:stop])

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        changed = {
            field.name: change(field.name, value)
            for field in fields(self)
            if field.name != "lengths_B" and (value := getattr(self, field.name)) is not None
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class Tokens(Packed):
    """Tokenised texts.

    ``keep_T``: tokens that late interaction keeps; ``cut_B``: tokens lost to the limit; ``attend_T``: tokens that
    the others of their text see, None for all.
    """

    input_ids_T: Tensor
    keep_T: Tensor
    cut_B: Tensor
    attend_T: Tensor | None = None


@dataclass(frozen=True)
class Hidden(Packed):
    """What the backbone makes of Tokens: one hidden state per token; ``keep_T`` is on the CPU, as theirs."""

    values_TD: Tensor
    keep_T: Tensor


@dataclass(frozen=True)
class Embeddings(Packed):
    """What pooling makes of Hidden: one row per kept token, or exactly one per text.

    ``weights_N``, where the pooling learns them, are the factors of weighted MaxSim.
    """

    values_ND: Tensor
    weights_N: Tensor | None = None

    @classmethod
    def one_per_text(cls, values_BD: Tensor) -> "Embeddings":
        """The embeddings of a bi-encoder."""
        return cls(torch.ones(len(values_BD), dtype=torch.int64), values_BD)

    def unpack(self) -> list[Tensor]:
        """One [rows, D] tensor per text."""
        return list(self.values_ND.split(self.lengths_B.tolist()))


@dataclass(frozen=True)
class Batch:
    """The share of one rank in a global batch: Q queries and their Q * G passages, group-major.

    ``passage_ids_P`` are 64-bit digests of the passages' ids (equal ids, equal digests); ``kinds_P`` holds what
    each passage is to its own query; ``rows_Q`` are the rows of the table, for messages; ``teacher_QG``, where the data
    have them, are a teacher's scores of each query's own group, float32.
    """

    queries: Tokens
    passages: Tokens
    passage_ids_P: Tensor
    kinds_P: Tensor
    rows_Q: Tensor
    teacher_QG: Tensor | None = None

    @property
    def group_size(self) -> int:
        """Passages per query."""
        return len(self.passages) // len(self.queries)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device, by way of ``on_device``."""
        target = torch.device(device)
        return self._map(lambda value: on_device(value, target) if isinstance(value, Tensor) else value.to(target))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (called by the data loader)."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, change: Callable[[Any], Any]) -> "Batch":
        present = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(self, **{name: change(value) for name, value in present.items()})


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on the device; to a GPU from page-locked memory: else CUDA ends its queued work before it copies."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def segment_rows(offsets_K: Tensor, lengths_K: Tensor) -> Tensor:
    """Row numbers of segments that begin at ``offsets_K`` and are ``lengths_K`` long, one after the other."""
    before_K = lengths_K.cumsum(0) - lengths_K
    return torch.repeat_interleave(offsets_K - before_K, lengths_K) + torch.arange(int(lengths_K.sum()))


def segment_reduce(values_TD: Tensor, reduction: Literal["sum", "mean"], lengths_B: Tensor) -> Tensor:
    """One row per segment of ``lengths_B`` (on the CPU) rows; torch's own check of them would wait for the device."""
    assert int(lengths_B.sum()) == len(values_TD), "lengths that do not make up the rows"
    return _SegmentReduce.apply(values_TD, reduction, on_device(lengths_B, values_TD.device))


class _SegmentReduce(torch.autograd.Function):
    """torch's own keeps the values for the backward pass, whose gradient is the same without them."""

    @staticmethod
    def forward(ctx: Any, values_TD: Tensor, reduction: str, lengths_B: Tensor) -> Tensor:
        ctx.save_for_backward(lengths_B)
        ctx.reduction, ctx.num_rows = reduction, len(values_TD)
        return torch.segment_reduce(values_TD, reduction, lengths=lengths_B, axis=0, unsafe=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (lengths_B,), (grad_BD,) = ctx.saved_tensors, gradients
        if ctx.reduction == "mean":
            grad_BD = grad_BD / lengths_B.view(-1, *[1] * (grad_BD.ndim - 1))
        return grad_BD.repeat_interleave(lengths_B, dim=0, output_size=ctx.num_rows), None, None


def token_chunks(lengths_B: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Texts sorted by length, in parts of at most ``max_tokens`` tokens (a single text may exceed it)."""
    order_B = lengths_B.argsort(descending=True, stable=True)
    total_B = lengths_B[order_B].cumsum(0)
    start = done = 0
    while start < len(order_B):
        stop = max(start + 1, int(torch.searchsorted(total_B, done + max_tokens, right=True)))
        yield order_B[start:stop]
        start, done = stop, int(total_B[stop - 1])
