"""The CUDA kernels of MaxSim against two loops in float64; without a GPU in Triton's interpreter (see conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed: the CUDA kernels of MaxSim are not tested")

from ifir_lightning.models.maxsim import best_similarity
from ifir_lightning.models.triton_maxsim import TILE, fused_best_similarity
from ifir_lightning.records import Embeddings

pytestmark = pytest.mark.usefixtures("bfloat16_products")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = [1, TILE, TILE - 3, 3 * TILE + 5, 2, TILE + 1]
"""Passages of one row, of exactly a tile, of several; more passages than a program takes, and not a multiple."""

Found = tuple[Tensor, Tensor, Tensor]


def example(num_rows: int, width: int, dtype: torch.dtype, lengths: list[int] = LENGTHS) -> tuple[Tensor, Embeddings]:
    """Rows of length about 1, as a head makes them."""
    generator = torch.Generator().manual_seed(width)
    rows = torch.randn(num_rows + sum(lengths), width, generator=generator) / width**0.5
    queries_ND, passages_ND = rows.to(DEVICE, dtype).split([num_rows, sum(lengths)])
    return queries_ND, Embeddings(torch.tensor(lengths), passages_ND)


def pull(num_rows: int, num_passages: int) -> Tensor:
    """What the loss hands back to best_NP."""
    return torch.randn(num_rows, num_passages, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def run(function, queries_ND: Tensor, passages: Embeddings, pull_NP: Tensor) -> Found:
    """best_NP and the gradients of both inputs."""
    inputs = (queries_ND.clone().requires_grad_(), passages.values_ND.clone().requires_grad_())
    best_NP = function(inputs[0], Embeddings(passages.lengths_B, inputs[1]))
    return best_NP, *torch.autograd.grad(best_NP, inputs, pull_NP)


def loops(queries_ND: Tensor, passages: Embeddings, pull_NP: Tensor) -> Found:
    """Every query row, every passage: the first best row, and what it and the query row get."""
    queries, values, pulls = (each.double().cpu() for each in (queries_ND, passages.values_ND, pull_NP))
    best_NP, grad_queries, grad_values = torch.zeros_like(pulls), torch.zeros_like(queries), torch.zeros_like(values)
    for n, query in enumerate(queries):
        start = 0
        for p, length in enumerate(passages.lengths_B.tolist()):
            similarities = [float(query @ row) for row in values[start : start + length]]
            best_NP[n, p] = max(similarities)
            winner = start + similarities.index(max(similarities))
            grad_queries[n] += pulls[n, p] * values[winner]
            grad_values[winner] += pulls[n, p] * query
            start += length
    return best_NP, grad_queries, grad_values


def close(actual: Tensor, expected: Tensor, relative: float = 0.0, absolute: float = 2e-6) -> None:
    torch.testing.assert_close(actual.double().cpu(), expected.double().cpu(), rtol=relative, atol=absolute)


@pytest.mark.parametrize("num_rows", [1, TILE + 7])
@pytest.mark.parametrize("width", [16, 40, 128])
def test_float32_equals_the_loops(num_rows: int, width: int) -> None:
    queries_ND, passages = example(num_rows, width, torch.float32)
    pull_NP = pull(num_rows, len(LENGTHS))
    found = run(fused_best_similarity, queries_ND, passages, pull_NP)
    for actual, expected in zip(found, loops(queries_ND, passages, pull_NP), strict=True):
        assert actual.dtype == torch.float32
        close(actual, expected)


def test_many_short_passages_equal_the_loops() -> None:
    """More of them than a query row gathers at a time (32), twice."""
    queries_ND, passages = example(3, 16, torch.float32, [1, 3, 2, 1, 5] * 14)
    pull_NP = pull(3, 70)
    found = run(fused_best_similarity, queries_ND, passages, pull_NP)
    for actual, expected in zip(found, loops(queries_ND, passages, pull_NP), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("width", [16, 40, 128, 272])
@pytest.mark.parametrize(("dtype", "last_place"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_narrow_embeddings_are_added_in_float32_and_rounded_once(
    width: int, dtype: torch.dtype, last_place: float
) -> None:
    """best_NP is as exact as from float32; a gradient misses at most the last place of its own dtype."""
    queries_ND, passages = example(TILE + 7, width, dtype)
    pull_NP = pull(TILE + 7, len(LENGTHS))
    best_NP, *gradients = run(fused_best_similarity, queries_ND, passages, pull_NP)
    expected_NP, *expected = loops(queries_ND, passages, pull_NP)
    assert best_NP.dtype == torch.float32
    close(best_NP, expected_NP)
    for actual, exact in zip(gradients, expected, strict=True):
        assert actual.dtype == dtype
        close(actual, exact, relative=last_place, absolute=1e-5)


def test_weights_are_not_rounded_to_bfloat16() -> None:
    """1 and 1 + 2^-10 are one number in bfloat16; their difference is all that this gradient consists of."""
    queries_ND = torch.ones(2, 16, dtype=torch.bfloat16, device=DEVICE)
    passages = Embeddings(torch.tensor([1]), torch.ones(1, 16, dtype=torch.bfloat16, device=DEVICE))
    _, _, grad_ND = run(fused_best_similarity, queries_ND, passages, torch.tensor([[1 + 2**-10], [-1.0]]).to(DEVICE))
    assert grad_ND.tolist() == [[2**-10] * 16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_best_similarity(dtype: torch.dtype) -> None:
    queries_ND, passages = example(TILE + 7, 128, dtype)
    pull_NP = pull(TILE + 7, len(LENGTHS))
    found, expected = (run(f, queries_ND, passages, pull_NP) for f in (fused_best_similarity, best_similarity))
    for actual, other in zip(found, expected, strict=True):
        assert actual.dtype == other.dtype
        assert actual.shape == other.shape
        close(actual, other, relative=0.0 if actual.dtype == torch.float32 else 2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_tied_rows_wins_within_a_tile_and_across_tiles(dtype: torch.dtype) -> None:
    """Whole numbers: every sum is exact. Rows 2, 5, TILE + 1 and 2 * TILE of the first passage are one row."""
    queries_ND = torch.zeros(3, 16, device=DEVICE, dtype=dtype)
    queries_ND[:, 0] = torch.tensor([1.0, 2.0, 3.0])
    values_ND = torch.zeros(2 * TILE + 9 + 4, 16, device=DEVICE, dtype=dtype)
    values_ND[[2, 5, TILE + 1, 2 * TILE]] = 4.0
    passages = Embeddings(torch.tensor([2 * TILE + 9, 4]), values_ND)  # all rows of the second one tie
    pull_NP = torch.tensor([[1.0, 10], [100, 1000], [0, 0]]).to(DEVICE)
    best_NP, grad_queries_ND, grad_values_ND = run(fused_best_similarity, queries_ND, passages, pull_NP)
    assert best_NP.tolist() == [[4, 0], [8, 0], [12, 0]]
    expected_ND = torch.zeros_like(values_ND)
    expected_ND[2, 0], expected_ND[2 * TILE + 9, 0] = 1 * 1 + 100 * 2, 10 * 1 + 1000 * 2
    close(grad_values_ND, expected_ND, relative=2**-7 if dtype == torch.bfloat16 else 0.0, absolute=0.0)
    assert grad_queries_ND[:, 1].tolist() == [4, 400, 0]


def test_what_is_not_there_wins_nowhere() -> None:
    """All similarities are negative: a zero offered for a missing row, or a neighbour's row, would be the best."""
    queries_ND = torch.ones(2, 16, device=DEVICE)
    values_ND = torch.tensor([-3.0, -2, -5, -2.5, -4]).to(DEVICE)[:, None].expand(5, 16)
    passages = Embeddings(torch.tensor([1, 4]), values_ND)
    best_NP, _, grad_ND = run(fused_best_similarity, queries_ND, passages, torch.ones(2, 2, device=DEVICE))
    assert best_NP.tolist() == [[-48, -32]] * 2
    assert grad_ND[:, 0].tolist() == [2, 2, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_runs_are_equal_bit_for_bit(dtype: torch.dtype) -> None:
    queries_ND, passages = example(2 * TILE + 1, 16, dtype)
    runs = [run(fused_best_similarity, queries_ND, passages, pull(2 * TILE + 1, len(LENGTHS))) for _ in range(2)]
    assert all(one.equal(other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_alone_is_the_same(wanted: int) -> None:
    queries_ND, passages = example(9, 16, torch.float32)
    both = run(fused_best_similarity, queries_ND, passages, pull(9, len(LENGTHS)))[1:]
    inputs = [queries_ND.clone(), passages.values_ND.clone()]
    inputs[wanted].requires_grad_()
    best_NP = fused_best_similarity(inputs[0], Embeddings(passages.lengths_B, inputs[1]))
    best_NP.backward(pull(9, len(LENGTHS)))
    assert inputs[1 - wanted].grad is None
    close(inputs[wanted].grad, both[wanted], absolute=0.0)


def test_inputs_of_two_dtypes_get_gradients_of_their_own() -> None:
    queries_ND, passages = example(5, 16, torch.bfloat16)
    pull_NP = pull(5, len(LENGTHS))
    _, *gradients = run(fused_best_similarity, queries_ND.float(), passages, pull_NP)
    _, *expected = loops(queries_ND, passages, pull_NP)
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.bfloat16]
    close(gradients[0], expected[0])
    close(gradients[1], expected[1], relative=2**-7)


def test_a_winner_behind_what_16_bits_can_number() -> None:
    length = 2**15 + 6
    queries_ND = torch.ones(1, 16, device=DEVICE)
    values_ND = torch.arange(1.0, length + 1, device=DEVICE)[:, None].expand(length, 16)
    found = run(fused_best_similarity, queries_ND, Embeddings(torch.tensor([length]), values_ND), 2 * pull(1, 1))
    best_NP, grad_queries_ND, grad_ND = found
    assert best_NP.tolist() == [[16.0 * length]]
    close(grad_queries_ND, (2 * pull(1, 1) * length).expand(1, 16), relative=1e-6)
    assert grad_ND[:, 0].nonzero().tolist() == [[length - 1]]


def test_a_similarity_that_is_no_number_is_not_hidden() -> None:
    queries_ND, values_ND = torch.ones(1, 16, device=DEVICE), torch.ones(3, 16, device=DEVICE)
    values_ND[1] = float("nan")
    best_NP = fused_best_similarity(queries_ND, Embeddings(torch.tensor([2, 1]), values_ND))
    assert best_NP.isnan().tolist() == [[True, False]]


def test_two_bytes_stay_for_the_backward_pass_of_every_pair() -> None:
    queries_ND, passages = example(TILE, 16, torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fused_best_similarity(queries_ND.requires_grad_(), passages)
    inputs = (queries_ND.data_ptr(), passages.values_ND.data_ptr())
    kept_bytes = sum(tensor.nbytes for tensor in kept if tensor.data_ptr() not in inputs)
    assert kept_bytes == 2 * TILE * len(LENGTHS) + 4 * (len(LENGTHS) + 1)


def test_broken_packing_is_refused() -> None:
    queries_ND, values_ND = torch.ones(1, 16, device=DEVICE), torch.ones(3, 16, device=DEVICE)
    for lengths, match in (([0, 3], "no best match"), ([4], "do not make up")):
        with pytest.raises(AssertionError, match=match):
            fused_best_similarity(queries_ND, Embeddings(torch.tensor(lengths), values_ND))
    with pytest.raises(AssertionError, match="two widths"):
        fused_best_similarity(queries_ND[:, :8], Embeddings(torch.tensor([3]), values_ND))


COMPILE = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ifir_lightning.models import triton_maxsim as kernels

OTHERS = {"bounds": "*i32", "tiles": "*i32", "gradients": "*fp32", "best_out": "*fp32"}
for name in ("fp32", "bf16", "fp16"):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    for width in map(int, sys.argv[1:]):
        columns = min(kernels._padded(width), 128)
        constants = {
            kernels._best_kernel: {"COLUMNS": kernels._columns(width, dtype), "TILE": kernels.TILE, "GROUP": 4},
            kernels._queries_kernel: {"COLUMNS": columns, "PASSAGES": 32},
            kernels._passages_kernel: {"COLUMNS": columns, "TILE": kernels.TILE},
        }
        for kernel, fixed in constants.items():
            fixed["WIDTH"] = width
            types = {argument: OTHERS.get(argument, "*" + name) for argument in kernel.arg_names}
            types |= {argument: "i32" for argument in types if argument.startswith("num_")}
            types |= {argument: "*i16" for argument in types if argument.startswith("winner")}
            source = ASTSource(kernel, types | dict.fromkeys(fixed, "constexpr"), fixed)
            options = {"num_warps": kernels._num_warps(dtype)}
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            print(compiled.metadata.name, name, compiled.metadata.shared, "wgmma" in compiled.asm["ptx"])
"""


def test_the_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    """To machine code, which needs no GPU; a program may use 227 KiB of shared memory there."""
    settings = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, "128", "768"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 3 * 2 * 3
    assert max(int(shared) for *_, shared, _ in lines) <= 227 * 1024, done.stdout
    fast = {(kernel, dtype) for kernel, dtype, _, tensor_cores in lines if tensor_cores == "True"}
    assert fast == {(kernel, dtype) for kernel in ("_best_kernel", "_passages_kernel") for dtype in ("bf16", "fp16")}
