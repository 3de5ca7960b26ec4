"""Settings of the trainer that Lightning would take for something else than they seem, or refuse without a name."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from ifir_lightning.errors import InputError
from ifir_lightning.launchers import check_processes

_LIMITS = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}


def check_trainer(trainer: Mapping[str, Any], command: str) -> None:
    """Check what ``trainer.*`` of a recipe says for a command, before anything is loaded.

    Raises:
        InputError: It says what cannot be meant, or another number of processes than torchrun or srun has started.
    """
    check_processes(trainer)
    fast, accumulated, clip = trainer["fast_dev_run"], trainer["accumulate_grad_batches"], trainer["gradient_clip_val"]
    if fast:
        raise InputError(
            f"trainer.fast_dev_run is {fast}; allowed is false, since a checkpoint of a run without "
            "settings would be continued by the next one: leave it out; a fit of one step is --trainer.max_steps 1 "
            "--model.schedule.warmup_steps 0 --trainer.default_root_dir runs/try"
        )
    if accumulated < 1:
        raise InputError(f"trainer.accumulate_grad_batches is {accumulated}; allowed is 1 or more: set it to 1")
    if clip is not None and clip < 0:
        raise InputError(
            f"trainer.gradient_clip_val is {clip}; allowed is 0 or more, or null for none: the recipes have 1.0"
        )
    if (limit := _LIMITS.get(command)) and trainer[limit] == 0:
        raise InputError(f"trainer.{limit} is 0, so {command} would do nothing; allowed is 1: give --trainer.{limit} 1")
    strategies = ("auto", *StrategyRegistry.available_strategies())
    if isinstance(strategy := trainer["strategy"], str) and strategy.lower() not in strategies:
        raise InputError(f"trainer.strategy is {strategy!r}; allowed are auto, ddp and fsdp2: choose one")
    if command == "fit":
        _check_length(trainer)
        _check_validations(trainer)


def _check_length(trainer: Mapping[str, Any]) -> None:
    for key in ("max_steps", "max_epochs"):
        if (number := trainer[key]) is not None and (number == 0 or number < -1):
            raise InputError(
                f"trainer.{key} is {number}; allowed are 1 or more, and -1 for no end of its own: raise it; validate "
                "runs the benchmarks of a model that is not trained"
            )
    if trainer["limit_train_batches"] == 0:
        raise InputError(
            "trainer.limit_train_batches is 0, so fit would do nothing; allowed is more: leave it out for all batches"
        )


def _check_validations(trainer: Mapping[str, Any]) -> None:
    interval, by_steps = trainer["val_check_interval"], trainer["check_val_every_n_epoch"] is None
    if interval is None or isinstance(interval, bool) or not isinstance(interval, int | float):
        return
    whole = isinstance(interval, int) and interval >= 1
    if not whole and (by_steps or not 0 < interval <= 1):
        allowed = "1 or more training batches" if by_steps else "1 or more training batches, or a share of an epoch"
        raise InputError(
            f"trainer.val_check_interval is {interval}; allowed are {allowed}, or a time as 00:00:30:00: correct it; "
            "--trainer.limit_val_batches 0 trains without validations"
        )
