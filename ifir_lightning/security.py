"""What a recipe may import and what a checkpoint may hold, so that neither runs code that nobody asked for."""

import re
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings

from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.files import read_weights
from ifir_lightning.plugins import VARIABLE, is_plugin, plugins

ALLOWED = ("ifir_lightning", "lightning.pytorch", "torch.optim")
"""Packages whose classes a ``class_path`` may name."""
_CALLBACK = "lightning.Callback"
"""jsonargparse's own name of the base class of callbacks, which it tries where one of their arguments is wrong."""
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
_TAG = re.compile(r"constructor for the tag 'tag:yaml.org,2002:([^']+)'")
_WRITTEN = ("state_dict", "global_step", "pytorch-lightning_version", "retriever")
"""In every checkpoint that ``fit`` writes."""


def restrict_imports() -> None:
    """Let a ``class_path``, in YAML or on the command line, name classes of ours, torch.optim, Lightning and plug-ins.

    Where a name leads is what counts: ``ifir_lightning.cli.os.system`` is ``os.system``. Nor are recipes read from
    URLs. It holds for the process.

    Raises:
        InputError: A plug-in is no name of a package, or would change these very rules.
    """
    try:
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=[*ALLOWED, _CALLBACK, *plugins()],
            instantiate_subclass_spec_in_any=False,
            config_read_mode_fsspec_enabled=False,
        )
    except ValueError as error:
        raise InputError(
            f"{VARIABLE} is {','.join(plugins())}; allowed are names of packages, separated by commas "
            f"({reason(error)}): set it to e.g. my_package,other.module"
        ) from error


def may_name(path: str) -> bool:
    """Whether a recipe may name what has this full name."""
    return path.startswith(tuple(f"{package}." for package in ALLOWED)) or is_plugin(path)


def refusal(message: str) -> str | None:
    """jsonargparse's message in one line of ours, if it says that a recipe asked for code."""
    if denied := _DENIED.search(message):
        return (
            f"class_path {denied[1]} may not be imported; allowed are {', '.join(ALLOWED)} and the packages named in "
            f"{VARIABLE} ({', '.join(plugins()) or 'none now'}): name a class of these, or, for code that you trust, "
            f"set {VARIABLE}=PACKAGE"
        )
    if tag := _TAG.search(message):
        return f"a recipe has the YAML tag !!{tag[1]}, which could run code; allowed is plain YAML: take the tag out"
    return None


def check_checkpoint(path: str) -> None:
    """See that ``ckpt_path`` is a checkpoint on this machine that holds nothing but data; nothing of it is run.

    Raises:
        InputError: A URL, nothing, a folder, a pickle that would run code, no checkpoint of ``fit``, or
            hyper-parameters: ``fit`` writes none, and Lightning would let them name functions and override the
            command line.
    """
    if "://" in path or "::" in path:
        raise InputError(
            f"ckpt_path {path} is a URL; allowed is a .ckpt file on this machine: download it, "
            "see where it comes from, and give its path"
        )
    if not Path(path).exists():
        raise InputError(f"ckpt_path {path}: no such file; allowed are a .ckpt file, last and best: check --ckpt_path")
    if Path(path).is_dir():  # such as the shards of other programs, whose index torch would unpickle unchecked
        raise InputError(
            f"ckpt_path {path} is a folder without checkpoints/; allowed are a .ckpt file, last and best: fit writes "
            "one file under every strategy, so check --ckpt_path"
        )
    read = read_weights(Path(path), path)
    content: dict[str, Any] = read if isinstance(read, dict) else {}
    held = [key for key in ("hyper_parameters", "datamodule_hyper_parameters") if content.get(key)]
    if held:
        raise InputError(
            f"checkpoint {path!r} holds {' and '.join(held)}, which could name functions; allowed are checkpoints "
            "that fit wrote, and it writes none: choose one of a run folder's checkpoints"
        )
    if lacking := [key for key in _WRITTEN if key not in content]:
        raise InputError(
            f"checkpoint {path!r} holds no {lacking[0]}; allowed are checkpoints that fit wrote: choose one of a run "
            "folder's checkpoints"
        )
