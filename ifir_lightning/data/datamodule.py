"""PromptrieverData: a table of training rows as batches, in an order that nothing can disturb."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import datasets
import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from ifir_lightning import distributed
from ifir_lightning.data import formats, order
from ifir_lightning.data.collate import collate
from ifir_lightning.data.held_out import held_out_rows
from ifir_lightning.data.sampling import GroupSampler, check_group_size
from ifir_lightning.data.subsets import subset
from ifir_lightning.data.teacher_cache import TeacherCache
from ifir_lightning.data.teacher_scores import check_scores, has_scores
from ifir_lightning.data.workers import start_worker
from ifir_lightning.errors import InputError
from ifir_lightning.records import Batch, Row
from ifir_lightning.text import TextTokenizer

_log = logging.getLogger(__name__)
_NO_SETTINGS = {
    "table": ("the fingerprint of data.path", "restore the table"),
    "num_rows": ("the number of rows to train on", "restore the callback that holds rows out (InstructionMarginProbe)"),
}
"""What a checkpoint says of its data beside their settings, and how it is restored."""


class PromptrieverData(LightningDataModule):
    """Training data in the layout of ``samaya-ai/msmarco-w-instructions``.

    Global batch g of epoch e holds the same rows, with the same negatives, for every number of ranks and workers
    and after every resume; rank r of W takes rows r::W of it.

    Args:
        path: Hub id, folder of parquet files, ``.parquet`` or ``.jsonl`` file, or ``synthetic[:NUM_ROWS]``.
        global_batch_size: Queries of one forward and backward pass over all ranks; the ranks divide it.
        groups: How a row becomes one positive and its negatives.
        rows: Train on all rows, on those with an instruction, or on those without.
        instruction_fraction: Share of rows with an instruction in every epoch, in [0, 1]; rows of the
            over-represented kind are left out at random. By default the table's own share.
        fraction: Share of the queries to train on: nested subsets by hash (``data/subsets.py``); by default all.
        instructions_per_query: At most so many rows with an instruction of each query; by default all.
        num_workers: Loader processes that sample and tokenise; 0 does it in the training process.
        revision: Revision on the hub.
        teacher_scores: Folder of scores that the command ``teach`` wrote for this table, in place of its column
            ``teacher_scores``.
        seed: Of the order of rows; recipes link it and ``groups.seed`` to ``seed_everything``.
    """

    def __init__(
        self,
        path: str,
        global_batch_size: int = 32,
        groups: GroupSampler = GroupSampler(group_size=8),  # noqa: B008  (frozen)
        rows: formats.Rows = "all",
        instruction_fraction: float | None = None,
        fraction: float | None = None,
        instructions_per_query: int | None = None,
        num_workers: int = 0,
        revision: str | None = None,
        teacher_scores: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_workers < 0:
            raise InputError(f"data.num_workers is {num_workers}; allowed is 0 or more: set it to 0")
        self.path, self.revision, self.groups, self.teacher_scores = path, revision, groups, teacher_scores
        self.global_batch_size, self.num_workers, self.seed = global_batch_size, num_workers, seed
        self.rows, self.instruction_fraction = rows, instruction_fraction
        self.fraction, self.instructions_per_query = fraction, instructions_per_query
        self.selected: np.ndarray | None = None
        self.seconds_waited = 0.0
        self._restored: dict[str, int] | None = None

    def prepare_data(self) -> None:
        """Download and convert once per node; the synthetic table has nothing of that."""
        if self.trainer is not None and self.trainer.training and not self.path.startswith("synthetic"):
            formats.open_table(self.path, self.revision)

    def setup(self, stage: str) -> None:
        """Open and check the table: every fault that a look at its columns can find is found here."""
        if stage != "fit":
            return
        self.table = formats.open_table(self.path, self.revision)
        formats.check_table(self.table, self.path)
        if self.teacher_scores is not None:
            self.table = TeacherCache(self.teacher_scores, self.table, self.path).read()
        rows = formats.select_rows(self.table, self.rows)
        self.selected = subset(self.table, rows, self.fraction, self.instructions_per_query, self.seed)
        if len(self.selected) < len(rows):
            _log.info(
                "%s: fraction and instructions_per_query keep %d of %d rows", self.path, len(self.selected), len(rows)
            )
        self.has_instruction = formats.has_instruction(self.table)[self.selected]
        self._check_groups(self.selected)
        self._check_teacher(self.selected)
        self._check_batches()
        self.fingerprint = formats.fingerprint(self.table)

    def hold_out(self, share: float) -> np.ndarray:
        """Take the rows of a share of the queries out of training, between ``setup`` and the first batch; which rows.

        Raises:
            InputError: A share that is not between 0 and 1, or that leaves less than a batch.
        """
        assert self.selected is not None
        out = held_out_rows(self.table, share)[self.selected]
        rows, self.selected = self.selected[out], self.selected[~out]
        self.has_instruction = self.has_instruction[~out]
        self._check_batches()
        return rows

    def _check_groups(self, rows: np.ndarray) -> None:
        counts = formats.count_negatives(self.table)[rows]
        if repeated := check_group_size(counts, self.groups.group_size, rows):
            _log.warning("%s: %s", self.path, repeated)

    def _check_teacher(self, rows: np.ndarray) -> None:
        """A loss that distils gets scores, and the others none."""
        module: Any = self.trainer and self.trainer.lightning_module
        needed, present = module is not None and module.loss.needs_teacher, has_scores(self.table)
        self.teaches = needed and present
        if self.teaches:
            check_scores(self.table, self.path, rows)
        elif needed:
            raise InputError(
                f"model.loss {type(module.loss).__name__} learns from a teacher's scores, but {self.path} has no "
                "column teacher_scores; allowed is a table with it, or the folder that the command teach wrote for "
                "this table: set data.teacher_scores, or choose InfoNCE"
            )
        elif present:
            _log.warning("%s: its teacher_scores are not used: model.loss does not distil", self.path)
        if needed and self.groups.group_size < 2:
            raise InputError(
                f"data.groups.group_size is {self.groups.group_size}; a distilling loss compares the passages of a "
                "group, so allowed is 2 or more: raise it"
            )

    def _check_batches(self) -> None:
        num_rows, accumulated = len(self.epoch_rows(0)), self.trainer.accumulate_grad_batches if self.trainer else 1
        self.batches_per_epoch = order.whole_steps(order.num_batches(num_rows, self.global_batch_size), accumulated)
        order.rows_of_rank(np.arange(self.global_batch_size), distributed.rank(), distributed.world_size())
        _log.info(
            "%s: %d rows, %d batches of %d queries an epoch; the %d rows left over change with the epoch",
            self.path,
            num_rows,
            self.batches_per_epoch,
            self.global_batch_size,
            num_rows - self.batches_per_epoch * self.global_batch_size,
        )

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Rows of the table in the order of an epoch."""
        assert self.selected is not None
        if self.instruction_fraction is None:
            positions = order.epoch_order(len(self.selected), self.seed, epoch)
        else:
            positions = order.mixed_order(self.has_instruction, self.instruction_fraction, self.seed, epoch)
        return self.selected[positions]

    def train_dataloader(self) -> "EpochLoader":
        """Batches of the current epoch, from the restored position on."""
        return EpochLoader(self)

    def val_dataloader(self) -> range:
        """One empty batch: validation is the work of callbacks, Lightning wants a batch to loop over."""
        return range(1)

    def test_dataloader(self) -> range:
        """As ``val_dataloader``."""
        return range(1)

    def predict_dataloader(self) -> range:
        """As ``val_dataloader``."""
        return range(1)

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, batches done, and what must not change when training continues."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.ready  # every batch that was fetched is processed when a checkpoint is written
        return {"epoch": self.trainer.current_epoch, "batches_done": done} | self._identity()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a position; validate, test and predict, which read no table, have none.

        Raises:
            InputError: The data, the batch or the seed differ from those of the checkpoint.
        """
        if self.selected is None:
            return
        self._restored = state_dict
        for name, value in self._identity().items():
            if (written := state_dict.get(name)) != value:
                what, remedy = _NO_SETTINGS.get(name, (f"data.{name}", f"restore data.{name}"))
                raise InputError(
                    f"{what} is {value}, the checkpoint was written with {written}; to continue it "
                    f"must be the same: {remedy}, or start anew in another run folder"
                )

    def position(self, epoch: int) -> int:
        """Batches of ``epoch`` that were trained on before the checkpoint."""
        if self._restored is None or self._restored["epoch"] != epoch:
            return 0
        return self._restored["batches_done"]

    def _identity(self) -> dict[str, Any]:
        assert self.selected is not None
        return {
            "rows": self.rows,
            "global_batch_size": self.global_batch_size,
            "instruction_fraction": self.instruction_fraction,
            "fraction": self.fraction,
            "instructions_per_query": self.instructions_per_query,
            "seed": self.seed,
            **{f"groups.{name}": value for name, value in asdict(self.groups).items()},
            "table": self.fingerprint,
            "num_rows": len(self.selected),
        }


class EpochLoader:
    """Iterates over one epoch. It asks for epoch and position at the first ``next()``, when both are known."""

    def __init__(self, data: PromptrieverData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        data, trainer = self.data, self.data.trainer
        assert trainer is not None
        tokenizer: TextTokenizer = trainer.lightning_module.retriever.tokenizer  # type: ignore[union-attr,assignment]
        overfits = trainer.overfit_batches  # type: ignore[attr-defined]
        epoch = 0 if overfits else trainer.current_epoch  # to overfit is to see the same batches again
        batches = EpochBatches(data, epoch, tokenizer)
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=range(data.position(trainer.current_epoch), len(self)),
            num_workers=data.num_workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            worker_init_fn=start_worker,
        )
        ready = iter(loader)
        while (batch := self._timed(ready)) is not None:
            yield batch

    def _timed(self, ready: Iterator[Batch]) -> Batch | None:
        """The next batch, and the time that training waited for it."""
        begin = time.perf_counter()
        batch = next(ready, None)
        self.data.seconds_waited += time.perf_counter() - begin
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Empty, the position is in the state of the data module; it tells Lightning that an epoch can be resumed."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see ``state_dict``."""


class EpochBatches(Dataset[Batch]):
    """Batch number ``step`` of an epoch, for this rank: a pure function of seed, epoch and step."""

    def __init__(self, data: PromptrieverData, epoch: int, tokenizer: TextTokenizer) -> None:
        self.table: datasets.Dataset = data.table
        self.groups, self.global_batch_size = data.groups, data.global_batch_size
        self.teaches = data.teaches
        self.order, self.epoch, self.tokenizer = data.epoch_rows(epoch), epoch, tokenizer
        self.rank, self.world_size = distributed.rank(), distributed.world_size()

    def __getitem__(self, step: int) -> Batch:
        rows = order.rows_of_batch(self.order, step, self.global_batch_size)
        own = order.rows_of_rank(rows, self.rank, self.world_size).tolist()
        columns = self.table[own]
        records = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        groups = [self.groups(self._row(record), row, self.epoch) for record, row in zip(records, own, strict=True)]
        return collate(groups, own, self.tokenizer)

    def _row(self, record: dict[str, Any]) -> Row:
        row = formats.to_row(record)
        return row if self.teaches else replace(row, teacher_scores=None)
