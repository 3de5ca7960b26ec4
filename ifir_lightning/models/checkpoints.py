"""Read other libraries' checkpoint folders, local or on the hub."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ifir_lightning.errors import InputError


def read_pylate_projection(checkpoint: str, hidden_size: int, dim: int, bias: bool) -> dict[str, Tensor]:
    """State dict of the Dense layer of a PyLate checkpoint (``1_Dense``).

    Raises:
        InputError: No such layer, more than one, one of another width, with or without bias, or with an activation.
    """
    name = "1_Dense/config.json"
    settings = _json(checkpoint, name)
    try:
        found = (settings["in_features"], settings["out_features"], settings["bias"])
    except KeyError as error:
        raise _unreadable(checkpoint, name, error) from error
    if found != (hidden_size, dim, bias):
        raise InputError(
            f"the projection of {checkpoint!r} has (in_features, out_features, bias) = {found}, the recipe asks for "
            f"{(hidden_size, dim, bias)}: set model.pooling's dim and bias to the checkpoint's, or use its backbone"
        )
    activation = settings.get("activation_function", "torch.nn.modules.linear.Identity")
    num_dense = sum(module["type"].endswith("Dense") for module in _json(checkpoint, "modules.json").values())
    if not activation.endswith("Identity") or settings.get("use_residual") or num_dense != 1:
        raise InputError(
            f"the projection of {checkpoint!r} has {num_dense} layers, activation {activation} and use_residual "
            f"{settings.get('use_residual')}; allowed is a plain linear layer: choose another model.pooling.checkpoint"
        )
    name = "1_Dense/model.safetensors"
    try:
        weights = load_file(_file(checkpoint, name))
    except SafetensorError as error:
        raise _unreadable(checkpoint, name, error) from error
    return {name.removeprefix("linear."): value.float() for name, value in weights.items()}


def _json(checkpoint: str, name: str) -> dict[str, Any]:
    """The object of a JSON file; a list becomes an object with its positions as keys."""
    try:
        content = json.loads(_file(checkpoint, name).read_text(encoding="utf-8"))
        return {str(key): value for key, value in enumerate(content)} if isinstance(content, list) else dict(content)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(checkpoint, name, error) from error


def _file(checkpoint: str, name: str) -> Path:
    """A file of a checkpoint folder or of a hub repository."""
    folder = Path(checkpoint)
    try:
        path = folder / name if folder.is_dir() else Path(hf_hub_download(checkpoint, name))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise _unreadable(checkpoint, name, error) from error
    if not path.is_file():
        raise InputError(
            f"checkpoint {checkpoint!r} has no {name}; allowed is a PyLate folder or hub id: "
            "check model.pooling.checkpoint, or leave it out for a new projection"
        )
    return path


def _unreadable(checkpoint: str, name: str, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(
        f"checkpoint {checkpoint!r} has no readable {name} ({reason}); allowed is a PyLate folder or hub id: check "
        "the name, or download it (anew) first"
    )
