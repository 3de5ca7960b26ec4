"""RunConfig: the recipe of a run, in its folder and in its checkpoints."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import Logger

from ifir_lightning import durable, launchers, manifests, run_folder
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.errors import InputError
from ifir_lightning.preflight import check_agreement
from ifir_lightning.resume import Start, shared_settings, training_settings


class RunConfig(SaveConfigCallback):
    """Opens the run folder: locks it once the ranks agree; clears it (``run_folder.clear``) and writes ``config.yaml``
    once what is continued has been read. A start that is refused before that leaves the folder as it was.

    ``config.yaml`` holds the settings of this start. Where those of an earlier one differ they are kept as
    ``config-1.yaml``, ``config-2.yaml``, ... in the order of the starts.

    Args:
        parser: LightningCLI's, of ``fit``.
        config: Its settings.
        start: The checkpoint that is continued, if any.
        recipe: All settings as plain data; each checkpoint carries its ``resume.training_settings``.
        seen: The checkpoints of the folder, of which ``start`` was chosen.
        loggers: Those that write as soon as they are opened: the trainer gets them with the folder.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        start: Start | None,
        recipe: dict[str, Any],
        seen: Collection[Path] = (),
        loggers: Collection[Logger] = (),
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.start, self.recipe, self.seen, self.loggers = start, recipe, frozenset(seen), loggers

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Nothing is written before all ranks have agreed on what they are about to do."""
        check_agreement(self._facts(trainer))
        _check_validation(trainer)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            run_folder.lock(folder)
            self._check_line_of_time(folder)

    def _facts(self, trainer: Trainer) -> dict[str, Any]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        table = data.fingerprint if isinstance(data, PromptrieverData) else None
        step = None if self.start is None else self.start.step
        found = {"the data's fingerprint": table, "the step to continue": step}
        return {**shared_settings(self.recipe), **manifests.versions(), **found}

    def _check_line_of_time(self, folder: Path) -> None:
        """A fit that still ended while this one began may have gone on after the step that is continued."""
        written = sorted(path.name for path in set(folder.glob("checkpoints/*.ckpt")) - self.seen)
        if written:
            raise InputError(
                f"trainer.default_root_dir {folder}: another fit has written {', '.join(written)} since this one "
                "began; allowed is one at a time: start this one again, it continues after that"
            )

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Every rank has read its checkpoint, and its data are those of the checkpoint."""
        trainer.loggers = [*trainer.loggers, *self.loggers]
        with run_folder.writing(Path(trainer.default_root_dir)):
            if trainer.is_global_zero:
                self.save_config(trainer, module, "fit")
            for logger in self.loggers:
                _ = logger.experiment  # type: ignore[attr-defined]

    def save_config(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        run_folder.clear(folder, 0 if self.start is None else self.start.step)
        path, text = folder / "config.yaml", self.parser.dump(self.config, skip_none=False)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            os.replace(path, folder / f"config-{run_folder.next_number(folder.glob('config-*.yaml'))}.yaml")
        durable.write_text(path, text)
        launchers.remember(folder)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[manifests.SETTINGS] = training_settings(self.recipe)


def _check_validation(trainer: Trainer) -> None:
    """What Lightning would find when the run folder is open."""
    if 0 < (share := trainer.limit_val_batches) < 1:
        name = "overfit_batches" if trainer.overfit_batches else "limit_val_batches"  # type: ignore[attr-defined]
        raise InputError(
            f"trainer.{name} is {share}, and a validation is one batch, whatever its tasks; allowed is a whole number: "
            "set it to 1"
        )
    data, limit = trainer.datamodule, trainer.limit_train_batches  # type: ignore[attr-defined]
    every, epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if not isinstance(every, int) or epochs is None or not isinstance(data, PromptrieverData):
        return
    batches = data.batches_per_epoch
    batches = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    if every > batches and trainer.limit_val_batches > 0:
        raise InputError(
            f"trainer.val_check_interval is {every}, and an epoch has {batches} batches; allowed is 1 to {batches}, or "
            "any number with trainer.check_val_every_n_epoch null, which counts batches over epochs: set that to null"
        )
