"""The files of a checkpoint, read so that every fault names the file and no file can run code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ifir_lightning.errors import InputError, reason

OWN_SETTINGS = "ifir_lightning.json"
"""What a folder that we wrote says beyond PyLate's words: the scorer, whether there are token weights."""
TOKEN_WEIGHTS = "token_weights.safetensors"


def read_json(path: Path, name: str, keys: Sequence[str] = (), optional: bool = False) -> dict[str, Any]:
    """The object of a JSON file; a list of objects comes as ``{"entries": [...]}``.

    Args:
        path: The file.
        name: The checkpoint, for messages.
        keys: What the object, or each of the list, must have.
        optional: A file that is not there is an empty object.
    """
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content if isinstance(content, list) else [content]
        if lacking := [key for entry in entries for key in keys if key not in entry]:
            raise ValueError(f"it has no {lacking[0]}")
        return {"entries": entries} if isinstance(content, list) else dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, name, error) from error


def flag(said: Mapping[str, Any], key: str, default: bool, name: str) -> bool:
    """A setting that is true or false; what is null or missing has the default."""
    value = default if said.get(key) is None else said[key]
    if not isinstance(value, bool):
        raise InputError(
            f"checkpoint {name!r} has {key} {value!r}; allowed are true and false: correct it, or choose another"
        )
    return value


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Tensors of a safetensors or a pickle file, on the CPU; a pickle file cannot run code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=path.suffix == ".ckpt")
    except Exception as error:  # bytes that are no pickle make its reader raise anything
        raise _unreadable(path, name, error) from error


def read_tensor(folder: Path, key: str, name: str) -> Tensor:
    """One tensor of the weights of a folder."""
    path = next(
        (folder / file for file in ("model.safetensors", "pytorch_model.bin") if (folder / file).is_file()), None
    )
    weights = {} if path is None else read_weights(path, name)
    if key not in weights:
        raise InputError(f"checkpoint {name!r} has no {key}; it is needed: download it anew or choose another")
    check_finite(weights[key], key, name)
    return weights[key].float()


def load_into(layer: nn.Module, path: Path, name: str) -> None:
    """Load the weights of a layer, all of them and no others."""
    weights = {key: value.float() for key, value in read_weights(path, name).items()}
    expected = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if found != expected:
        raise InputError(
            f"checkpoint {name!r}: {path.parent.name}/{path.name} holds {found}, its configuration describes "
            f"{expected}; allowed is what the configuration describes: download it anew or choose another"
        )
    for key, value in weights.items():
        check_finite(value, f"{path.parent.name}/{path.name}, {key}", name)
    layer.load_state_dict(weights)


def check_finite(values: Tensor, where: str, name: str) -> None:
    """InputError for weights that are no numbers. Their sum is one, unless it overflows, and is computed sooner."""
    if not values.sum(dtype=torch.float32).isfinite() and not values.isfinite().all():
        raise InputError(
            f"checkpoint {name!r} holds weights that are no numbers ({where}); allowed are finite ones: download it "
            "anew or choose another"
        )


def _unreadable(path: Path, name: str, error: Exception) -> InputError:
    return InputError(
        f"checkpoint {name!r} has no readable {path.parent.name}/{path.name} ({reason(error)}); allowed is a complete "
        "checkpoint: check the path, or download it anew"
    )
