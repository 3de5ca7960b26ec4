"""ExportBest: the best checkpoint as a folder for other libraries, at the end of ``fit``."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from ifir_lightning import manifests
from ifir_lightning.errors import InputError
from ifir_lightning.export import check_output, export_format, write_export
from ifir_lightning.model_card import model_card, read_history_of
from ifir_lightning.module import RetrieverModule
from ifir_lightning.retriever import load_retriever


class ExportBest(Callback):
    """Exports the best checkpoint (the newest where none was validated) into ``<run folder>/export``.

    A model that no other library could compute (a pooling of your own, ...) is not exported, nor into a folder that
    holds something else than an export; a warning says so before training begins.

    Args:
        license: For the model card, an identifier of the hub, e.g. "apache-2.0".
    """

    def __init__(self, license: str = "unknown") -> None:
        self.license, self.possible = license, True

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        assert isinstance(module, RetrieverModule)
        if stage != "fit":
            return
        try:
            export_format(module.retriever)
            check_output(Path(trainer.default_root_dir) / "export", overwrite=True)
        except InputError as error:
            self.possible = False
            rank_zero_warn(f"ExportBest: nothing will be exported: {error}")

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Export, where there is a checkpoint."""
        assert isinstance(module, RetrieverModule)
        if not self.possible:
            return
        folder = Path(trainer.default_root_dir)
        checkpoint = manifests.best_or_newest(folder / "checkpoints")
        if checkpoint is None:
            rank_zero_warn("ExportBest: no checkpoint was written, nothing is exported: add Checkpoints")
            return
        output = folder / "export"
        retriever = load_retriever(str(checkpoint), trust_remote_code=module.retriever.backbone.trust_remote_code)
        card = model_card(retriever, read_history_of(str(checkpoint)), str(output), self.license)
        write_export(retriever, output, card, overwrite=True)
