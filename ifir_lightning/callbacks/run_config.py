"""RunConfig: the recipe of a run, in its folder and in its checkpoints."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from ifir_lightning import durable, manifests, run_folder
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.preflight import check_agreement
from ifir_lightning.resume import Start, shared_settings, training_settings


class RunConfig(SaveConfigCallback):
    """Opens the run folder, once the ranks agree: locks it, clears it (``run_folder.clear``), writes ``config.yaml``.

    ``config.yaml`` holds the settings of this start. Where those of an earlier one differ they are kept as
    ``config-1.yaml``, ``config-2.yaml``, ... in the order of the starts.

    Args:
        parser: LightningCLI's, of ``fit``.
        config: Its settings.
        start: The checkpoint that is continued, if any.
        recipe: All settings as plain data; each checkpoint carries its ``resume.training_settings``.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, start: Start | None, recipe: dict[str, Any]
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.start, self.recipe = start, recipe

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Nothing is written before all ranks have agreed on what they are about to do."""
        check_agreement(self._facts(trainer))
        super().setup(trainer, module, stage)

    def _facts(self, trainer: Trainer) -> dict[str, Any]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        table = data.fingerprint if isinstance(data, PromptrieverData) else None
        step = None if self.start is None else self.start.step
        found = {"the data's fingerprint": table, "the step to continue": step}
        return {**shared_settings(self.recipe), **manifests.versions(), **found}

    def save_config(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """On rank 0, when every rank has found its checkpoint (each did before it joined the others)."""
        folder = Path(trainer.default_root_dir)
        run_folder.lock(folder)
        run_folder.clear(folder, 0 if self.start is None else self.start.step)
        path, text = folder / "config.yaml", self.parser.dump(self.config, skip_none=False)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            os.replace(path, folder / f"config-{len(list(folder.glob('config-*.yaml'))) + 1}.yaml")
        durable.write_text(path, text)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[manifests.SETTINGS] = training_settings(self.recipe)
