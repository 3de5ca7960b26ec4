"""Ranks that are about to do different things are stopped, and the one that differs is named."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning import LightningModule
from ranks import on_ranks

from ifir_lightning import distributed
from ifir_lightning.callbacks.run_config import RunConfig
from ifir_lightning.errors import InputError
from ifir_lightning.preflight import check_agreement
from ifir_lightning.resume import shared_settings


def disagree(changes: dict[int, dict[str, object]]) -> str:
    """What a rank is told; "" if all agree."""
    facts = {"model.seed": 0, "torch": "2.13.0", "table": "a1", "data.rows": "all", "step": None}
    try:
        check_agreement(facts | changes.get(distributed.rank(), {}))
    except InputError as error:
        return str(error)
    return ""


def test_ranks_that_agree_go_on() -> None:
    assert on_ranks(2, disagree, {}) == ["", ""]


def test_the_rank_that_differs_is_named_on_every_rank() -> None:
    told = on_ranks(3, disagree, {2: {"torch": "2.11.0", "step": 100}})
    assert len(set(told)) == 1
    assert told[0].startswith("rank 2 on ")
    assert "step is 100 and None, torch is '2.11.0' and '2.13.0'; allowed is the same on all ranks" in told[0]


def test_of_many_differences_some_are_shown_and_the_others_counted() -> None:
    told, _ = on_ranks(2, disagree, {1: {"model.seed": 1, "torch": "0", "table": "b", "data.rows": "x", "more": 1}})
    assert "data.rows is 'x' and 'all', model.seed is 1 and 0, more is 1 and None and 2 more; allowed" in told


def recipe(seed: int = 0, workers: int = 0, val_check_interval: int = 3, weight: float = 4.0) -> dict[str, Any]:
    schedule = {"class_path": "WeightSchedule", "init_args": {"hard_negative": [[0, 1.0], [8, weight]]}}
    trainer = {"default_root_dir": f"at/{workers}", "val_check_interval": val_check_interval, "callbacks": [schedule]}
    return {
        "seed_everything": seed,
        "model": {},
        "data": {"num_workers": workers},
        "trainer": trainer,
        "ckpt_path": None,
    }


def opened(folder: Path, of_rank_1: dict[str, Any]) -> str:
    """What a rank with settings of its own is told when it opens the run folder."""
    trainer: Any = SimpleNamespace(datamodule=None, default_root_dir=str(folder))
    own = recipe(**of_rank_1 if distributed.rank() == 1 else {})
    with pytest.raises(InputError) as raised:
        RunConfig(Any, Namespace(), None, own).setup(trainer, LightningModule(), "fit")
    return str(raised.value)


DIFFERENCES = {
    "a seed": ({"seed": 1}, "seed_everything is 1 and 0"),
    "validation": ({"val_check_interval": 2}, "trainer.val_check_interval is 2 and 3"),
    "a callback": ({"weight": 8.0}, "trainer.callbacks.0.init_args.hard_negative.1.1 is 8.0 and 4.0"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_ranks_that_differ_write_nothing(case: str, tmp_path: Path) -> None:
    of_rank_1, words = DIFFERENCES[case]
    for told in on_ranks(2, opened, tmp_path / "run", of_rank_1):
        assert f"{words}; allowed is the same on all ranks" in told
    assert not (tmp_path / "run").exists()


def test_what_another_fit_wrote_meanwhile_is_not_thrown_away(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        datamodule=None,
        default_root_dir=str(tmp_path),
        is_global_zero=True,
        limit_train_batches=1.0,
        limit_val_batches=1.0,
        val_check_interval=1.0,
        check_val_every_n_epoch=None,
    )
    written = [tmp_path / "checkpoints" / f"step-0000000{step}.ckpt" for step in (1, 2)]
    for path in written:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    RunConfig(Any, Namespace(), None, recipe(), written).setup(trainer, LightningModule(), "fit")
    with pytest.raises(InputError, match=r"another fit has written step-00000002.ckpt since this one began"):
        RunConfig(Any, Namespace(), None, recipe(), written[:1]).setup(trainer, LightningModule(), "fit")


def test_places_and_workers_may_differ() -> None:
    assert shared_settings(recipe()) == shared_settings(recipe(workers=2))


def test_a_single_process_agrees_with_itself(tmp_path: Path) -> None:
    check_agreement({"folder": str(tmp_path)})


def latecomer() -> str:
    if distributed.rank() == 1:
        return ""
    with pytest.raises(TimeoutError) as raised:
        distributed.check_in(1)
    return str(raised.value)


def test_a_rank_that_does_not_come_is_named() -> None:
    assert on_ranks(3, latecomer) == ["missing: rank 1", "", "missing: rank 1"]


def test_ranks_that_come_at_different_times_meet() -> None:
    assert on_ranks(2, late) == [True, True]


def first_together() -> str:
    distributed.check_in(20)
    return latecomer()


def test_a_rank_that_comes_once_is_missed_the_second_time() -> None:
    assert on_ranks(2, first_together) == ["missing: rank 1", ""]


def late() -> bool:
    time.sleep(distributed.rank())
    distributed.check_in(20)
    return True
