"""Compiled layers: the same numbers and gradients, compiled once for all lengths. On the CPU, with a kernel that the
compiler cannot look into, as flash-attn and varlen are."""

from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import torch._dynamo
from conftest import random_tokens
from small import load_backbone
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ifir_lightning.errors import InputError
from ifir_lightning.models import attention
from ifir_lightning.models.attention import Heads, Layout
from ifir_lightning.models.backbone import Backbone
from ifir_lightning.models.lora import LoraSettings

LENGTHS = [[5, 9, 3], [7, 20, 4, 4, 11, 1], [2, 40], [6, 6, 6, 30, 12]]


def _texts(qkv: Tensor, ends: Tensor, scale: float, window: int) -> Iterator[tuple[slice, list[Tensor], Tensor]]:
    """Rows of each text, its queries, keys and values [H, L, W], and its attention weights [H, L, L]."""
    for start, stop in pairwise(ends.tolist()):
        query, key, value = qkv[start:stop].permute(1, 2, 0, 3)
        position = torch.arange(stop - start)
        hidden = (position[:, None] - position).abs() >= (window or stop)
        products = (query @ key.mT * scale).masked_fill(hidden, float("-inf"))
        yield slice(start, stop), [query, key, value], products.softmax(-1)


@torch.library.custom_op("ifir_test::opaque_attention", mutates_args=())
def opaque_attention(qkv: Tensor, ends: Tensor, scale: float, window: int) -> Tensor:
    texts = _texts(qkv, ends, scale, window)
    return torch.cat([(weights @ value).transpose(0, 1) for _, (_, _, value), weights in texts])


@torch.library.custom_op("ifir_test::opaque_attention_backward", mutates_args=())
def opaque_backward(grad: Tensor, qkv: Tensor, ends: Tensor, scale: float, window: int) -> Tensor:
    result = torch.empty_like(qkv)
    for rows, (query, key, value), weights in _texts(qkv, ends, scale, window):
        pull = grad[rows].transpose(0, 1)
        slope = pull @ value.mT
        slope = weights * (slope - (slope * weights).sum(-1, keepdim=True)) * scale
        parts = (slope @ key, slope.mT @ query, weights.mT @ pull)
        result[rows] = torch.stack([part.transpose(0, 1) for part in parts], dim=1)
    return result


opaque_attention.register_fake(lambda qkv, ends, scale, window: torch.empty_like(qkv[:, 0]))
opaque_backward.register_fake(lambda grad, qkv, ends, scale, window: torch.empty_like(qkv))


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


opaque_attention.register_autograd(
    lambda ctx, grad: (opaque_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None), setup_context=_setup
)


def opaque_kernel(qkv_THW: Heads, layout: Layout, scale: float, dropout: float, window: int | None) -> Tensor:
    assert layout.max_length > 0
    return opaque_attention(torch.stack(qkv_THW, dim=1), layout.cumulative, scale, window or 0)


def result(backbone: Backbone, lengths: list[int]) -> list[Tensor]:
    """Hidden states and the gradients of all weights."""
    backbone.zero_grad()
    values_TD = backbone(random_tokens(lengths)).values_TD
    weights_TD = torch.randn(values_TD.shape, generator=torch.Generator().manual_seed(5))
    (values_TD * weights_TD).sum().backward()
    return [values_TD.detach(), *(p.grad.clone() for p in backbone.parameters() if p.grad is not None)]


@pytest.fixture
def opaque(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A model to compile, with attention that the compiler cannot look into."""
    monkeypatch.setitem(attention._KERNELS, "varlen", opaque_kernel)
    backbone = load_backbone(modernbert, compile=True)
    backbone.kernel = "varlen"
    return backbone


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch asks itself
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's compiler imports it
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["weights", "lora"])
def test_compiled_layers_equal_plain_ones_and_are_compiled_once(
    lora: LoraSettings | None, compiler: str, modernbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lora is not None:
        pytest.importorskip("peft", reason="peft is not installed (extra: lora)")
    monkeypatch.setitem(attention._KERNELS, "varlen", opaque_kernel)
    plain, compiled = (load_backbone(modernbert, compile=each, lora=lora) for each in (False, True))
    plain.adapt()
    compiled.adapt()
    compiled.load_state_dict(plain.state_dict())
    plain.kernel = compiled.kernel = "varlen"
    counter = CompileCounterWithBackend(compiler)
    monkeypatch.setattr("ifir_lightning.models.backbone.COMPILER", counter)
    torch._dynamo.reset()
    compiled._compile()
    seen = []
    for lengths in LENGTHS:
        for expected, found in zip(result(plain, lengths), result(compiled, lengths), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)
        seen.append(counter.frame_count)
    assert seen[0] > 0
    assert seen[1:] == seen[:1] * 3, "other lengths compiled something"
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch asks itself
def test_training_validation_and_another_precision_may_take_turns(
    opaque: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each makes graphs of its own, more in all than torch allows a function by default."""
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr("ifir_lightning.models.backbone.COMPILER", counter)
    torch._dynamo.reset()
    opaque._compile()
    modes = [torch.enable_grad(), torch.no_grad(), torch.inference_mode()]
    found = []
    with torch._dynamo.config.patch(recompile_limit=8):
        for training, mode, half in product((True, False), modes, (False, True)):
            with mode, torch.autocast("cpu", torch.bfloat16, enabled=half):
                found.append(opaque.train(training)(random_tokens([5, 9, 3])).values_TD.float())
    assert counter.frame_count > 8
    for each in found:
        torch.testing.assert_close(each, found[0], atol=0.1, rtol=0)
    torch._dynamo.reset()


def test_a_thread_of_the_backward_pass_may_compile_as_many_graphs(opaque: Backbone) -> None:
    """torch keeps its limit by thread, and a GPU's backward pass, which computes chunks again, has one of its own."""
    limits: list[int] = []

    def encode() -> None:
        with torch.no_grad():
            opaque(random_tokens([5, 9, 3]))
        limits.append(torch._dynamo.config.recompile_limit)

    thread = Thread(target=encode)
    thread.start()
    thread.join()
    assert limits == [64]


def test_only_kernels_of_gpus_are_compiled(modernbert: Path, bert: Path) -> None:
    for folder, words in ((modernbert, "attention is sdpa and the model packed"), (bert, "sdpa and the model padded")):
        backbone = load_backbone(folder, compile=True)
        with pytest.raises(InputError, match=rf"compile is true, but .*{words}; allowed is .*: set model.backbone.com"):
            backbone.prepare(torch.device("cpu"), torch.float32)
