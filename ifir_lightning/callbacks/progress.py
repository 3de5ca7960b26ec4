"""The progress bar, and where callbacks print."""

from typing import final

from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


@final
class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar, which calls an epoch "0/-2" where ``trainer.max_steps`` alone ends the training."""

    def _get_train_description(self, current_epoch: int) -> str:
        return super()._get_train_description(current_epoch).replace("/-2", "")


def console(trainer: Trainer) -> Console:
    """The console of the progress bar, which keeps what is printed apart from the bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        return bar.progress.console
    return Console()
