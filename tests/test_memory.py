"""Running out of memory is one line that names the batch and what to set."""

from pathlib import Path

import pytest
import torch
from small import retriever, synthetic_data, trainer

from ifir_lightning.callbacks import memory
from ifir_lightning.callbacks.memory import OutOfMemory
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE, Loss


class Hungry(Loss):
    """Asks for more than there is, in the second step."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.loss, self.calls, self.error = InfoNCE(0.1), 0, error

    def forward(self, scores_QP: torch.Tensor, targets_Q: torch.Tensor, *args, **options) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            if self.error is not None:
                raise self.error
            torch.empty(2**50)
        return self.loss(scores_QP, targets_Q, *args, **options)


def fit(folder: Path, backbone: Path, loss: Loss, chunk: int | None = None) -> None:
    module = retriever(backbone, loss=loss)
    module.retriever.backbone.max_tokens_per_chunk = chunk
    trainer(folder, OutOfMemory(), max_steps=3, limit_val_batches=0).fit(module, synthetic_data(batch=8))


def test_the_batch_and_the_remedy_are_named(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SMALLEST_CHUNK", 64)
    with pytest.raises(InputError) as raised:
        fit(tmp_path, modernbert, Hungry())
    said = str(raised.value)
    assert said.startswith("out of memory at step 2 on rank 0: its batch has ")
    assert " tokens in 8 queries and 24 passages, encoded at once; fewer at once need less: set " in said
    tokens = int(said.split("its batch has ")[1].split()[0])
    chunk = int(said.rpartition("model.backbone.max_tokens_per_chunk to ")[2])
    assert chunk <= tokens / 2 < 2 * chunk
    assert "can't allocate memory" in str(raised.value.__cause__)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_of_a_gpu_and_of_python_too(error: Exception, modernbert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoded in chunks of 2048; that is little already: lower data.global_batch"):
        fit(tmp_path, modernbert, Hungry(error), chunk=2048)


def test_half_of_what_was_tried() -> None:
    assert memory._remedy(40_000).endswith("max_tokens_per_chunk to 16384")
    assert memory._remedy(32_768).endswith("max_tokens_per_chunk to 16384")


def test_other_errors_are_left_as_they_are(modernbert: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="another"):
        fit(tmp_path, modernbert, Hungry(RuntimeError("another")))
