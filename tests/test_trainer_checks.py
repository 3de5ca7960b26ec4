"""Recipes whose processes are those that torchrun has started; ``test_cli_errors`` has the others."""

from typing import Any

import pytest

from ifir_lightning.errors import InputError
from ifir_lightning.trainer_checks import check_trainer

SOUND: dict[str, Any] = {
    "fast_dev_run": False,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0.0,
    "limit_train_batches": None,
    "max_steps": -1,
    "max_epochs": 1,
    "val_check_interval": 1.0,
    "check_val_every_n_epoch": 1,
}


@pytest.mark.parametrize("interval", [None, 1, 20, "00:01:00:00", {"hours": 1}])
def test_intervals_in_steps_and_in_time(interval: Any) -> None:
    processes = {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}
    check_trainer(SOUND | processes | {"val_check_interval": interval, "check_val_every_n_epoch": None}, "fit")


@pytest.mark.parametrize(
    ("accelerator", "devices", "has_gpu"),
    [
        ("gpu", "auto", True),
        ("auto", -1, True),
        ("gpu", "8", True),
        ("gpu", 8, True),
        ("cpu", [0, 1, 2, 3, 4, 5, 6, 7], False),
    ],
)
def test_as_many_as_torchrun_has_started(
    accelerator: str, devices: Any, has_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "64"), ("LOCAL_WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    check_trainer(SOUND | {"accelerator": accelerator, "devices": devices, "num_nodes": 8}, "fit")
    with pytest.raises(InputError, match=r"num_nodes 7, but torchrun has started 64 .* --trainer.num_nodes 8"):
        check_trainer(SOUND | {"accelerator": accelerator, "devices": devices, "num_nodes": 7}, "fit")
