"""Manifests: what a checkpoint is and how to know that it is whole.

``step-00000500.ckpt`` has a ``step-00000500.json`` beside it: step, epoch, score, sizes, hashes, seed, versions, the
settings and the data it was trained with. The manifest is durable before its checkpoint gets its name: the rename of
the checkpoint is the moment from which it counts, a checkpoint never lacks its manifest, and a manifest without a
checkpoint means nothing.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ifir_lightning
from ifir_lightning import durable
from ifir_lightning.errors import InputError

_log = logging.getLogger(__name__)
SETTINGS, SCORE, DATA = "settings", "score", "PromptrieverData"
"""Keys of a checkpoint that its manifest repeats: the recipe's settings, the score, the state of the data module."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint without reading it.

    Args:
        step: Optimizer steps done.
        epoch: The epoch it was written in.
        score: Name (with its tasks) and value of the metric that the best is chosen by; None if it was not validated.
        files: Name of each file, seen from the manifest -> [bytes, sha256].
        seed: ``seed_everything``.
        settings: Those that change what training computes, as dotted keys; empty if a program without recipe trained.
        settings_fingerprint: Of ``settings``.
        data_fingerprint: Of the training table.
        versions: Of Python and of the libraries that decide on numbers.
    """

    step: int
    epoch: int
    score: tuple[str, float] | None
    files: dict[str, tuple[int, str]]
    seed: int | None
    settings: dict[str, Any]
    settings_fingerprint: str
    data_fingerprint: str | None
    versions: dict[str, str]


def describe(checkpoint: dict[str, Any], files: dict[str, tuple[int, str]]) -> Manifest:
    """The manifest of a checkpoint's content, which lies in ``files``."""
    settings = checkpoint.get(SETTINGS, {})
    return Manifest(
        step=checkpoint["global_step"],
        epoch=checkpoint["epoch"],
        score=checkpoint.get(SCORE),
        files=files,
        seed=settings.get("seed_everything"),
        settings=settings,
        settings_fingerprint=fingerprint(settings),
        data_fingerprint=checkpoint.get(DATA, {}).get("table"),
        versions=versions(),
    )


def fingerprint(settings: dict[str, Any]) -> str:
    """A digest of settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of what decides on numbers."""
    libraries = {name: version(name) for name in ("torch", "lightning", "transformers")}
    return {"python": platform.python_version(), "ifir_lightning": ifir_lightning.__version__, **libraries}


def manifest_path(checkpoint: Path) -> Path:
    """The manifest's place beside its checkpoint."""
    return checkpoint.with_suffix(".json")


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Durably, before the checkpoint gets its name."""
    durable.write_text(manifest_path(checkpoint), json.dumps(asdict(manifest), indent=1) + "\n")


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest beside a checkpoint; the checkpoint itself is not looked at.

    Raises:
        InputError: There is none, or it is none.
    """
    path = manifest_path(checkpoint)
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        return Manifest(**(asdict(manifest) | {"score": tuple(manifest.score) if manifest.score else None}))
    except FileNotFoundError as error:
        raise InputError(f"{checkpoint.name} has no manifest {path.name}") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path.name} is no manifest of {checkpoint.name}") from error


def verify(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose every byte is as it was written.

    Raises:
        InputError: It is damaged; the message says how.
    """
    manifest = read_manifest(checkpoint)
    for name, (size, sha256) in manifest.files.items():
        path = checkpoint.parent / name
        if not path.is_file():
            raise InputError(f"{name} is missing")
        if (found := path.stat().st_size) != size:
            raise InputError(f"{name} has {found} bytes, its manifest says {size}")
        if durable.hash_file(path)[1] != sha256:
            raise InputError(f"{name} holds other bytes than were written: its sha256 is not that of its manifest")
    return manifest


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; each damaged one that is newer is named in the log.

    Raises:
        InputError: There are checkpoints, and none is whole.
    """
    faults = []
    for checkpoint in reversed(in_order(folder)):
        try:
            verify(checkpoint)
        except InputError as error:
            faults.append(str(error))
            _log.warning("%s is not taken: %s", checkpoint, error)
        else:
            _name_unreadable(folder, checkpoint.name)
            return checkpoint
    if faults:
        raise InputError(
            f"{folder} holds {len(faults)} checkpoints and none is whole ({'; '.join(faults)}); allowed is to continue "
            "a whole one: restore one with its manifest, or start anew in another run folder"
        )
    return None


def _name_unreadable(folder: Path, behind: str) -> None:
    """Log checkpoints without a readable manifest whose names, which are all that is known, say that they are newer."""
    for checkpoint in in_order(folder):
        if checkpoint.name > behind:
            try:
                read_manifest(checkpoint)
            except InputError as error:
                _log.warning("%s is not taken: %s", checkpoint, error)


def best(folder: Path) -> Path | None:
    """The whole checkpoint with the highest score; None if none was validated."""
    for checkpoint in ranked(folder):
        try:
            verify(checkpoint)
        except InputError as error:
            _log.warning("%s is not taken: %s", checkpoint, error)
        else:
            return checkpoint
    return None


def best_or_newest(folder: Path) -> Path | None:
    """``best``, or ``newest`` where none was validated; InputError as ``newest``."""
    return best(folder) or newest(folder)


def ranked(folder: Path) -> list[Path]:
    """Checkpoints by score, the highest first, of equals the earliest; of the newest's metric and tasks only."""
    scored = [(path, score) for path in in_order(folder) if (score := _peek(path)[1]) is not None]
    same = [(path, value) for path, (metric, value) in scored if metric == scored[-1][1][0]]
    return [path for path, _ in sorted(same, key=lambda each: -each[1])]


def in_order(folder: Path) -> list[Path]:
    """Checkpoints of a folder by their step; first those whose manifest does not say it."""
    return sorted(folder.glob("*.ckpt"), key=lambda path: (_peek(path)[0], path.name))


def prune(folder: Path, keep_last: int, keep_steps: Collection[int] = ()) -> None:
    """Remove all but the best, the last ``keep_last`` and those of ``keep_steps``, of those that have a manifest."""
    kept = ranked(folder)[:1]
    for checkpoint in in_order(folder)[:-keep_last]:
        if checkpoint not in kept and (step := _peek(checkpoint)[0]) >= 0 and step not in keep_steps:
            remove(checkpoint)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint and then its manifest, so that none lacks it in between."""
    checkpoint.unlink(missing_ok=True)
    manifest_path(checkpoint).unlink(missing_ok=True)


def _peek(checkpoint: Path) -> tuple[int, tuple[str, float] | None]:
    """Step and score by the manifest; (-1, None) without a readable one."""
    try:
        manifest = read_manifest(checkpoint)
    except InputError:
        return -1, None
    return manifest.step, manifest.score
