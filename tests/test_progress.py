"""What the progress bar calls an epoch."""

from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from small import retriever, synthetic_data, trainer

from ifir_lightning.callbacks.progress import ProgressBar


class Descriptions(Callback):
    """Remembers what stands before the bar."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        bar = trainer.progress_bar_callback
        assert isinstance(bar, ProgressBar)
        assert bar.progress is not None
        self.seen |= {task.description.strip().split("]")[-1] for task in bar.progress.tasks}


@pytest.mark.parametrize(
    ("end", "expected"), [({"max_steps": 2}, "Epoch 0"), ({"max_epochs": 3, "max_steps": 2}, "Epoch 0/2")]
)
def test_an_epoch_of_how_many(end: dict[str, int], expected: str, tmp_path: Path, modernbert: Path) -> None:
    descriptions = Descriptions()
    trainer(tmp_path, ProgressBar(), descriptions, **{"enable_progress_bar": True} | end).fit(
        retriever(modernbert), synthetic_data(num_rows=32, batch=4)
    )
    assert descriptions.seen == {expected}
