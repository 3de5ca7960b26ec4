"""The progress bar, and where callbacks print."""

from typing import final

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


@final
class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar, which calls an epoch "0/-2" where ``trainer.max_steps`` alone ends the training."""

    def _get_train_description(self, current_epoch: int) -> str:
        return super()._get_train_description(current_epoch).replace("/-2", "")


def without_bars(callbacks: Callback | list[Callback] | None) -> list[Callback]:
    """A recipe's callbacks but for progress bars, which Lightning refuses with ``enable_progress_bar: false``."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    return [callback for callback in listed if not isinstance(callback, LightningProgressBar)]


def console(trainer: Trainer) -> Console:
    """The console of the progress bar, which keeps what is printed apart from the bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        return bar.progress.console
    return Console()
