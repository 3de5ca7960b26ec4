"""Run a function on several gloo ranks of this machine."""

import os
import time
import warnings
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

T = TypeVar("T")
TIME_OUT = 60  # seconds, for all ranks together


def on_ranks(world_size: int, function: Callable[..., T], *args: Any) -> list[T]:
    """``function(*args)`` on every rank; what each returned, in rank order.

    The function stands at the top of its module, so that the ranks can import it. They look as if torchrun had
    started them: a Trainer made inside uses them as its own. An exception on one rank is raised here, and so is a
    warning that this test would not let pass.
    """
    set_forkserver_preload(["ifir_lightning.cli"])  # ranks begin with everything imported
    with TemporaryDirectory() as folder:
        context = start_processes(
            _rank_main,
            (world_size, Path(folder), warnings.filters, function, args),
            nprocs=world_size,
            join=False,
            start_method="forkserver",
        )
        deadline = time.monotonic() + TIME_OUT
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                pytest.fail(f"{function.__name__} on {world_size} ranks did not end within {TIME_OUT} s")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank_main(
    rank: int,
    world_size: int,
    folder: Path,
    filters: list[tuple[Any, ...]],
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    for action, message, category, *_ in reversed(filters):
        warnings.filterwarnings(action, getattr(message, "pattern", ""), category)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(function(*args), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
