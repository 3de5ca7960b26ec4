"""InstructionMarginProbe: on rows that training never takes, what the instruction does to the margin."""

import json
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ifir_lightning import distributed, durable
from ifir_lightning.callbacks.observer import ValidationObserver
from ifir_lightning.data import formats
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.errors import InputError
from ifir_lightning.instruction_margin import instruction_margins, instruction_negatives
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Row

NAMES = ("margin", "margin_without_instruction", "accuracy", "accuracy_without_instruction")


class InstructionMarginProbe(ValidationObserver):
    """Holds rows of the training table out and, at every validation of ``fit``, logs means over them.

    ``followir/probe/margin``: s(query + instruction, positive) - s(query + instruction, instruction negative), in
    units of the score; ``followir/probe/accuracy``: x100, of the rows whose positive beats all their instruction
    negatives; and both ``..._without_instruction``. Written to ``probe.json`` beside ``metrics.json``, drawn under the
    curves of ``p_mrr.png``.

    Args:
        share: Of the queries, how many stay out of training: all their rows (``data/held_out.py``).
        num_rows: Held-out rows to look at, at most.

    Raises:
        InputError: No held-out row with an instruction negative, before training begins.
    """

    def __init__(self, share: float = 0.01, num_rows: int = 256) -> None:
        if num_rows < 1:
            raise InputError(f"InstructionMarginProbe num_rows is {num_rows}; allowed is 1 or more: set it to 256")
        self.share, self.num_rows = share, num_rows
        self._rows: list[Row] = []

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, PromptrieverData)
        self._rows = []
        for number in data.hold_out(self.share).tolist():
            row = formats.to_row(data.table[number])
            if row.instruction and instruction_negatives(row):
                self._rows.append(row)
            if len(self._rows) == self.num_rows:
                break
        if not self._rows:
            raise InputError(
                f"InstructionMarginProbe share {self.share}: no held-out row of {data.path} has an instruction and an "
                "instruction negative; allowed are shares that hold one: raise it, or leave the probe out"
            )

    def finish(self, trainer: Trainer, module: RetrieverModule, folder: Path) -> dict[str, float]:
        if not self._rows:
            return {}
        own = self._rows[distributed.rank() :: distributed.world_size()]
        sums = torch.zeros(len(NAMES), device=module.device)
        if own:
            sums = instruction_margins(module.retriever, own).sum(0)
        means = distributed.all_reduce_mean(sums) * distributed.world_size() / len(self._rows)
        scales = (1, 1, 100, 100)
        figures = {name: value * scale for name, value, scale in zip(NAMES, means.tolist(), scales, strict=True)}
        if trainer.is_global_zero:
            record = {"step": module.steps_done, "num_rows": len(self._rows)} | figures
            durable.write_text(folder / "probe.json", json.dumps(record, indent=1))
        return {f"followir/probe/{name}": value for name, value in figures.items()}
