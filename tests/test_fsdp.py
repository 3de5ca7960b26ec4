"""FSDP2 computes what DDP computes, and leaves the file that DDP leaves: either continues the other's run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranks import on_ranks
from small import DROPOUT, TINY, Recorder, retriever, synthetic_data, trainer, write_task
from torch import Tensor
from torch.distributed.tensor import DTensor

from ifir_lightning import distributed, manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.errors import InputError
from ifir_lightning.fsdp import FSDP2
from ifir_lightning.optimization import AdamW, Schedule

STEPS = 10
Metrics = list[dict[str, float]]


def fit(folder: Path, backbone: Path, strategy: str, max_steps: int, dropout: float = 0.1, **settings: Any) -> Metrics:
    """What is logged at each step; it continues what the folder holds. Ranks encode different numbers of chunks."""
    recorder, newest = Recorder(), manifests.newest(folder / "checkpoints")
    options: dict[str, Any] = {"max_steps": max_steps, "val_check_interval": 5, "gradient_clip_val": 0.3}
    options |= {"strategy": FSDP2() if strategy == "fsdp2" else strategy, "plugins": [ManifestIO()]}
    callbacks = recorder, FollowIRValidation([str(folder.parent / "travel")]), Checkpoints()
    fit_trainer = trainer(folder, *callbacks, **(options | {"enable_checkpointing": True} | settings))
    config = TINY | dict.fromkeys(DROPOUT, dropout)
    module = retriever(
        backbone,
        "weighted",
        config,
        optimizer=AdamW(learning_rate=2e-4, weight_decay=0.1),
        schedule=Schedule(total_steps=20),
    )
    module.retriever.backbone.max_tokens_per_chunk = 64
    fit_trainer.fit(module, synthetic_data(num_rows=32, batch=4), ckpt_path=newest)
    if strategy == "fsdp2":
        assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    return recorder.metrics


def losses(metrics: Metrics) -> list[float]:
    return [step["train/loss"] for step in metrics]


def last_checkpoint(folder: Path) -> dict[str, Any]:
    newest = manifests.newest(folder / "checkpoints")
    assert newest is not None
    return torch.load(newest, weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of runs, beside the task that they are validated on."""
    folder = tmp_path_factory.mktemp("runs")
    write_task(folder / "travel")
    return folder


@pytest.fixture(scope="module")
def sharded(folder: Path, modernbert: Path) -> Metrics:
    """A run of two ranks that nothing interrupted."""
    first, second = on_ranks(2, fit, folder / "fsdp2", modernbert, "fsdp2", STEPS)
    assert first == second
    return first


def test_losses_validations_and_file_are_those_of_ddp(sharded: Metrics, folder: Path, modernbert: Path) -> None:
    ddp, _ = on_ranks(2, fit, folder / "ddp", modernbert, "ddp", STEPS)
    assert len(set(losses(ddp))) == STEPS
    assert losses(sharded) == pytest.approx(losses(ddp), abs=1e-5)
    assert sharded[-1]["followir/p_mrr"] == pytest.approx(ddp[-1]["followir/p_mrr"], abs=1e-3)
    ours, theirs = last_checkpoint(folder / "fsdp2"), last_checkpoint(folder / "ddp")
    assert ours.keys() == theirs.keys()
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=1e-5)


def weights_of_ranks_apart(backbone: Path) -> Tensor:
    """Of a rank, all in one, once sharded and gathered again; they begin as far apart as the ranks' numbers."""
    model = retriever(backbone).retriever
    with torch.no_grad():
        for weight in model.parameters():
            weight += distributed.rank()
    distributed.shard(model, torch.device("cpu"))
    return torch.cat([weight.full_tensor().flatten() for weight in model.parameters() if isinstance(weight, DTensor)])


def test_ranks_begin_with_the_weights_of_rank_0(modernbert: Path) -> None:
    """Where nodes hold different checkpoints, a model would else be made of pieces of both."""
    expected = torch.cat([weight.detach().flatten() for weight in retriever(modernbert).retriever.parameters()])
    for found in on_ranks(2, weights_of_ranks_apart, modernbert):
        assert found.equal(expected)


def test_an_interrupted_run_has_the_same_bits(sharded: Metrics, folder: Path, modernbert: Path) -> None:
    seen: list[float] = []
    for max_steps in (4, 7, STEPS):  # the epoch ends at 8
        seen += losses(on_ranks(2, fit, folder / "interrupted", modernbert, "fsdp2", max_steps)[0])
    assert seen == losses(sharded)
    ours, theirs = last_checkpoint(folder / "interrupted"), last_checkpoint(folder / "fsdp2")
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_ranks_and_strategies_may_change(folder: Path, modernbert: Path) -> None:
    whole = losses(fit(folder / "whole", modernbert, "auto", STEPS, 0.0))
    assert len(set(whole)) == STEPS
    changing = folder / "changing", modernbert
    seen = on_ranks(2, fit, *changing, "fsdp2", 3, 0.0)[0]
    seen += fit(*changing, "auto", 5, 0.0)
    for ranks, strategy, max_steps in ((4, "fsdp2", 7), (2, "ddp", 9), (1, "fsdp2", STEPS)):
        seen += on_ranks(ranks, fit, *changing, strategy, max_steps, 0.0)[0]
    assert losses(seen) == pytest.approx(whole, abs=1e-5)


def test_half_precision_that_scales_losses_is_refused(modernbert: Path) -> None:
    strategy = FSDP2()
    strategy.connect(retriever(modernbert))
    strategy._precision_plugin = SimpleNamespace(precision="16-mixed")  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"16-mixed under FSDP2.*allowed are 32-true and bf16-mixed"):
        strategy.configure_ddp()
