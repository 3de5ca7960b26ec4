"""Compiled layers on several ranks: what plain ones compute, each in one graph under every strategy."""

from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from small import write_task
from test_compile import opaque_kernel
from test_fsdp import fit, losses
from torch import distributed
from torch._dynamo.testing import CompileCounterWithBackend

from ifir_lightning.models import attention, backbone
from ifir_lightning.models.backbone import Backbone

STEPS = 6


def compiled_fit(folder: Path, modernbert: Path, strategy: str, compiled: bool) -> tuple[list[float], int]:
    """Losses of each step, and graphs compiled, on ranks that encode in chunks computed again."""
    attention._KERNELS["varlen"] = opaque_kernel
    backbone.COMPILER = counter = CompileCounterWithBackend("aot_eager")
    distributed._DEFAULT_FIRST_BUCKET_BYTES = 1000  # what a layer's gradients exceed, as those of a real one do

    def prepare(self: Backbone, device: torch.device, dtype: torch.dtype, unattended: bool = False) -> None:
        self.kernel, self.compile_layers = "varlen", compiled
        if compiled:
            self._compile()

    Backbone.prepare = prepare  # type: ignore[method-assign]
    return losses(fit(folder / f"{strategy}-{compiled}", modernbert, strategy, STEPS, dropout=0.0)), counter.frame_count


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch asks itself
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's compiler imports it
def test_compiled_layers_on_ranks(tmp_path: Path, modernbert: Path) -> None:
    write_task(tmp_path / "travel")
    (plain, none), _ = on_ranks(2, compiled_fit, tmp_path, modernbert, "ddp", False)
    (ddp, whole), _ = on_ranks(2, compiled_fit, tmp_path, modernbert, "ddp", True)
    (sharded, whole_sharded), _ = on_ranks(2, compiled_fit, tmp_path, modernbert, "fsdp2", True)
    assert len(set(plain)) == STEPS
    assert ddp == pytest.approx(plain, abs=1e-5)
    assert sharded == pytest.approx(plain, abs=1e-5)
    assert none == 0 < whole == whole_sharded
