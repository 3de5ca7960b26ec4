"""Where ``fit`` starts: at step 0, or at the newest whole checkpoint of its run folder."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ifir_lightning import manifests
from ifir_lightning.errors import InputError
from ifir_lightning.launchers import is_started_again
from ifir_lightning.models.snapshot import read_history
from ifir_lightning.security import check_checkpoint

_log = logging.getLogger(__name__)
Resume = Literal["auto", "never"]
_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "overfit_batches",
    "precision",
)
_CALLBACKS = (
    "EMAWeightAveraging",
    "GradientAccumulationScheduler",
    "InstructionMarginProbe",
    "StochasticWeightAveraging",
    "WeightAveraging",
    "WeightSchedule",
)
"""Those that do more than look on. Of weights that are averaged a checkpoint holds the average, and training would go
on from that without the callback.
"""
_OF_CALLBACKS = tuple(f"callbacks.{name}." for name in _CALLBACKS)
_PARTS = ("seed_everything", "model", "data")
_HOW_NOT_WHAT = (
    "data.num_workers",
    "model.backbone.attention",
    "model.backbone.compile",
    "model.backbone.max_padded_tokens",
    "model.backbone.max_tokens_per_chunk",
    "model.backbone.trust_remote_code",
    "trainer.callbacks.InstructionMarginProbe.num_rows",
)
"""Settings of model, data and callbacks that change how fast, not what is computed (but for rounding)."""
_OF_A_RANK = ("trainer.default_root_dir",)
_PLACES_OF_DATA = ("data.path", "data.revision", "data.teacher_scores")
_AS_NULL = {
    "trainer.gradient_clip_algorithm": ("norm",),
    "trainer.limit_train_batches": ("1.0",),  # 1 is one batch
    "trainer.overfit_batches": ("0", "0.0"),
    "trainer.precision": ("32", "32-true"),
}
"""What means the same as null."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to continue, and the optimizer steps that it has done."""

    checkpoint: Path
    step: int


def is_branch(folder: Path, ckpt_path: str | None) -> bool:
    """Whether a run in ``folder`` begins at a checkpoint of another run."""
    if ckpt_path in (None, "last", "best"):
        return False
    own = (folder, folder / "checkpoints")  # which may be a link to where there is space
    return not any(Path(str(ckpt_path)).resolve().is_relative_to(each.resolve()) for each in own)


def branch_point(folder: Path, start: Start | None) -> str | None:
    """The checkpoint of another run at which the run in ``folder`` began, as its own checkpoints remember."""
    if start is None:
        return None
    if is_branch(folder, str(start.checkpoint)):
        return str(start.checkpoint)
    remembers = manifests.manifest_path(start.checkpoint).is_file()
    return manifests.read_manifest(start.checkpoint).settings.get("ckpt_path") if remembers else None


def changes_training(key: str) -> bool:
    """Whether a setting, as a dotted key, changes what training computes: the seed, the model, the data, and of the
    trainer what touches gradients and rows. Number of steps, devices, workers, validation and logging may change; so
    may what happens at a loss that is no number.
    """
    part, _, name = key.partition(".")
    of_trainer = part == "trainer" and (name in _TRAINER or name.startswith(_OF_CALLBACKS))
    return key not in _HOW_NOT_WHAT and (part in _PARTS or of_trainer)


def training_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Those settings of a recipe, and of its callbacks, that change training, as dotted keys, and where a branch
    begins.
    """
    flat = flatten(config) | _callback_settings(config["trainer"].get("callbacks"))
    settings = {key: value for key, value in flat.items() if changes_training(key)}
    if is_branch(Path(config["trainer"]["default_root_dir"]), config["ckpt_path"]):
        settings["ckpt_path"] = config["ckpt_path"]
    return settings


def _callback_settings(callbacks: Any) -> dict[str, list[Any]]:
    """Of ``_CALLBACKS``: trainer.callbacks.NAME.ARGUMENT -> its values in all of a name, in the order of the recipe."""
    found: dict[str, list[Any]] = {}
    for callback in callbacks if isinstance(callbacks, list) else [callbacks or {}]:
        name = callback.get("class_path", "").rpartition(".")[2]
        arguments = callback.get("init_args", {}) if name in _CALLBACKS else {}
        for key, value in arguments.items():
            if value is not None:
                found.setdefault(f"trainer.callbacks.{name}.{key}", []).append(value)
    return found


def shared_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that must be those of every rank, as dotted keys: all but where things lie and how fast they go."""
    flat = flatten(config, lists=True)
    return {key: value for key, value in flat.items() if key not in (*_HOW_NOT_WHAT, *_OF_A_RANK)}


