"""From a row to a group: which positive and which negatives one training step sees.

Every choice is a pure function of (seed, epoch, row): it knows no rank, no worker and no global generator.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ifir_lightning.data.order import check_seed, permutation
from ifir_lightning.errors import InputError
from ifir_lightning.records import Group, Kind, Passage, Row, row_passages

_log = logging.getLogger(__name__)

Negative = tuple[int, Kind]
"""Place of a passage in ``row_passages``, and what it is."""
Strategy = Literal["shuffled_window", "random", "top", "top_k_random"]

POSITIVE, WINDOW, DRAW, REPEAT = 1, 2, 3, 4
"""Purposes of ``permutation`` (0 is the order of rows), so that no two choices share their randomness."""


@dataclass(frozen=True)
class GroupSampler:
    """Makes the group of a row: 1 positive, instruction negatives, hard negatives.

    Instruction negatives come first, in file order, up to ``max_instruction_negatives``; hard negatives fill
    the rest of ``group_size`` by ``strategy``:

    - ``shuffled_window``: a shuffle of the row that is the same in every epoch, and a window on it that moves
      on by its own length each epoch and wraps around. Over the epochs all are seen equally often
      (Promptriever's way).
    - ``random``: a new draw without replacement each epoch.
    - ``top``: the first ones of the file, the same in every epoch.
    - ``top_k_random``: a new draw among the first ``top_k``, which only this strategy reads.

    With too few hard negatives the group takes hard negatives beyond ``top_k``, then instruction negatives
    beyond ``max_instruction_negatives``, then repeats what it has in a seeded order, each as often as the
    others. Instruction negatives are never dropped for it. A negative that is also a positive of the row (by
    id) is left out.
    """

    group_size: int
    max_instruction_negatives: int = 3
    strategy: Strategy = "shuffled_window"
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("group_size", self.group_size, 1)
        _at_least("max_instruction_negatives", self.max_instruction_negatives, 0)
        check_seed(self.seed)
        if self.strategy not in get_args(Strategy):
            allowed = ", ".join(get_args(Strategy))
            raise InputError(f"strategy {self.strategy!r}: allowed are {allowed}: choose one")
        self._check_top_k()

    def _check_top_k(self) -> None:
        if self.strategy == "top_k_random":
            _at_least("top_k (of strategy top_k_random)", self.top_k or 0, 1)
        elif self.top_k is not None:
            _log.warning("top_k %d is ignored by strategy %r", self.top_k, self.strategy)

    def __call__(self, row: Row, row_index: int, epoch: int) -> Group:
        """The group of a row in an epoch: positive, instruction negatives, hard negatives."""
        pick = int(self._permutation(len(row.positives), POSITIVE, row_index, epoch)[0])
        chosen = [(pick, Kind.POSITIVE), *self._negatives(row, row_index, epoch)]
        passages, scores = row_passages(row), row.teacher_scores
        return Group(
            query=row.query,
            instruction=row.instruction,
            passages=tuple(passages[place] for place, _ in chosen),
            kinds=tuple(kind for _, kind in chosen),
            teacher_scores=None if scores is None else tuple(scores[place] for place, _ in chosen),
        )

    def _negatives(self, row: Row, row_index: int, epoch: int) -> list[Negative]:
        wanted = self.group_size - 1
        instruction, hard = _usable_negatives(row)
        limit = min(self.max_instruction_negatives, wanted)
        num_hard = wanted - min(limit, len(instruction))
        ordered = [hard[i] for i in self._hard_order(len(hard), num_hard, row_index, epoch)]
        # Spare instruction negatives stand behind all hard ones: they are taken only where those run out.
        chosen = (instruction[:limit] + ordered + instruction[limit:])[:wanted]
        chosen += self._repeats(chosen, wanted - len(chosen), row, row_index, epoch)
        return sorted(chosen, key=lambda negative: negative[1])  # stable: only kinds move

    def _hard_order(self, num_hard: int, window: int, row_index: int, epoch: int) -> Iterable[int]:
        """All hard negatives of a row, those to take first first."""
        if self.strategy == "top":
            return range(num_hard)
        if self.strategy == "shuffled_window":
            return np.roll(self._permutation(num_hard, WINDOW, row_index), -epoch * window)
        top_k = self.top_k if self.strategy == "top_k_random" else None
        drawn = min(num_hard, top_k or num_hard)
        return [*self._permutation(drawn, DRAW, row_index, epoch), *range(drawn, num_hard)]

    def _repeats(
        self, chosen: list[Negative], num_missing: int, row: Row, row_index: int, epoch: int
    ) -> list[Negative]:
        """As many copies as are missing, going round a seeded order of what there is."""
        if num_missing == 0:
            return []
        if not chosen:
            own = " but its own positives, by docid," if row.hard_negatives + row.instruction_negatives else ""
            raise InputError(
                f"row {row_index} (query_id {row.query_id!r}) has no negative{own} for group_size "
                f"{self.group_size}: above 1 every row needs one: give it some, remove it, or set it to 1"
            )
        order = self._permutation(len(chosen), REPEAT, row_index, epoch)
        return [chosen[i] for i in np.resize(order, num_missing)]

    def _permutation(self, length: int, purpose: int, row_index: int, epoch: int = 0) -> np.ndarray:
        return permutation(length, purpose=purpose, seed=self.seed, epoch=epoch, row=row_index)


def _usable_negatives(row: Row) -> tuple[list[Negative], list[Negative]]:
    """Instruction and hard negatives in file order with their kind, without the row's positives."""
    positive_ids = {passage.id for passage in row.positives}

    def usable(passages: Sequence[Passage], kind: Kind, start: int) -> list[Negative]:
        return [(number, kind) for number, each in enumerate(passages, start) if each.id not in positive_ids]

    first = len(row.positives)
    return (
        usable(row.instruction_negatives, Kind.INSTRUCTION_NEGATIVE, first),
        usable(row.hard_negatives, Kind.HARD_NEGATIVE, first + len(row.instruction_negatives)),
    )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"data.groups.{name} is {value}; allowed is {least} or more: raise it")


def check_group_size(num_negatives_per_row: np.ndarray, group_size: int, rows: np.ndarray | None = None) -> str | None:
    """InputError if groups of this size cannot be made; a sentence if some repeat negatives; otherwise None.

    ``num_negatives_per_row`` counts hard and instruction negatives together; ``rows`` are the numbers of these rows
    in the table, where they are a selection of it.
    """
    _at_least("group_size", group_size, 1)
    most, needed = int(num_negatives_per_row.max()), group_size - 1
    if most < needed:
        raise InputError(
            f"data.groups.group_size {group_size} is more than any row can fill: the most negatives a row has is "
            f"{most}: choose 1 to {most + 1} or add negatives"
        )
    num_rows, bare = len(num_negatives_per_row), np.flatnonzero(num_negatives_per_row == 0)
    if needed and len(bare):
        first = bare[0] if rows is None else rows[bare[0]]
        raise InputError(
            f"data.groups.group_size {group_size}: {len(bare)} of {num_rows} rows have no negative, first row {first}: "
            "above 1 every row needs one: give them negatives, remove them, or set group_size to 1"
        )
    short = int((num_negatives_per_row < needed).sum())
    if not short:
        return None
    return f"{short} of {num_rows} rows have fewer than {needed} negatives: theirs are repeated"
