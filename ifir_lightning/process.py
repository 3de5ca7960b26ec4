"""What the command line sets of the process as a whole, and no import may set."""

import logging
import os
import warnings

import torch
import transformers
from lightning.pytorch.strategies import StrategyRegistry

from ifir_lightning.fsdp import FSDP2


def set_up_process() -> None:
    """The strategy of ours, who says what, and how small numbers are computed."""
    StrategyRegistry.register("fsdp2", FSDP2, "DDP whose ranks share weights and optimizer state", override=True)
    log = logging.getLogger("ifir_lightning")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO if _rank() == 0 else logging.ERROR)  # what all ranks see, the first one says
    chatter = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    chatter.addFilter(lambda record: "litlogger" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # inside Lightning, with torch >= 2.12
    transformers.utils.logging.disable_progress_bar()
    torch.set_flush_denormal(True)  # tiny gradients of a low temperature make a CPU step many times slower


def _rank() -> int:
    """This process's rank before any process group exists, as torchrun, SLURM or Lightning set it."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)
