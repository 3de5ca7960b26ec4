"""The CUDA kernels of attention against loops in float64; without a GPU in Triton's interpreter (see conftest.py)."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed: the CUDA kernels of attention are not tested")

from conftest import random_tokens
from small import load_backbone
from torch._dynamo.testing import CompileCounterWithBackend

from ifir_lightning.models import attention, triton_attention
from ifir_lightning.models.attention import TILE, make_tiles
from ifir_lightning.models.backbone import Backbone
from ifir_lightning.models.triton_attention import _attend, _registers, rotary_attention

pytestmark = pytest.mark.usefixtures("bfloat16_products")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_float32 = pytest.mark.skipif(not INTERPRETED, reason="on a GPU these kernels are for bfloat16 and float16")
DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = [1, TILE, TILE - 3, 2 * TILE + 5, 2]
"""A text of one token, of exactly a tile, of several and a rest."""
NUM_HEADS = 2
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
Found = tuple[Tensor, Tensor]


def example(width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qkv_T3HW, cos_PV, sin_PV, and what the layer hands back to heads_THW."""
    generator = torch.Generator().manual_seed(width)
    qkv_T3HW = torch.randn(sum(LENGTHS), 3, NUM_HEADS, width, generator=generator)
    angle_PV = torch.rand(max(LENGTHS), width // 2, generator=generator) * 6.3
    pull_THW = torch.randn(sum(LENGTHS), NUM_HEADS, width, generator=generator)
    return qkv_T3HW.to(DEVICE, dtype), angle_PV.cos().to(DEVICE), angle_PV.sin().to(DEVICE), pull_THW.to(DEVICE, dtype)


def fused(width: int, dtype: torch.dtype, window: int | None) -> Found:
    """heads_THW and the gradient of qkv_T3HW."""
    qkv_T3HW, cos_PV, sin_PV, pull_THW = example(width, dtype)
    qkv_T3HW.requires_grad_()
    tiles_N3 = make_tiles(torch.tensor(LENGTHS)).to(DEVICE)
    heads_THW = rotary_attention(qkv_T3HW, cos_PV, sin_PV, tiles_N3, width**-0.5, window)
    heads_THW.backward(pull_THW)
    assert qkv_T3HW.grad is not None
    return heads_THW.detach(), qkv_T3HW.grad


def slow(width: int, dtype: torch.dtype, window: int | None) -> Found:
    """Text by text and head by head, in float64."""
    qkv_T3HW, cos_PV, sin_PV, pull_THW = (each.double().cpu() for each in example(width, dtype))
    qkv_T3HW.requires_grad_()
    texts = []
    for text_L3HW in qkv_T3HW.split(LENGTHS):
        position_L = torch.arange(len(text_L3HW))
        seen_LL = (position_L[:, None] - position_L).abs() < (window or len(position_L))
        heads = []
        for query_LW, key_LW, value_LW in text_L3HW.permute(2, 1, 0, 3):
            query_LW, key_LW = (turned(each, cos_PV[position_L], sin_PV[position_L]) for each in (query_LW, key_LW))
            score_LL = (query_LW @ key_LW.T * width**-0.5).masked_fill(~seen_LL, -torch.inf)
            heads.append(score_LL.softmax(1) @ value_LW)
        texts.append(torch.stack(heads, dim=1))
    heads_THW = torch.cat(texts)
    heads_THW.backward(pull_THW)
    assert qkv_T3HW.grad is not None
    return heads_THW.detach(), qkv_T3HW.grad


def turned(rows_LW: Tensor, cos_LV: Tensor, sin_LV: Tensor) -> Tensor:
    first_LV, second_LV = rows_LW.chunk(2, dim=1)
    return torch.cat([first_LV * cos_LV - second_LV * sin_LV, second_LV * cos_LV + first_LV * sin_LV], dim=1)


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=in_float32), torch.bfloat16], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize(
    ("width", "window"), [(32, None), (64, None), (128, None), (32, 10), (32, TILE + 1), (32, TILE + 2)]
)
def test_outputs_and_gradients_are_those_of_the_loop(width: int, window: int | None, dtype: torch.dtype) -> None:
    for found, expected in zip(fused(width, dtype, window), slow(width, dtype, window), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.cpu().double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_without_gradients_the_outputs_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are not copied then; what nobody writes holds NaN here."""
    qkv_T3HW, *tables, _ = example(32, torch.bfloat16)
    tiles_N3 = make_tiles(torch.tensor(LENGTHS)).to(DEVICE)
    monkeypatch.setattr(torch, "empty_like", lambda like, **options: torch.full_like(like, torch.nan, **options))
    found_THW = rotary_attention(qkv_T3HW, *tables, tiles_N3, 0.2, 10)
    *_, turned_T3HW = _attend(qkv_T3HW, *tables, tiles_N3, 0.2, 10, False)
    assert turned_T3HW[:, 2].isnan().all()
    torch.testing.assert_close(found_THW, _attend(qkv_T3HW, *tables, tiles_N3, 0.2, 10, True)[0], atol=0, rtol=0)


def test_values_are_copied_only_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation has no use for the copy."""
    qkv_T3HW, *tables, _ = example(32, torch.bfloat16)
    tiles_N3, asked = make_tiles(torch.tensor(LENGTHS)).to(DEVICE), []
    monkeypatch.setattr(triton_attention, "_attend", lambda *args: (asked.append(args[-1]), _attend(*args))[1])
    for learns, mode in product((False, True), (torch.enable_grad, torch.no_grad)):
        with mode():
            rotary_attention(qkv_T3HW.detach().requires_grad_(learns), *tables, tiles_N3, 0.2, 10)
    assert asked == [False, False, True, False]


def test_tiles_out_of_reach_are_not_read() -> None:
    """NaN there does no harm: a local layer takes the time of its window."""
    qkv_T3HW, *_ = example(32, torch.bfloat16)
    qkv_T3HW[2 * TILE :, 2] = torch.nan
    flat = torch.ones(len(qkv_T3HW), 16, device=DEVICE)
    tiles_N3 = make_tiles(torch.tensor([len(qkv_T3HW)])).to(DEVICE)
    assert rotary_attention(qkv_T3HW, flat, flat, tiles_N3, 0.2, 10)[:TILE].isfinite().all()


@pytest.mark.parametrize(
    ("generation", "width", "amd", "expected"),
    [(9, 64, None, {"maxnreg": 96}), (9, 128, None, {}), (8, 64, None, {}), (10, 64, None, {}), (9, 64, "7.0", {})],
)
def test_few_registers_are_asked_for_where_they_pay(
    generation: int, width: int, amd: str | None, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Hopper GPUs, where heads are narrow; AMD's have numbers of their own, and no such option."""
    monkeypatch.setattr(attention, "compute_capability", lambda device: (generation, 0))
    monkeypatch.setattr(torch.version, "hip", amd)
    assert _registers(SimpleNamespace(device=torch.device("cuda"), shape=(3, 3, 2, width)), 96) == expected
    assert _registers(torch.zeros(3, 3, 2, 64), 96) == {}


def test_tiles_are_those_worked_by_hand() -> None:
    tiles_N3 = make_tiles(torch.tensor([1, TILE, 2 * TILE + 5, 2]))
    last = 1 + TILE + 2 * TILE + 5
    long = [[1 + TILE, 2 * TILE + 5, first] for first in (0, TILE, 2 * TILE)]
    assert tiles_N3.tolist() == [[0, 1, 0], [1, TILE, 0], *long, [last, 2, 0]]
    assert tiles_N3.dtype == torch.int32


def test_torch_finds_the_operators_well_formed() -> None:
    """Shapes under the compiler, gradients, no hidden writes."""
    qkv_T3HW, cos_PV, sin_PV, _ = example(32, torch.bfloat16)
    tiles_N3 = make_tiles(torch.tensor(LENGTHS)).to(DEVICE)
    torch.library.opcheck(_attend, (qkv_T3HW.requires_grad_(), cos_PV, sin_PV, tiles_N3, 0.2, 10, True))


@in_float32
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch asks itself
def test_a_model_encodes_and_learns_as_with_sdpa(wide_modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Global and local layers, plain and compiled; other lengths compile nothing."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr("ifir_lightning.models.backbone.COMPILER", counter)
    torch._dynamo.reset()
    models = [load_backbone(wide_modernbert, compile=compiled) for compiled in (False, False, True)]
    for model, kernel in zip(models, ("sdpa", "triton", "triton"), strict=True):
        model.kernel = kernel
    models[2]._compile()
    compiled = []
    for lengths in ([TILE + 9, 3], [5, 20, 7, 2]):
        expected, plain, fast = (step(model, lengths) for model in models)
        for exact, *found in zip(expected, plain, fast, strict=True):
            for each in found:
                torch.testing.assert_close(each, exact, atol=2e-5 * max(1.0, float(exact.abs().max())), rtol=0)
        compiled.append(counter.frame_count)
    assert compiled[0] > 0
    assert compiled[1] == compiled[0]
    torch._dynamo.reset()


def step(model: Backbone, lengths: list[int]) -> list[Tensor]:
    """Hidden states and the gradients of all weights."""
    model.zero_grad()
    hidden_TD = model(random_tokens(lengths)).values_TD
    (hidden_TD * torch.linspace(-1, 1, hidden_TD.shape[1])).sum().backward()
    return [hidden_TD.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ifir_lightning.models import triton_attention_kernels as kernels
from ifir_lightning.models.attention import TILE
from ifir_lightning.models.triton_attention import FORWARD_REGISTERS, KEYS_REGISTERS

TYPES = {"cos": "*fp32", "sin": "*fp32", "tiles": "*i32", "lse": "*fp32", "delta": "*fp32"}
TYPES |= {"num_tokens": "i32", "scale": "fp32"}
assert TYPES.keys() <= set(kernels.rotate_kernel.arg_names + kernels.queries_kernel.arg_names)
REGISTERS = {"forward_kernel": FORWARD_REGISTERS, "keys_kernel": KEYS_REGISTERS}
for name, window, half in (("bf16", 0, 32), ("bf16", 65, 32), ("fp16", 65, 32), ("bf16", 65, 64)):
    for kernel in (kernels.rotate_kernel, kernels.forward_kernel, kernels.queries_kernel, kernels.keys_kernel):
        fixed = {"NUM_HEADS": 12, "HALF": half, "TILE": TILE, "WINDOW": window, "VALUES": True}
        fixed = {argument: value for argument, value in fixed.items() if argument in kernel.arg_names}
        types = {argument: TYPES.get(argument, "*" + name) for argument in kernel.arg_names}
        source = ASTSource(kernel, types | dict.fromkeys(fixed, "constexpr"), fixed)
        options = {"num_warps": 4, "maxnreg": REGISTERS.get(kernel.__name__) if half <= 32 else None}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        varying = [each.name for each in kernel.params if each.name == "num_tokens" and not each.do_not_specialize]
        print(compiled.metadata.name, name, varying, compiled.metadata.shared, "wgmma" in compiled.asm["ptx"])
"""


def test_the_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    """To machine code, which needs no GPU, once for all numbers of tokens; a program may use 227 KiB of memory."""
    settings = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4 * 4
    assert max(int(shared) for *_, shared, _ in lines) <= 227 * 1024, done.stdout
    assert all((tensor_cores == "True") == (name != "rotate_kernel") for name, *_, tensor_cores in lines), done.stdout
    assert {varying for _, _, varying, *_ in lines} == {"[]"}, "compiled again where a number of tokens divides by 16"