def find_start(folder: Path, ckpt_path: str | None, resume: Resume, settings: dict[str, Any]) -> Start | None:
    """The checkpoint that ``fit`` continues, or None where it begins.

    Args:
        folder: The run folder.
        ckpt_path: Inside it (a file, ``last`` or ``best``): what the user wants to continue, with whatever settings
            but those of the rows. Outside it (a file or a run folder): where this run branches off another, likewise;
            started again it continues as any run. Without it and with ``resume`` auto, the newest whole checkpoint of
            the folder, with the same settings. Where torchrun or SLURM starts the same command again, the newest is
            taken in place of one inside.
        resume: ``auto`` or ``never``, which holds for the first start of a command.
        settings: ``training_settings``.

    Raises:
        InputError: Checkpoints of which none is whole, or of a run with other settings; a run that ``resume`` or
            ``ckpt_path`` does not continue.
    """
    again = is_started_again(folder)
    inside = ckpt_path is not None and not is_branch(folder, ckpt_path)
    if inside and again:
        ckpt_path = "last"
    named = None if ckpt_path is None else find_checkpoint(folder, ckpt_path, "newest")
    if named is not None and inside:
        return Start(named, _step(named))
    if resume == "never" and not again:
        _check_empty(folder)
    newest = manifests.newest(folder / "checkpoints")
    if newest is not None:
        return _continued(folder, newest, settings)
    if holds_run(folder):
        _log.warning("%s holds a run without a checkpoint: fit begins at %s", folder, named or "step 0")
    return None if named is None else Start(named, _step(named))


def _continued(folder: Path, checkpoint: Path, settings: dict[str, Any]) -> Start:
    check_checkpoint(str(checkpoint))
    manifest = manifests.read_manifest(checkpoint)
    _check_settings(folder, manifest.settings, settings)
    if manifest.versions != (now := manifests.versions()):
        changed = [f"{name} {was} -> {now.get(name)}" for name, was in manifest.versions.items() if now[name] != was]
        _log.warning("%s: other versions than before (%s): numbers may differ in rounding", folder, ", ".join(changed))
    return Start(checkpoint, manifest.step)


def _step(checkpoint: Path) -> int:
    if manifests.manifest_path(checkpoint).is_file():
        return manifests.read_manifest(checkpoint).step
    return read_history(checkpoint)[1]


def find_checkpoint(folder: Path, ckpt_path: str, of_run: Literal["newest", "best"]) -> Path:
    """What ``--ckpt_path`` names: a checkpoint; ``last`` or ``best`` of the run folder; a run folder, of which one is
    taken. It holds nothing but data (``security.check_checkpoint``).

    Raises:
        InputError: It names nothing that can be read.
    """
    path = Path(ckpt_path)
    if ckpt_path in ("last", "best"):
        path, of_run = folder, "newest" if ckpt_path == "last" else "best"
    checkpoints = path if path.name == "checkpoints" else path / "checkpoints"
    if path != folder and not checkpoints.is_dir():
        check_checkpoint(ckpt_path)
        return path
    best = manifests.best(checkpoints) if of_run == "best" else None
    found = best or manifests.newest(checkpoints)
    if found is None:
        raise InputError(
            f"ckpt_path {ckpt_path}: {checkpoints} holds no checkpoint; allowed are a .ckpt file, a run folder, last "
            "and best: check --ckpt_path, or let fit reach its first checkpoint"
        )
    if best is None and of_run == "best":
        _log.warning("%s: none has a score to be the best by; the newest, %s, is taken", checkpoints, found.name)
    check_checkpoint(str(found))
    return found


def holds_run(folder: Path) -> bool:
    """Whether a run has written into the folder."""
    written = [folder / "metrics.csv", folder / "checkpoints", *folder.glob("*/step-*")]
    return any(path.exists() for path in written)


def _check_empty(folder: Path) -> None:
    if holds_run(folder):
        raise InputError(
            f"trainer.default_root_dir {folder} already holds a run; allowed is an empty folder or the continuation of "
            "that run: choose another folder, or continue it with --resume auto or --ckpt_path last"
        )


def _check_settings(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    keys = sorted((before.keys() | now.keys()).difference(_HOW_NOT_WHAT))  # an older version may have written one
    if "ckpt_path" in keys and _begins_there(before.get("ckpt_path"), now.get("ckpt_path")):
        keys.remove("ckpt_path")
    changed = [key for key in keys if _meaning(key, before.get(key)) != _meaning(key, now.get(key))]
    if changed and (before or "ckpt_path" in now):
        named = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        remedy = "restore them, choose another folder, or continue on purpose with --ckpt_path last"
        if any(map(_is_of_the_rows, changed)):
            remedy = "restore them or choose another folder"
        raise InputError(
            f"trainer.default_root_dir {folder} holds a run with other settings: {named}; to continue it they must be "
            f"the same: {remedy}"
        )


def _begins_there(before: str | None, now: str | None) -> bool:
    """Whether a branch that began at ``before`` is what is asked for: the checkpoint, or the run folder it lies in. Its
    continuation need not repeat it.
    """
    return now is None or (before is not None and Path(before).resolve().is_relative_to(Path(now).resolve()))


def _is_of_the_rows(key: str) -> bool:
    """Whether a setting decides on rows and their order, in which a checkpoint has its place."""
    return key.startswith(("data.", "trainer.callbacks.InstructionMarginProbe.")) and key not in _PLACES_OF_DATA


def _meaning(key: str, value: Any) -> Any:
    """The same for all spellings of a setting: a default, a file."""
    if str(value) in _AS_NULL.get(key, ()):
        return None
    return os.path.realpath(value) if isinstance(value, str) and value and os.path.exists(value) else value


def flatten(value: Any, prefix: str = "", lists: bool = False) -> dict[str, Any]:
    """Dotted keys -> leaves; with ``lists``, those inside lists too, by their number."""
    parts = dict(enumerate(value)) if lists and isinstance(value, list) else value
    if not isinstance(parts, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, part in parts.items() for key, leaf in flatten(part, f"{prefix}{name}.", lists).items()}
