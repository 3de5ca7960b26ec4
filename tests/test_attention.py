"""Attention within each text of a packed batch: every kernel against a loop over tokens, and which kernel is chosen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import load_backbone
from torch import Tensor

from ifir_lightning.errors import InputError
from ifir_lightning.models import attention, sdpa
from ifir_lightning.models.attention import Attention, Kernel, choose_kernel, make_layout, packed_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def naive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    window: int | None,
    hidden: set[int] = frozenset(),  # type: ignore[assignment]
) -> Iterator[Tensor]:
    """Token by token in the tensors' own precision: i sees j of its own text where |i - j| < window."""
    start = 0
    for length in lengths:
        for i in range(start, start + length):
            own = [j for j in range(start, start + length) if j not in hidden]
            seen = [j for j in own if window is None or abs(i - j) < window]
            weights = torch.softmax((q[:, i, None] * k[:, seen]).sum(-1) * 0.3, dim=-1)
            yield (weights[..., None] * v[:, seen]).sum(1)
        start += length


def attend(
    kernel: Kernel, qkv: list[Tensor], lengths: list[int], window: int | None, attend_T: Tensor | None = None
) -> Tensor:
    layout = make_layout(torch.tensor(lengths), kernel, qkv[0].device, attend_T)
    query_THW, key_THW, value_THW = (tensor.transpose(0, 1) for tensor in qkv)
    return packed_attention((query_THW, key_THW, value_THW), layout, scale=0.3, window=window)


@pytest.mark.parametrize("window", [None, 1, 4, 20])
def test_packed_attention_equals_a_loop_over_tokens(window: int | None) -> None:
    lengths = [1, 4, 4, 5, 3, 9]
    generator = torch.Generator().manual_seed(3)
    qkv = [torch.randn(2, sum(lengths), 6, dtype=torch.float64, generator=generator) for _ in range(3)]
    expected = torch.stack(list(naive_attention(*qkv, lengths, window)))
    torch.testing.assert_close(attend("sdpa", qkv, lengths, window), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [None, 4, 20])
def test_tokens_that_the_others_do_not_see(window: int | None) -> None:
    """Query expansion: the last tokens of a text, which see the others. One that sees nothing gives zeros."""
    lengths, hidden = [6, 6, 3, 9], {4, 5, 11, 21, 22, 23}
    generator = torch.Generator().manual_seed(3)
    qkv = [torch.randn(2, sum(lengths), 6, dtype=torch.float64, generator=generator) for _ in range(3)]
    attend_T = torch.tensor([token not in hidden for token in range(sum(lengths))])
    expected = torch.stack(list(naive_attention(*qkv, lengths, window, hidden)))
    torch.testing.assert_close(attend("sdpa", qkv, lengths, window, attend_T), expected, atol=1e-12, rtol=0)
    alone = attend("sdpa", qkv, lengths, 1, attend_T)
    assert alone[sorted(hidden)].abs().max() == 0
    assert alone.isfinite().all()


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("hides", [False, True])
def test_texts_much_longer_than_the_window_are_attended_in_blocks(window: int, hides: bool) -> None:
    """Lengths around whole numbers of blocks; each text alone, though several of equal length are computed at once."""
    lengths = [5, 24, 24, 25, 25, 25, 27, 38]
    generator = torch.Generator().manual_seed(3)
    qkv = [torch.randn(2, sum(lengths), 6, dtype=torch.float64, generator=generator) for _ in range(3)]
    hidden = {4, *range(20, 34), 80, 192} if hides else set()
    attend_T = torch.tensor([token not in hidden for token in range(sum(lengths))]) if hides else None
    expected = torch.stack(list(naive_attention(*qkv, lengths, window, hidden)))
    torch.testing.assert_close(attend("sdpa", qkv, lengths, window, attend_T), expected, atol=1e-12, rtol=0)


