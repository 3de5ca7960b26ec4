"""Where a command writes and where it computes, checked before it begins."""

import os
from pathlib import Path

import torch

from ifir_lightning.errors import InputError


def output_file(output: str, *suffixes: str) -> Path:
    """``--output`` as a path that can be written; folders that are missing can be made.

    Without ``suffixes`` the name may end in anything.

    Raises:
        InputError: Another ending, a folder, or a place where nothing can be written.
    """
    path = Path(output)
    if path.is_dir() or (suffixes and path.suffix not in suffixes):
        ending = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
        raise InputError(f"--output {output}: allowed is a file{ending}: rename it")
    _check_writable(output, next(parent for parent in path.absolute().parents if parent.exists()))
    return path


def output_folder(output: str) -> Path:
    """``--output`` as a folder that is there or can be made.

    Raises:
        InputError: A file, or a place where nothing can be written.
    """
    path = Path(output)
    _check_writable(output, next(each for each in (path.absolute(), *path.absolute().parents) if each.exists()))
    return path


def usable_device(name: str | None) -> torch.device:
    """``--device``, by default a GPU if there is one, if torch can compute there.

    Raises:
        InputError: No device, or one that is not there.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {name}: torch cannot compute there; allowed are cpu and a GPU that is there: choose one"
        ) from error
    return device


def _check_writable(output: str, folder: Path) -> None:
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"--output {output}: {folder} is no folder to write in; allowed is one: choose another")
