"""Whatever a user may call a checkpoint: a folder of any known layout, a hub id, a run folder, a .ckpt file."""

import logging
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ifir_lightning import manifests
from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.files import read_json
from ifir_lightning.models.layouts import Checkpoint, read_folder
from ifir_lightning.models.snapshot import read_snapshot

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?")
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "artifact.metadata")
_LEFT_OUT = ["onnx/*", "openvino/*", "optimizer*", "checkpoint-*/*"]


def read_checkpoint(checkpoint: str, trust_remote_code: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        checkpoint: A folder of transformers, sentence-transformers, PyLate or Stanford ColBERT; a hub id of one
            (``owner/name[@revision]``); a run folder or a ``.ckpt`` file of ours.
        trust_remote_code: Allow it to run code of its own.

    Raises:
        InputError: It is none of these, or is damaged.
    """
    try:
        if is_run(checkpoint):
            return read_snapshot(find_ckpt(checkpoint), checkpoint, trust_remote_code)
        return read_folder(_folder(checkpoint, trust_remote_code), checkpoint, trust_remote_code)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # settings of the wrong kind
        raise InputError(
            f"checkpoint {checkpoint!r} says what cannot be understood ({type(error).__name__}: {reason(error)}); "
            "allowed are undamaged checkpoints of a version that this one knows: download it anew or choose another"
        ) from error


def is_run(checkpoint: str) -> bool:
    """Whether it is a .ckpt file or a run folder of ours."""
    path = Path(checkpoint)
    is_model = (path / "modules.json").is_file() or (path / "config.json").is_file()
    return path.is_file() or ((path / "checkpoints").is_dir() and not is_model)


def is_hub_id(checkpoint: str) -> bool:
    """Whether it can only be a name on the hub."""
    return "/" in checkpoint and bool(_HUB_ID.fullmatch(checkpoint)) and not Path(checkpoint).exists()


def find_ckpt(run: str) -> Path:
    """The .ckpt file itself, or the one of a run folder: the best, else the newest, that is whole.

    Raises:
        InputError: There is none.
    """
    path = Path(run)
    if path.is_file():
        return path
    found = manifests.best_or_newest(path / "checkpoints")
    if found is None:
        raise InputError(
            f"checkpoint {run!r} is a run folder without a checkpoints/*.ckpt; allowed is a run that wrote one: "
            "choose another, or let fit reach its first validation"
        )
    _log.info("%s: taking %s", run, found)
    return found


def _folder(checkpoint: str, trust_remote_code: bool) -> Path:
    """A local folder, or the hub's files in the cache: safetensors, and pickle files only where there are none."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    hub_id, _, revision = checkpoint.partition("@")
    if not _HUB_ID.fullmatch(checkpoint) or Path(checkpoint).suffix in (".ckpt", ".safetensors", ".bin", ".pt"):
        raise InputError(
            f"checkpoint {checkpoint!r} does not exist; allowed are a folder, a hub id owner/name[@revision], a run "
            "folder, or a .ckpt file: check the path"
        )
    try:
        folder = _download(hub_id, revision, [*_FILES, *(["*.py"] if trust_remote_code else [])])
        if pickled := [f"{part}pytorch_model*.bin" for part in _without_safetensors(folder, checkpoint)]:
            _download(hub_id, revision, pickled)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise InputError(
            f"checkpoint {checkpoint!r} is no folder and the hub did not give it ({reason(error)}); allowed are a "
            "folder, a hub id owner/name[@revision], a run folder, or a .ckpt file: "
            "check the name, the network and HF_TOKEN"
        ) from error
    return folder


def _without_safetensors(folder: Path, name: str) -> list[str]:
    """Places of a checkpoint that hold weights, but not in safetensors: "" for the root, "1_Dense/", ..."""
    modules = read_json(folder / "modules.json", name, keys=("type", "path"), optional=True).get("entries")
    with_weights = [each["path"] for each in modules or () if each["type"].endswith(("Transformer", "Dense"))]
    places = [""] if modules is None else with_weights
    return [f"{place}/" if place else "" for place in places if not [*(folder / place).glob("*.safet*")]]


def _download(hub_id: str, revision: str, patterns: list[str]) -> Path:
    return Path(
        snapshot_download(hub_id, revision=revision or None, allow_patterns=patterns, ignore_patterns=_LEFT_OUT)
    )
