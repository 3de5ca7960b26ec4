"""Where callbacks print."""

from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


def console(trainer: Trainer) -> Console:
    """The console of the progress bar, which keeps what is printed apart from the bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        return bar.progress.console
    return Console()
