"""A run that goes on with another number of ranks trains on the same global batches and comes to the same losses."""

from pathlib import Path

import pytest
from ranks import on_ranks
from small import Recorder, retriever, synthetic_data, trainer

from ifir_lightning import manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.errors import InputError
from ifir_lightning.optimization import AdamW

STEPS = 9  # five batches of eight in an epoch: both changes fall into one
Batches = list[tuple[int, list[int]]]


def fit(folder: Path, backbone: Path, max_steps: int) -> tuple[Batches, list[float]]:
    """Rows of this rank's batches and losses, continuing what the folder holds up to ``max_steps``."""
    recorder = Recorder()
    newest = manifests.newest(folder / "checkpoints")
    settings = {"max_steps": max_steps, "enable_checkpointing": True, "plugins": [ManifestIO()]}
    fit_trainer = trainer(folder, recorder, Checkpoints(), limit_val_batches=0, **settings)
    module = retriever(backbone, "weighted", optimizer=AdamW(learning_rate=1e-3))
    fit_trainer.fit(module, synthetic_data(num_rows=43, batch=8), ckpt_path=newest)
    return recorder.rows, [metrics["train/loss"] for metrics in recorder.metrics]


def global_batches(by_rank: list[tuple[Batches, list[float]]]) -> Batches:
    """Rank r of W holds rows r::W of each global batch: laid together again."""
    together = []
    for parts in zip(*(batches for batches, _ in by_rank), strict=True):
        (epoch,) = {epoch for epoch, _ in parts}
        together.append((epoch, [row for rows in zip(*(own for _, own in parts), strict=True) for row in rows]))
    return together


def test_two_ranks_then_one_then_four(modernbert: Path, tmp_path: Path) -> None:
    whole, losses = fit(tmp_path / "whole", modernbert, STEPS)
    assert len(losses) == len(set(losses)) == STEPS
    assert [epoch for epoch, _ in whole] == [0] * 5 + [1] * 4
    seen: Batches = []
    found: list[float] = []
    for num_ranks, max_steps in ((2, 3), (1, 7), (4, STEPS)):
        by_rank = on_ranks(num_ranks, fit, tmp_path / "run", modernbert, max_steps)
        seen += global_batches(by_rank)
        found += by_rank[0][1]
    assert seen == whole
    assert max(abs(one - other) for one, other in zip(losses, found, strict=True)) < 1e-5


def test_ranks_that_do_not_divide_the_batch_are_refused(modernbert: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"global batch size 8 is not divisible by 3 ranks.*a multiple of 3") as error:
        on_ranks(3, fit, tmp_path, modernbert, 1)
    assert InputError.__name__ in str(error.value)
