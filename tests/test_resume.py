"""A resumed run is the uninterrupted one: the same remaining batches, bit-equal weights, wherever it stopped.

With dropout, and gradient accumulation over 2 batches: of the 7 that the rows make an epoch has 6, in whole steps.
Gradients of half a step are in no checkpoint: one written within a step repeats less than the whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from ranks import on_ranks
from small import DROPOUT, TINY, Recorder, retriever, synthetic_data, trainer
from torch import Tensor

from ifir_lightning.errors import InputError
from ifir_lightning.module import RetrieverModule
from ifir_lightning.optimization import Schedule

ROWS = {"num_rows": 29, "batch": 4}
MAX_STEPS = 8  # 3 + 3 steps of two epochs, 2 of the last


@dataclass(frozen=True)
class Fit:
    rows: list[tuple[int, list[int]]]
    losses: list[float]
    weights: dict[str, Tensor]


def run(
    folder: Path, backbone: Path, saver: Checkpoint | None = None, ckpt_path: Path | None = None, **data: Any
) -> Fit:
    """Fit to the end, from the beginning or from a checkpoint."""
    module = retriever(backbone, config=TINY | DROPOUT, schedule=Schedule(warmup_steps=2))
    recorder = Recorder()
    fit_trainer = trainer(
        folder,
        *([recorder] if saver is None else [recorder, saver]),
        max_steps=MAX_STEPS,
        accumulate_grad_batches=2,
        val_check_interval=1,
        enable_checkpointing=saver is not None,
    )
    torch.manual_seed(len(str(ckpt_path)))  # whatever the process drew before
    fit_trainer.fit(module, synthetic_data(**(ROWS | data)), ckpt_path=ckpt_path)
    return Fit(recorder.rows, [metrics["train/loss"] for metrics in recorder.metrics], module.state_dict())


class SaveAlways(Checkpoint):
    """Writes MOMENT-BATCHES_DONE.ckpt at each of the moments at which ModelCheckpoint may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")

    def _save(self, trainer: Trainer, moment: str) -> None:
        trainer.save_checkpoint(self.folder / f"{moment}-{trainer.fit_loop.epoch_loop.total_batch_idx + 1}.ckpt")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, modernbert: Path) -> tuple[Fit, Path]:
    """The whole run, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run(folder, modernbert, SaveAlways(folder)), folder


MOMENTS = ("batch-2", "validation-4", "batch-6", "validation-6", "epoch-6", "batch-10", "validation-10", "epoch-12")


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_repeats_the_rest(
    uninterrupted: tuple[Fit, Path], moment: str, modernbert: Path, tmp_path: Path
) -> None:
    whole, folder = uninterrupted
    resumed = run(tmp_path, modernbert, ckpt_path=folder / f"{moment}.ckpt")
    assert_continues(whole, resumed, int(moment.partition("-")[2]))


@pytest.mark.parametrize("moment", ["batch-10", "epoch-6"])
def test_resume_with_workers(uninterrupted: tuple[Fit, Path], moment: str, modernbert: Path, tmp_path: Path) -> None:
    whole, folder = uninterrupted
    resumed = run(tmp_path, modernbert, ckpt_path=folder / f"{moment}.ckpt", num_workers=2)
    assert_continues(whole, resumed, int(moment.partition("-")[2]))


def test_resume_on_another_number_of_ranks(uninterrupted: tuple[Fit, Path], modernbert: Path, tmp_path: Path) -> None:
    whole, folder = uninterrupted
    first, second = on_ranks(2, run, tmp_path, modernbert, None, folder / "batch-10.ckpt")
    assert len(first.rows) == len(whole.rows) - 10
    for (epoch, rows), even, odd in zip(whole.rows[10:], first.rows, second.rows, strict=True):
        assert (even, odd) == ((epoch, rows[0::2]), (epoch, rows[1::2]))
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def assert_continues(whole: Fit, resumed: Fit, batches_done: int) -> None:
    assert resumed.rows == whole.rows[batches_done:]
    assert resumed.losses == whole.losses[batches_done:]
    assert resumed.weights.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


def test_the_uninterrupted_run(uninterrupted: tuple[Fit, Path]) -> None:
    """6 batches of 4 in each of two epochs, four of a third; every row at most once an epoch."""
    whole, _ = uninterrupted
    assert [epoch for epoch, _ in whole.rows] == [0] * 6 + [1] * 6 + [2] * 4
    for epoch in range(3):
        seen = [row for number, rows in whole.rows for row in rows if number == epoch]
        assert len(set(seen)) == len(seen)


def test_dropout_is_at_work(uninterrupted: tuple[Fit, Path], modernbert: Path, tmp_path: Path) -> None:
    """Without it, bit-equal weights would prove nothing about the random state."""
    module = retriever(modernbert, config=TINY)
    recorder = Recorder()
    trainer(tmp_path, recorder, max_steps=1).fit(module, synthetic_data(**ROWS))
    assert recorder.rows[0] == uninterrupted[0].rows[0]
    assert recorder.metrics[0]["train/loss"] != uninterrupted[0].losses[0]


def test_a_second_run_is_bit_equal(uninterrupted: tuple[Fit, Path], modernbert: Path, tmp_path: Path) -> None:
    assert_continues(uninterrupted[0], run(tmp_path, modernbert, num_workers=2), 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch": 5}, ("data.global_batch_size is 5", "with 4")),
        ({"num_rows": 30}, ("fingerprint of data.path is", "restore the table")),
        ({"rows": "with_instruction"}, ("data.rows is with_instruction", "with all")),
        ({"seed": 1}, ("data.seed is 1", "with 0")),
        ({"group_size": 4}, ("data.groups.group_size is 4", "with 3")),
        ({"strategy": "top"}, ("data.groups.strategy is top", "with shuffled_window")),
        ({"instruction_fraction": 0.5}, ("data.instruction_fraction is 0.5", "with None")),
    ],
)
def test_other_data_are_refused(
    uninterrupted: tuple[Fit, Path],
    changed: dict[str, Any],
    words: tuple[str, ...],
    modernbert: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError) as error:
        run(tmp_path, modernbert, ckpt_path=uninterrupted[1] / "batch-10.ckpt", **changed)
    assert "\n" not in str(error.value)
    for word in (*words, "the same", "anew"):
        assert word in str(error.value)


def test_validation_reads_a_checkpoint_without_the_table(
    uninterrupted: tuple[Fit, Path], modernbert: Path, tmp_path: Path
) -> None:
    module: RetrieverModule = retriever(modernbert, config=TINY | DROPOUT)
    data = synthetic_data(num_rows=3)  # not those of the checkpoint
    trainer(tmp_path).validate(module, data, ckpt_path=uninterrupted[1] / "batch-10.ckpt", verbose=False)


def test_rows_that_a_callback_held_out_are_no_setting(modernbert: Path, tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path)
    fit_trainer = trainer(tmp_path, saver, HoldsOut(), max_steps=1, enable_checkpointing=True)
    fit_trainer.fit(retriever(modernbert, config=TINY), synthetic_data(**ROWS))
    with pytest.raises(InputError, match=r"the number of rows to train on is 29, .*: restore the callback that holds"):
        run(tmp_path, modernbert, ckpt_path=tmp_path / "batch-1.ckpt")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": TINY | {"num_hidden_layers": 1}}, r"layers.1.*weight was \[.*\] and is not there and \d+ more; al"),
        ({"config": TINY | {"intermediate_size": 40}}, r"mlp.Wi.weight was \[96, 32\] and is \[80, 32\] and 3 more;"),
        ({"config": TINY, "head": "weighted"}, r"pooling.* was not there and is .* and \d+ more; allowed are the same"),
    ],
)
def test_weights_of_another_model_are_refused(
    settings: dict[str, Any], words: str, uninterrupted: tuple[Fit, Path], modernbert: Path, tmp_path: Path
) -> None:
    """A user who continues whatever the settings are, with --ckpt_path, and one who validates with another recipe."""
    checkpoint = uninterrupted[1] / "batch-10.ckpt"
    for start in (trainer(tmp_path, max_steps=11).fit, trainer(tmp_path).validate):
        with pytest.raises(InputError, match=words):
            start(retriever(modernbert, **settings), synthetic_data(**ROWS), ckpt_path=checkpoint)


class HoldsOut(Callback):
    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        trainer.datamodule.hold_out(0.2)  # type: ignore[attr-defined]


def test_overfitting_sees_the_same_batches_in_every_epoch(modernbert: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    fit_trainer = trainer(tmp_path, recorder, max_steps=6, overfit_batches=2)
    fit_trainer.fit(retriever(modernbert, config=TINY), synthetic_data(**ROWS))
    assert [epoch for epoch, _ in recorder.rows] == [0, 0, 1, 1, 2, 2]
    assert [rows for _, rows in recorder.rows] == [rows for _, rows in recorder.rows[:2]] * 3
