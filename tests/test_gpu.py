"""On a CUDA device: every head trains and validates in bfloat16, and agrees with the CPU in float32."""

from pathlib import Path

import pytest
import torch
from conftest import random_tokens
from small import DROPOUT, HEADS, TINY, Head, Recorder, retriever, synthetic_data, trainer, write_task

from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.models.attention import Attention
from ifir_lightning.models.scoring import MaxSim
from ifir_lightning.records import Embeddings, on_device

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


@pytest.mark.filterwarnings("default")  # torch's compiler warns of torch
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("attention", ["varlen", "flash_attention_2", "triton", "sdpa"])
def test_a_training_step_with_every_attention(
    attention: Attention, compiled: bool, wide_modernbert: Path, tmp_path: Path
) -> None:
    """In bfloat16, against the CPU in float32: the loss and the direction of the whole gradient."""
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    if attention == "sdpa" and compiled:
        pytest.skip("only kernels that the compiler cannot look into are compiled around")
    steps = []
    for device in ("cuda", "cpu"):
        model = retriever(wide_modernbert, "weighted").retriever.to(device)
        if device == "cuda":
            model.backbone.attention, model.backbone.compile_layers = attention, compiled
        model.prepare(torch.device(device), torch.bfloat16 if device == "cuda" else torch.float32)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            queries, passages = model(random_tokens([5, 9, 3, 40, 21, 30, 2, 17]).to(device)).split(3, 5)
            loss = torch.nn.functional.cross_entropy(model.scorer(queries, passages), torch.arange(3, device=device))
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        steps.append((loss.item(), gradient))
    (found, gradient), (expected, exact) = steps
    assert found == pytest.approx(expected, rel=0.05)
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.98


def busy() -> None:
    """About a second of work for the device, beside which the processor may go on."""
    torch.cuda.synchronize()
    torch.cuda._sleep(2 * 10**9)


def is_busy() -> bool:
    return not torch.cuda.current_stream().query()


def test_a_copy_to_the_device_does_not_wait_for_its_work() -> None:
    numbers = torch.arange(10**6)
    on_device(numbers, torch.device("cuda"))  # page-locked memory is had once
    busy()
    copy = on_device(numbers, torch.device("cuda"))
    assert is_busy()
    assert copy.cpu().equal(numbers)


def test_chunks_are_computed_again_with_the_same_dropout(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same chunks, kept."""
    gradients = []
    for kept in (False, True):
        model = retriever(modernbert, "maxsim", config=TINY | DROPOUT).retriever.cuda().train()
        model.prepare(torch.device("cuda"))
        model.backbone.max_tokens_per_chunk = 16
        if kept:
            monkeypatch.setattr(model, "_embed_recomputing", model._embed)
        torch.manual_seed(3)
        model(random_tokens([5, 9, 3, 40, 21]).to("cuda")).values_ND[:, 0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert gradients[0].norm() > 1e-3


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("head", HEADS)
def test_texts_are_encoded_and_scored_without_a_wait(head: Head, wide_modernbert: Path) -> None:
    """How far the processor runs ahead of the device is the speed of a validation."""
    model = retriever(wide_modernbert, head).retriever.cuda()
    model.prepare(torch.device("cuda"), torch.bfloat16)
    pairs = torch.tensor([[0, 0], [1, 2], [0, 1]])

    def encode_and_score() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            tokens = random_tokens([5, 9, 3, 40, 21]).to("cuda")
            queries, passages = model(tokens).split(2, 3)
            model.scorer.pairs(queries, passages, pairs)
            model.scorer(queries, passages)

    encode_and_score()  # what is loaded or compiled once may wait
    busy()
    encode_and_score()  # and so may page-locked memory, of which a busy device needs more
    torch.cuda.synchronize()
    busy()
    torch.cuda.set_sync_debug_mode("error")  # names the line that waits, where torch knows of it
    try:
        encode_and_score()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert is_busy()


def test_under_autocast_maxsim_is_that_of_the_rounded_embeddings() -> None:
    """Exactly: bfloat16 products are added in float32. Without autocast nothing is rounded."""
    rows_ND = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    texts = Embeddings(torch.tensor([4, 6, 12, 8]), rows_ND)
    rounded = Embeddings(texts.lengths_B, rows_ND.bfloat16().float())
    expected, exact = (MaxSim()(*each.split(2, 2)) for each in (rounded, texts))
    on_gpu = Embeddings(texts.lengths_B, rows_ND.cuda()).split(2, 2)
    with torch.autocast("cuda", torch.bfloat16):
        found = MaxSim()(*on_gpu).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    assert (found - exact).abs().max() > 1e-3
    torch.testing.assert_close(MaxSim()(*on_gpu).cpu(), exact, rtol=1e-6, atol=1e-5)
