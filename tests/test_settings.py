"""Which settings must be those of the run that is continued, however they are spelled."""

from pathlib import Path
from typing import Any

import pytest

from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.errors import InputError
from ifir_lightning.resume import find_checkpoint, find_start, training_settings

SCHEDULE = {
    "class_path": "ifir_lightning.callbacks.weight_schedule.WeightSchedule",
    "init_args": {"instruction_negative": [[0, 0.0], [8, 4.0]], "in_batch": None},
}
PROBE = {
    "class_path": "ifir_lightning.callbacks.margin.InstructionMarginProbe",
    "init_args": {"share": 0.1, "num_rows": 256},
}
AVERAGES = {
    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.9, "update_every_n_steps": 1, "update_starting_at_step": None},
}
LOOKS_ON = {"class_path": "ifir_lightning.callbacks.gradients.GradientNorm", "init_args": {}}


def settings(folder: Path, path: str = "synthetic:64", **trainer: Any) -> dict[str, Any]:
    """Of a recipe with these settings of the trainer."""
    given = {"default_root_dir": str(folder), "callbacks": [LOOKS_ON], "precision": None} | trainer
    return training_settings(
        {"seed_everything": 0, "model": {}, "data": {"path": path}, "trainer": given, "ckpt_path": None}
    )


def continued(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> int:
    """The step after which a run with the settings ``before`` goes on under others."""
    content = dict.fromkeys(("state_dict", "pytorch-lightning_version", "retriever"))
    content |= {"global_step": 7, "epoch": 0, "settings": before}
    ManifestIO().save_checkpoint(content, folder / "checkpoints" / "step-00000007.ckpt")
    start = find_start(folder, None, "auto", now)
    assert start is not None
    return start.step


def with_probe(**arguments: Any) -> dict[str, Any]:
    return {"callbacks": [LOOKS_ON, PROBE | {"init_args": PROBE["init_args"] | arguments}]}


COMPUTE = {
    "fewer batches": ({"limit_train_batches": 8}, {"limit_train_batches": 4}, "limit_train_batches was 8 and is 4"),
    "one batch or all": ({"limit_train_batches": 1.0}, {"limit_train_batches": 1}, "was 1.0 and is 1;"),
    "overfitting": ({"overfit_batches": 0.0}, {"overfit_batches": 1}, "overfit_batches was 0.0 and is 1"),
    "a schedule that goes": ({"callbacks": [SCHEDULE]}, {}, r"WeightSchedule.instruction_negative was \[\[\[0, 0.0\]"),
    "a schedule that comes": ({}, {"callbacks": SCHEDULE}, "WeightSchedule.instruction_negative was None and is"),
    "an average that goes": ({"callbacks": [AVERAGES]}, {}, r"EMAWeightAveraging.decay was \[0.9\] and is None"),
    "the rows of a probe": (with_probe(), with_probe(share=0.2), r"Probe.share was \[0.1\] and is \[0.2\]"),
}


@pytest.mark.parametrize("case", COMPUTE)
def test_what_changes_the_computation_is_refused(case: str, tmp_path: Path) -> None:
    before, now, words = COMPUTE[case]
    with pytest.raises(InputError, match=words):
        continued(tmp_path, settings(tmp_path, **before), settings(tmp_path, **now))


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "precision": ({}, {"precision": "32-true"}),
    "clipping": ({"gradient_clip_algorithm": None}, {"gradient_clip_algorithm": "norm"}),
    "all batches": ({"limit_train_batches": None}, {"limit_train_batches": 1.0}),
    "an older version knew less": ({}, {"overfit_batches": 0.0}),
    "a callback that looks on": ({}, {"callbacks": None}),
    "the only callback, without a list": ({"callbacks": LOOKS_ON}, {"callbacks": [LOOKS_ON]}),
    "what a probe looks at": (with_probe(), with_probe(num_rows=10)),
}


@pytest.mark.parametrize("case", SAME)
def test_what_does_not_change_it_is_continued(case: str, tmp_path: Path) -> None:
    before, now = SAME[case]
    assert continued(tmp_path, settings(tmp_path, **before), settings(tmp_path, **now)) == 7


def test_a_table_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table").mkdir()
    monkeypatch.chdir(tmp_path)
    assert continued(tmp_path, settings(tmp_path, "table"), settings(tmp_path, str(tmp_path / "table"))) == 7


@pytest.mark.parametrize(
    ("before", "now", "advised"),
    [
        ({"precision": "bf16-mixed"}, {}, True),
        ({"path": "moved"}, {}, True),
        (with_probe(), {}, False),
    ],
)
def test_what_ckpt_path_cannot_continue_it_is_not_advised_for(
    before: dict[str, Any], now: dict[str, Any], advised: bool, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as raised:
        continued(tmp_path, settings(tmp_path, **before), settings(tmp_path, **now))
    assert ("--ckpt_path last" in str(raised.value)) == advised


def test_a_best_without_scores_is_the_newest_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = settings(tmp_path)
    continued(tmp_path, now, now)
    for of_run in ("last", "best"):
        assert find_checkpoint(tmp_path, of_run, "best").name == "step-00000007.ckpt"
    said = f"{tmp_path}/checkpoints: none has a score to be the best by; the newest, step-00000007.ckpt, is taken"
    assert caplog.text.count(said) == 1
    assert find_checkpoint(tmp_path / "another", str(tmp_path), "best").name == "step-00000007.ckpt"
    assert caplog.text.count(said) == 2
