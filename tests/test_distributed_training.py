"""A training step on W ranks is the step of one process that holds the whole global batch: not W times it."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from ranks import on_ranks
from small import HEADS, WORDS, Head, Recorder, retriever, synthetic_data, trainer
from torch import Tensor

from ifir_lightning.data.collate import collate
from ifir_lightning.distributed import rank, world_size
from ifir_lightning.losses import InfoNCE
from ifir_lightning.optimization import AdamW
from ifir_lightning.records import Group, Kind, Passage


def words(number: int, most: int) -> str:
    """Between 1 and ``most`` words, the same for a number."""
    generator = torch.Generator().manual_seed(number)
    length = int(torch.randint(1, most + 1, (1,), generator=generator))
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator))


def group(*names: str) -> Group:
    """The positive comes first; i0, i1, ... are instruction negatives."""
    seeds = [256 * ord(name[0]) + ord(name[1]) for name in names]
    passages = tuple(Passage(name, "", words(seed, 30)) for name, seed in zip(names, seeds, strict=True))
    kinds = (Kind.INSTRUCTION_NEGATIVE if name.startswith("i") else Kind.HARD_NEGATIVE for name in names[1:])
    return Group(words(sum(seeds), 5), words(seeds[-1], 12), passages, (Kind.POSITIVE, *kinds))


GROUPS = [
    group("p0", "i0", "p1"),  # the positive of the next query, which another rank has
    group("p1", "i1", "h1"),
    group("p2", "i2", "i4"),
    group("p2", "i3", "h3"),  # the positive of the query before
    group("p4", "i4", "p0"),
    group("p5", "i5", "i0"),
]


def training_step(backbone: Path, head: Head) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Logged values and gradients of this rank, which takes every W-th query as the loader does."""
    loss = InfoNCE(0.1, instruction_negative_weight=3.0, hard_negative_weight=0.5, in_batch_weight=0.7)
    module = retriever(backbone, head, loss=loss)
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    rows = list(range(len(GROUPS)))[rank() :: world_size()]
    module.training_step(collate([GROUPS[row] for row in rows], rows, module.retriever.tokenizer), 0).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {name: value.item() for name, value in logged.items()}, gradients  # type: ignore[return-value]


@pytest.mark.parametrize(("head", "num_ranks"), [*((head, 2) for head in HEADS), ("weighted", 3)])
def test_gradients_averaged_over_ranks_are_those_of_one_process(modernbert: Path, head: Head, num_ranks: int) -> None:
    logged, gradients = training_step(modernbert, head)
    by_rank = on_ranks(num_ranks, training_step, modernbert, head)
    for name, gradient in gradients.items():
        mean = torch.stack([rank_gradients[name] for _, rank_gradients in by_rank]).mean(0)
        difference = (mean - gradient).norm() / gradient.norm()
        assert difference < 1e-5, f"{name}: {difference:.1e}"
    for name, value in logged.items():
        assert fmean(rank_logged[name] for rank_logged, _ in by_rank) == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("head", HEADS)
def test_a_step_is_not_trivial(modernbert: Path, head: Head) -> None:
    """The equality above would also hold for a loss of 0 and texts that all look alike."""
    logged, gradients = training_step(modernbert, head)
    assert logged["train/loss"] > 0.1
    assert min(gradient.norm() for gradient in gradients.values()) > 1e-5


def fit(backbone: Path, head: Head, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of three steps under Lightning (DDP on several ranks), and the weights after them."""
    module, recorder = retriever(backbone, head, optimizer=AdamW(learning_rate=1e-4)), Recorder()
    trainer(folder, recorder, max_steps=3).fit(module, synthetic_data(num_rows=14, group_size=4))
    return [metrics["train/loss"] for metrics in recorder.metrics], module.state_dict()


@pytest.mark.parametrize("head", ["bi-encoder", "weighted"])
def test_fit_on_two_ranks_equals_fit_on_one(modernbert: Path, head: Head, tmp_path: Path) -> None:
    losses, weights = fit(modernbert, head, tmp_path)
    (first_losses, first), (second_losses, second) = on_ranks(2, fit, modernbert, head, tmp_path)
    assert len(losses) == 3
    assert len(set(losses)) == 3
    assert first_losses == second_losses  # logged are means over all ranks
    assert first_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in weights.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(
            first[name], weight, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
