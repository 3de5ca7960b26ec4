"""A checkpoint is on disk whole, with a manifest that knows each of its bytes, or it is not taken."""

import json
import logging
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from ifir_lightning import durable, manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.errors import InputError


def save(folder: Path, step: int, score: float | None = None, metric: str = "followir/p_mrr") -> Path:
    """A small checkpoint of a step."""
    path = folder / f"step-{step:08d}.ckpt"
    content: dict[str, Any] = {"global_step": step, "epoch": step // 10, "weights": torch.arange(1000) + step}
    content["score"] = None if score is None else (metric, score)
    content["settings"] = {"seed_everything": 3, "data.path": "table"}
    content["PromptrieverData"] = {"table": "abc", "batches_done": 7}
    ManifestIO().save_checkpoint(content, path)
    return path


def steps(folder: Path) -> list[int]:
    assert {path.stem for path in folder.glob("*.ckpt")} == {path.stem for path in folder.glob("*.json")}
    return [int(path.stem.removeprefix("step-")) for path in manifests.in_order(folder)]


def test_a_manifest_says_what_was_written(tmp_path: Path) -> None:
    path = save(tmp_path / "new", 25, 4.5)
    content = path.read_bytes()
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "step": 25,
        "epoch": 2,
        "score": ["followir/p_mrr", 4.5],
        "files": {"step-00000025.ckpt": [len(content), sha256(content).hexdigest()]},
        "seed": 3,
        "settings": {"seed_everything": 3, "data.path": "table"},
        "settings_fingerprint": sha256(b'{"data.path": "table", "seed_everything": 3}').hexdigest()[:16],
        "data_fingerprint": "abc",
        "versions": manifests.versions(),
    }
    assert {"python", "torch", "lightning", "ifir_lightning"} <= manifests.versions().keys()
    assert ManifestIO().load_checkpoint(path)["weights"].tolist() == list(range(25, 1025))
    assert sorted(file.name for file in path.parent.iterdir()) == ["step-00000025.ckpt", "step-00000025.json"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (flip, "step-00000030.ckpt holds other bytes than were written"),
    "cut": (lambda path: os.truncate(path, 1000), "step-00000030.ckpt has 1000 bytes, its manifest says"),
    "no manifest": (lambda path: path.with_suffix(".json").unlink(), "has no manifest step-00000030.json"),
    "half a manifest": (lambda path: os.truncate(path.with_suffix(".json"), 20), "is no manifest of"),
    "another manifest": (lambda path: path.with_suffix(".json").write_text('{"step": 1}'), "is no manifest of"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_the_newest_whole_one_is_taken_and_the_damaged_one_named(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, expected = DAMAGE[case]
    _, second, third = (save(tmp_path, step) for step in (10, 20, 30))
    assert manifests.newest(tmp_path) == third
    damage(third)
    with caplog.at_level(logging.WARNING):
        assert manifests.newest(tmp_path) == second
    if case.startswith(("no", "half", "another")):  # its step is unknown, so it is not known to be newer
        assert third in manifests.in_order(tmp_path)[:1]
    assert caplog.text.count(f"{third} is not taken") == 1
    assert expected in caplog.text
    with pytest.raises(InputError, match=expected):
        manifests.verify(third)
    if third.with_suffix(".json").exists():
        with pytest.raises(InputError, match=r"step-00000030.ckpt is damaged: .*; allowed are whole checkpoints"):
            ManifestIO().load_checkpoint(third)


def test_where_none_is_whole_each_is_named_with_its_fault(tmp_path: Path) -> None:
    first, second, third = (save(tmp_path, step) for step in (10, 20, 30))
    flip(first)
    os.truncate(second, 5)
    third.with_suffix(".json").unlink()
    with pytest.raises(InputError) as error:
        manifests.newest(tmp_path)
    for words in ("3 checkpoints and none is whole", "00010.ckpt holds other", "00020.ckpt has 5", "30.ckpt has no"):
        assert words in str(error.value)
    assert manifests.newest(tmp_path / "nothing") is None


def test_the_best_has_the_highest_score_of_the_newest_metric(tmp_path: Path) -> None:
    save(tmp_path, 10, 9.0, "followir/score_b")
    save(tmp_path, 20, 3.0)
    best = save(tmp_path, 30, 5.0)
    save(tmp_path, 40, 5.0)
    save(tmp_path, 50, -1.0)
    save(tmp_path, 60)
    assert manifests.best(tmp_path) == best
    flip(best)
    assert manifests.best(tmp_path) == tmp_path / "step-00000040.ckpt"
    assert manifests.best(tmp_path / "nothing") is None


def test_the_best_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.ckpt").touch()
    for step, score in ((10, 1.0), (20, 7.0), (30, 2.0), (40, None), (50, 6.0)):
        save(tmp_path, step, score)
    (tmp_path / "mine.ckpt").rename(tmp_path.parent / "mine.ckpt")  # of another program: not removed below
    manifests.prune(tmp_path, 2)
    assert steps(tmp_path) == [20, 40, 50]
    save(tmp_path, 60, 8.0)
    manifests.prune(tmp_path, 2)
    assert steps(tmp_path) == [50, 60]
    (tmp_path.parent / "mine.ckpt").rename(tmp_path / "mine.ckpt")
    manifests.prune(tmp_path, 1)
    assert (tmp_path / "mine.ckpt").exists()


def test_steps_to_keep_are_kept_beside_them(tmp_path: Path) -> None:
    for step, score in ((10, 1.0), (20, 7.0), (30, 2.0), (40, None), (50, 6.0)):
        save(tmp_path, step, score)
    manifests.prune(tmp_path, 1, keep_steps={30, 35})
    assert steps(tmp_path) == [20, 30, 50]


def test_a_full_disk_keeps_the_old_files_and_says_so(tmp_path: Path) -> None:
    """The kernel's own full device stands where the file is written beside its place."""
    first = save(tmp_path, 10)
    before = first.read_bytes()
    for suffix in (".ckpt", ".json"):
        durable.partial_of(tmp_path / f"step-00000020{suffix}").symlink_to("/dev/full")
        with pytest.raises(
            InputError, match=r"step-00000020.ckpt could not be written \(No space left on device\)"
        ) as e:
            save(tmp_path, 20)
        assert "\n" not in str(e.value)
        assert "free some space and start fit again" in str(e.value)
        assert not (tmp_path / "step-00000020.ckpt").exists()
        assert not (tmp_path / "step-00000020.json").exists()
    assert first.read_bytes() == before
    assert manifests.newest(tmp_path) == first


def test_what_cannot_be_pickled_leaves_nothing(tmp_path: Path) -> None:
    content = {"global_step": 1, "epoch": 0, "state": lambda: None}
    with pytest.raises(AttributeError, match="pickle"):
        ManifestIO().save_checkpoint(content, tmp_path / "step-00000001.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own way goes through it, and renaming from another file system is a copy."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert manifests.verify(save(tmp_path, 1)).step == 1


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo run",)


def test_only_plain_data_of_this_machine_are_read(tmp_path: Path) -> None:
    torch.save({"global_step": 1, "epoch": 0, "x": Hostile()}, tmp_path / "hostile.ckpt")
    with pytest.raises(InputError, match="could run code"):
        ManifestIO().load_checkpoint(tmp_path / "hostile.ckpt", weights_only=False)
    with pytest.raises(InputError, match="is a URL; allowed are files of this machine"):
        ManifestIO().load_checkpoint("https://host/model.ckpt")