def test_blocks_have_the_gradients_of_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, window = [200, 200, 390, 391, 455, 512], 65
    generator = torch.Generator().manual_seed(3)
    qkv = [
        torch.randn(2, sum(lengths), 8, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)
    ]
    blocks = record(monkeypatch, "_in_blocks")
    in_blocks = gradients(attend("sdpa", qkv, lengths, window), qkv)
    assert blocks == [391, 455, 512]
    monkeypatch.setattr(sdpa, "WINDOWS", 100)
    for found, expected in zip(in_blocks, gradients(attend("sdpa", qkv, lengths, window), qkv), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert len(blocks) == 3


@pytest.mark.parametrize("length", [20, 200])
def test_dropout_takes_attention_weights_and_keeps_their_mean(length: int) -> None:
    """Values are ones: without dropout the sum of weights, 1, is the answer everywhere."""
    torch.manual_seed(0)
    query, key = torch.randn(2, length, 4, 8)
    heads = packed_attention(
        (query, key, torch.ones_like(key)), make_layout(torch.tensor([length]), "sdpa", CPU), 0.3, dropout=0.5, window=9
    )
    sums = heads[..., 0]
    assert sums.std() > 0.2
    assert sums.mean().item() == pytest.approx(1.0, abs=0.1)


def record(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Lengths of texts that a function of ``models/sdpa.py`` is given."""
    function, seen = getattr(sdpa, name), []

    def recording(qkv_BLHW: list[Tensor], *args: Any) -> Tensor:
        seen.append(qkv_BLHW[0].shape[1])
        return function(qkv_BLHW, *args)

    monkeypatch.setattr(sdpa, name, recording)
    return seen


def gradients(heads: Tensor, qkv: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.randn(heads.shape, dtype=heads.dtype, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad((heads * weights).sum(), qkv)


@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2", "triton"])
def test_kernels_without_a_mask_refuse_unattended_expansion(flash_installed, kernel: Attention) -> None:
    flash_installed(True)
    with pytest.raises(InputError, match=rf"attention is {kernel}: .* model.text.query_expansion unattended needs; po"):
        choose_kernel(kernel, CUDA, torch.bfloat16, 0.0, unattended=True)
    assert choose_kernel("auto", CUDA, torch.bfloat16, 0.0, unattended=True) == "sdpa"


@pytest.mark.parametrize(("window", "sides"), [(65, (64, 64)), (1, (0, 0)), (None, (-1, -1))])
def test_gpu_kernels_are_told_the_tokens_to_each_side(window: int | None, sides: tuple[int, int]) -> None:
    """transformers says 65 where |i - j| <= 64; the kernels count neighbours, and -1 is all of them."""
    assert attention._reach(window) == sides


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
@pytest.mark.parametrize("window", [None, 65])
def test_gpu_kernels_equal_sdpa(kernel: Kernel, window: int | None) -> None:
    """Window 65 is what ModernBERT's local layers ask for: 64 tokens to each side.

    Against float32, sdpa itself in bfloat16 is 0.004 of the norm off and 0.04 at most, a window of 64 or 66 0.1 and 2.
    """
    if kernel == "flash_attention_2":
        pytest.importorskip("flash_attn")
    lengths = [1, 2, 63, 64, 65, 66, 128, 129, 130, 300]
    generator = torch.Generator("cuda").manual_seed(3)
    shape = (4, sum(lengths), 64)
    results = []
    base = [torch.randn(shape, device="cuda", generator=generator, dtype=torch.bfloat16) for _ in range(4)]
    for name, dtype in (("sdpa", torch.float32), (kernel, torch.bfloat16)):
        qkv = [tensor.to(dtype).requires_grad_() for tensor in base[:3]]
        output = attend(name, qkv, lengths, window)  # type: ignore[arg-type]
        (output * base[3].transpose(0, 1)).sum().backward()
        results.append([output, *(tensor.grad for tensor in qkv)])
    for expected, found in zip(*results, strict=True):
        assert (found.float() - expected).norm() < 1e-2 * expected.norm()
        torch.testing.assert_close(found.float(), expected, atol=5e-2, rtol=2e-2)


@pytest.fixture(autouse=True)
def generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100, unless a test says otherwise."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(attention, "compute_capability", lambda device: (9, 0))


@pytest.mark.parametrize("kernel", ["flash_attention_2", "varlen", "triton"])
def test_a_gpu_older_than_ampere_runs_sdpa(flash_installed, kernel: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    flash_installed(True)
    monkeypatch.setattr(attention, "compute_capability", lambda device: (7, 5))
    assert choose_kernel("auto", CUDA, torch.float16, 0.0) == "sdpa"
    with pytest.raises(InputError, match=r"needs an Ampere GPU .*; possible here: auto, sdpa"):
        choose_kernel(kernel, CUDA, torch.float16, 0.0)


@pytest.fixture
def flash_installed(monkeypatch: pytest.MonkeyPatch):
    """Say whether flash-attn and triton are there, whatever this machine has."""
    return lambda there: monkeypatch.setattr(attention, "find_spec", lambda _: object() if there else None)


@pytest.mark.parametrize(
    ("device", "dtype", "dropout", "flash", "expected"),
    [
        (CUDA, torch.bfloat16, 0.0, True, "triton"),
        (CUDA, torch.float16, 0.1, True, "flash_attention_2"),
        (CUDA, torch.bfloat16, 0.0, False, "varlen"),
        (CUDA, torch.bfloat16, 0.1, False, "sdpa"),
        (CUDA, torch.float32, 0.0, True, "sdpa"),
        (CPU, torch.bfloat16, 0.0, True, "sdpa"),
        (CPU, torch.float32, 0.0, False, "sdpa"),
    ],
)
def test_auto_takes_the_fastest_kernel_that_can_run(
    flash_installed, device: torch.device, dtype: torch.dtype, dropout: float, flash: bool, expected: str
) -> None:
    flash_installed(flash)
    assert choose_kernel("auto", device, dtype, dropout) == expected


@pytest.mark.parametrize(
    ("generation", "width", "expected"),
    [
        ((9, 0), 64, "triton"),
        ((9, 0), 32, "flash_attention_2"),
        ((9, 0), 128, "flash_attention_2"),
        ((8, 0), 64, "flash_attention_2"),
        ((10, 0), 64, "flash_attention_2"),
    ],
)
def test_auto_takes_triton_where_it_was_measured(
    flash_installed, generation: tuple[int, int], width: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash_installed(True)
    monkeypatch.setattr(attention, "compute_capability", lambda device: generation)
    assert choose_kernel("auto", CUDA, torch.bfloat16, 0.0, width=width) == expected


@pytest.mark.parametrize("kernel", ["flash_attention_2", "varlen", "triton", "sdpa"])
def test_a_kernel_that_can_run_is_taken_as_asked(flash_installed, kernel: Attention) -> None:
    flash_installed(True)
    assert choose_kernel(kernel, CUDA, torch.bfloat16, 0.0) == kernel


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "dropout", "obstacle"),
    [
        ("flash_attention_2", CPU, torch.bfloat16, 0.0, "it needs a CUDA device, not cpu"),
        ("varlen", CPU, torch.bfloat16, 0.0, "it needs a CUDA device, not cpu"),
        ("flash_attention_2", CUDA, torch.float32, 0.0, "it computes in bfloat16 or float16, not torch.float32"),
        ("varlen", CUDA, torch.float32, 0.0, "it computes in bfloat16 or float16, not torch.float32"),
        ("flash_attention_2", CUDA, torch.bfloat16, 0.0, "flash-attn is not installed"),
        ("varlen", CUDA, torch.bfloat16, 0.1, "it has no attention dropout, and the checkpoint's is 0.1"),
        ("triton", CPU, torch.bfloat16, 0.0, "it needs a CUDA device, not cpu"),
        ("triton", CUDA, torch.float32, 0.0, "it computes in bfloat16 or float16, not torch.float32"),
        ("triton", CUDA, torch.bfloat16, 0.0, "triton is not installed"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(
    flash_installed, kernel: Attention, device: torch.device, dtype: torch.dtype, dropout: float, obstacle: str
) -> None:
    flash_installed(False)
    with pytest.raises(InputError) as error:
        choose_kernel(kernel, device, dtype, dropout)
    value, rest = str(error.value).split(": ", 1)
    assert value == f"model.backbone.attention is {kernel}"
    assert rest.startswith(f"{obstacle}; possible here: auto, ")
    assert "sdpa" in rest
    assert "--trainer.precision bf16-mixed" in rest


@pytest.mark.parametrize("width", [12, 264])
def test_varlen_takes_heads_of_some_widths(flash_installed, width: int) -> None:
    flash_installed(False)
    assert choose_kernel("auto", CUDA, torch.bfloat16, 0.0, width=width) == "sdpa"
    match = rf"is varlen: it takes heads of width 8, 16, \.\.\. 256, the checkpoint's have {width}; possible here: auto"
    with pytest.raises(InputError, match=match):
        choose_kernel("varlen", CUDA, torch.bfloat16, 0.0, width=width)


def test_triton_takes_heads_of_some_widths(flash_installed, modernbert: Path) -> None:
    flash_installed(True)
    match = (
        r"attention is triton: it takes heads of width 32, 64 or 128, and the checkpoint's have 16; possible here: auto"
    )
    with pytest.raises(InputError, match=match):
        choose_kernel("triton", CUDA, torch.bfloat16, 0.0, width=16)
    backbone = load_backbone(modernbert, attention="triton")
    with pytest.raises(InputError, match=r"the checkpoint's have 8; possible"):
        backbone.prepare(CUDA, torch.bfloat16)
    with pytest.raises(InputError, match=r"it has no attention dropout, and the checkpoint's is 0\.1"):
        choose_kernel("triton", CUDA, torch.bfloat16, 0.1)
