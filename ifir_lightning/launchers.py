"""What torchrun and SLURM say of the processes that they have started: whether again, and whether as many as asked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ifir_lightning import durable
from ifir_lightning.errors import InputError

_FILE = ".launch"
_COUNTS = {"TORCHELASTIC_RUN_ID": "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID": "SLURM_RESTART_COUNT"}
"""What names a launch, and how often it has been started again."""
_SHELLS = ("bash", "interactive")
"""Names of a SLURM job in which Lightning starts the processes itself."""


def remember(folder: Path) -> None:
    """Write into a run folder what is training in it: which job of SLURM, which start of torchrun."""
    durable.write_text(
        folder / _FILE, "".join(f"{name} {os.environ[name]}\n" for name in _COUNTS if name in os.environ)
    )


def is_started_again(folder: Path) -> bool:
    """Whether torchrun or SLURM has started again what was training in a run folder, so that its command, which asks
    for this or that checkpoint, has been obeyed already.
    """
    try:
        remembered = (folder / _FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(
        int(os.environ.get(count) or 0) > 0 and f"{name} {os.environ.get(name)}" in remembered
        for name, count in _COUNTS.items()
    )


def check_processes(trainer: Mapping[str, Any]) -> None:
    """See that ``trainer.devices`` and ``trainer.num_nodes`` are the processes that torchrun or srun has started.

    With others, Lightning would have each of them train by itself, or wait for those that nobody starts.

    Raises:
        InputError: They are not; or restarts of torchrun that would meet the ranks of before.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _check_restarts()
        _check_number(trainer, "torchrun", int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    elif (started := int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)) > 1:
        _check_job_name(started)
        _check_number(trainer, "srun", started, started // int(os.environ.get("SLURM_STEP_NUM_NODES") or 1))


def _check_restarts() -> None:
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0)
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(
            f"torchrun has --max-restarts {restarts} with a store that outlives a restart, in which ranks find those "
            "of before; allowed is a store for each start: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, and start "
            "torchrun with --standalone, or --rdzv-backend c10d, in place of --master-addr and --master-port"
        )


def _check_job_name(started: int) -> None:
    name = os.environ.get("SLURM_JOB_NAME")
    if name in _SHELLS:
        raise InputError(
            f"srun has started {started} processes in a job named {name}, in which Lightning would have each train by "
            "itself; allowed is any other name: srun env SLURM_JOB_NAME=fit python -m ifir_lightning ... (in a shell "
            "that srun has opened: unset SLURM_STEP_NUM_TASKS)"
        )


def _check_number(trainer: Mapping[str, Any], launcher: str, started: int, local: int) -> None:
    devices, nodes = trainer["devices"], int(trainer["num_nodes"])
    if _num_devices(devices, trainer["accelerator"], local) * nodes != started:
        raise InputError(
            f"trainer.devices is {devices} and trainer.num_nodes {nodes}, but {launcher} has started {started} "
            f"processes, {local} on this node; allowed are as many: give --trainer.devices {local} "
            f"--trainer.num_nodes {started // local}"
        )


def _num_devices(devices: Any, accelerator: Any, local: int) -> int:
    """Processes on this node that the recipe asks for; of GPUs that are all to be used, as many as there are ranks."""
    if str(devices) not in ("auto", "-1"):  # a number, or the numbers of some: [0, 1] or "0,1"
        return int(devices) if str(devices).lstrip("-").isdigit() else len(str(devices).strip(",").split(","))
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return 1 if on_cpu else local
