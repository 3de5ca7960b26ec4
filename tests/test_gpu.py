"""On a CUDA device: every head trains and validates in bfloat16, and agrees with the CPU in float32."""

from pathlib import Path

import pytest
import torch
from small import HEADS, Head, Recorder, retriever, synthetic_data, trainer, write_task

from ifir_lightning.callbacks.followir import FollowIRValidation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not measured on GPU"),
]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_fit_and_validate(head: Head, precision: str, modernbert: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "food", "food")
    recorder, exact = Recorder(), Recorder()
    module = retriever(modernbert, head)
    settings = {"accelerator": "gpu", "devices": 1, "precision": precision, "max_steps": 3, "val_check_interval": 1}
    gpu = trainer(tmp_path, FollowIRValidation([task]), recorder, **settings)
    gpu.fit(module, synthetic_data(num_workers=1))
    trainer(tmp_path, exact, max_steps=3).fit(retriever(modernbert, head), synthetic_data())
    assert module.retriever.backbone.kernel == ("sdpa" if precision == "32-true" else module.retriever.backbone.kernel)
    assert module.retriever.backbone.kernel != "sdpa" or precision == "32-true"
    tolerance = 1e-4 if precision == "32-true" else 0.05
    for found, expected in zip(recorder.metrics, exact.metrics, strict=True):
        assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=tolerance)
    assert gpu.callback_metrics["followir/p_mrr"].isfinite()
