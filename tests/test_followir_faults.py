"""What FollowIRValidation refuses and what it warns of; and that it reads real text."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback
from small import retriever, synthetic_data, trainer, write_task
from test_benchmarks import INSTRUCTIR, write

from ifir_lightning.callbacks.checkpoints import never_validates
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.errors import InputError
from ifir_lightning.text_format import TextSettings


def test_a_limit_that_cuts_instructions_is_named_once(modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert, text=TextSettings(max_query_length=8, max_passage_length=64))
    with pytest.warns(UserWarning, match="the limit of 8 query tokens cuts 6 instructions") as warned:
        trainer(tmp_path, FollowIRValidation([write_task(tmp_path / "travel")]), max_steps=2, val_check_interval=1).fit(
            module, synthetic_data()
        )
    (message,) = (str(warning.message) for warning in warned if "instructions" in str(warning.message))
    assert "raise model.text.max_query_length" in message
    assert "3 pairs of original and changed became identical" in message


def test_tasks_of_one_name_of_two_benchmarks_are_both_warned_of(modernbert: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny", INSTRUCTIR)
    tasks = [f"instructir:{folder}", f"instructir-instruction-first:{folder}"]
    module = retriever(modernbert, text=TextSettings(max_query_length=4, max_passage_length=64))
    with pytest.warns(UserWarning, match="the limit of 4 query tokens cuts") as warned:
        trainer(tmp_path, FollowIRValidation(tasks)).validate(module, synthetic_data())
    assert sum("the limit of 4" in str(each.message) for each in warned) == 2


class Monitor(Callback):
    """As EarlyStopping and ModelCheckpoint."""

    def __init__(self, monitor: str | None) -> None:
        self.monitor = monitor


def test_a_monitor_that_is_no_metric_is_named_before_the_first_step(modernbert: Path, tmp_path: Path) -> None:
    followir = FollowIRValidation([write_task(tmp_path / "travel")])
    sound = [Monitor(each) for each in (None, "train/loss", "followir/p_mrr", "followir/travel/score_b")]
    fitting = trainer(tmp_path, followir, *sound, Monitor("followir/p-mrr"), max_steps=1)
    with pytest.raises(InputError, match=r"monitors 'followir/p-mrr'; allowed are followir/p_mrr, .*followir/score_a"):
        fitting.fit(retriever(modernbert), synthetic_data())
    assert fitting.global_step == 0
    trainer(tmp_path, followir, Monitor("followir/p-mrr")).validate(retriever(modernbert), synthetic_data())


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, "5"),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, None),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2, "max_steps": 1}, "4"),
        (
            {"val_check_interval": 4, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2, "max_steps": 2},
            None,
        ),
        ({"check_val_every_n_epoch": 1}, None),
        ({"check_val_every_n_epoch": 2}, "8"),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 0.5}, "6"),
        ({"check_val_every_n_epoch": 2, "limit_val_batches": 0}, None),
        ({"val_check_interval": "00:01:00:00", "check_val_every_n_epoch": None}, None),
    ],
)
def test_a_training_that_ends_before_its_first_validation_is_told(
    settings: dict[str, Any], first: str | None, modernbert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Four batches an epoch, four steps."""
    followir = FollowIRValidation([write_task(tmp_path / "travel", num_queries=1)], untrained=False)
    settings = {"max_steps": 4, "val_check_interval": 1.0} | settings
    trainer(tmp_path, followir, **settings).fit(retriever(modernbert), synthetic_data())
    told = [message for message in caplog.messages if "no validation" in message]
    assert len(told) == (first is not None)
    if first:
        batches = settings["max_steps"] * settings.get("accumulate_grad_batches", 1)
        assert f"after batch {first}, and trainer.max_steps ends the training after {batches};" in told[0]
        assert not (tmp_path / "followir").exists()


@pytest.mark.parametrize(
    ("done", "last", "first"), [(0, 5, "6"), (0, 6, None), (7, 11, "12"), (7, 12, None), (6, 11, "12")]
)
def test_a_continuation_that_ends_before_its_next_validation_is_told(done: int, last: int, first: str | None) -> None:
    every = {"check_val_every_n_epoch": None, "val_check_batch": 6, "accumulate_grad_batches": 1}
    found = never_validates(SimpleNamespace(enable_validation=True, global_step=done, max_steps=last, **every))  # type: ignore[arg-type]
    assert (found is None) == (first is None)
    assert found is None or f"the first would come after batch {first}," in found


def test_two_tasks_of_one_name_are_refused(modernbert: Path, tmp_path: Path) -> None:
    """They would write the same files and metrics."""
    tasks = [write_task(tmp_path / name, "food") for name in ("travel", "travel-instructions")]
    with pytest.raises(InputError, match="2 have the name 'travel'") as error:
        trainer(tmp_path, FollowIRValidation(tasks)).validate(retriever(modernbert), synthetic_data())
    assert "\n" not in str(error.value)


def test_no_task_is_refused() -> None:
    with pytest.raises(InputError, match=r"followir\.tasks is empty; allowed are one or more tasks: name one"):
        FollowIRValidation([])


def test_validation_can_be_turned_off(modernbert: Path, tmp_path: Path) -> None:
    followir = FollowIRValidation([write_task(tmp_path / "travel")])
    settings = {"max_steps": 1, "val_check_interval": 1, "limit_val_batches": 0}
    trainer(tmp_path, followir, **settings).fit(retriever(modernbert), synthetic_data())
    assert not (tmp_path / "followir").exists()


def test_scores_that_are_not_numbers_are_refused(modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert)
    torch.nn.init.constant_(next(module.retriever.backbone.parameters()), math.nan)
    with pytest.raises(InputError, match="the score is nan; allowed are numbers"):
        trainer(tmp_path, FollowIRValidation([write_task(tmp_path / "travel")])).validate(
            module, synthetic_data(), verbose=False
        )


def test_real_text(modernbert: Path, shared_data: Path, tmp_path: Path) -> None:
    """20 base queries, 200 candidates each."""
    validation = FollowIRValidation([str(shared_data / "followir-mini-core17")])
    module = retriever(modernbert, text=TextSettings(max_query_length=16, max_passage_length=16))
    evaluation = trainer(tmp_path, validation)
    with pytest.warns(UserWarning, match="the limit of 16 query tokens"):
        evaluation.validate(module, synthetic_data(), verbose=False)
    lines = (tmp_path / "followir" / "validate" / "followir-mini-core17.trec").read_text().splitlines()
    assert len(lines) == 40 * 200
    assert -100 < float(evaluation.callback_metrics["followir/p_mrr"]) < 100
