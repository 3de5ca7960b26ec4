"""Recipes whose processes are those that a launcher has started; ``test_cli_errors`` has the others."""

from typing import Any

import pytest

from ifir_lightning.errors import InputError
from ifir_lightning.trainer_checks import check_trainer

SOUND: dict[str, Any] = {
    "strategy": "auto",
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


CPUS = SOUND | {"accelerator": "cpu", "devices": 2, "num_nodes": 2}


def test_as_many_as_srun_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a shell that srun has opened
    check_trainer(CPUS, "fit")
    for name, value in (("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_STEP_NUM_NODES", "2"), ("SLURM_JOB_NAME", "fit")):
        monkeypatch.setenv(name, value)
    check_trainer(CPUS, "fit")
    with pytest.raises(
        InputError, match=r"devices is 1 .* srun has started 4 processes, 2 on .* --trainer.num_nodes 2"
    ):
        check_trainer(CPUS | {"devices": 1}, "fit")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    with pytest.raises(InputError, match=r"4 processes in a job named bash, .* SLURM_JOB_NAME=fit"):
        check_trainer(CPUS, "fit")


def test_restarts_need_a_store_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RUN_ID", "1"), ("MAX_RESTARTS", "3"), ("USE_AGENT_STORE", "False")):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_trainer(CPUS, "fit")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(
        InputError, match=r"--max-restarts 3 with a store that outlives .* start torchrun with --standal"
    ):
        check_trainer(CPUS, "fit")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    check_trainer(CPUS, "fit")
