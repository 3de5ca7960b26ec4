"""A pooling or a scorer as plain data, so that a checkpoint can carry what it is beside its weights."""

import inspect
from importlib import import_module
from typing import Any

from torch import nn

from ifir_lightning.errors import InputError
from ifir_lightning.plugins import VARIABLE, is_plugin

Description = dict[str, Any]
"""``class_path`` and ``init_args``, as in a recipe."""
_PLAIN = (str, int, float, bool, type(None))


def describe(part: nn.Module) -> Description:
    """The class of a part and the arguments it was made with.

    As in scikit-learn, a part keeps every argument of its constructor under the argument's name.

    Raises:
        InputError: It does not, or an argument is neither a number, a string, a part, nor a list of such.
    """
    cls = type(part)
    name = f"{cls.__module__}.{cls.__qualname__}"
    arguments = {}
    for argument, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue  # of nn.Module, where the class has no constructor of its own
        try:
            arguments[argument] = _plain(getattr(part, argument))
        except (AttributeError, TypeError) as error:
            raise InputError(
                f"{name} cannot be stored in a checkpoint ({error}); allowed are parts that keep every argument of "
                f"their constructor as an attribute of that name: set self.{argument} to a number, a text or a list"
            ) from error
    return {"class_path": name, "init_args": arguments}


def rebuild(description: Description, base: type[Any], trust_remote_code: bool = False) -> Any:
    """The part of a description: the inverse of ``describe``, its weights random or not there yet.

    Raises:
        InputError: A class that is not ours and that nobody allowed, is not there, or does not take the arguments.
    """
    path, arguments = description["class_path"], description["init_args"]
    module, _, name = path.rpartition(".")
    if not (module.startswith("ifir_lightning.") or is_plugin(path) or trust_remote_code):
        raise InputError(
            f"the checkpoint names the class {path}, which would run code of its own; allowed are classes of "
            f"ifir_lightning, of the packages in {VARIABLE}, or any with trust_remote_code: name its package there, or "
            "set model.backbone.trust_remote_code to true"
        )
    try:
        cls = getattr(import_module(module), name)
        if not issubclass(cls, base):
            raise TypeError(f"{path} is no {base.__name__}")
        return cls(**{key: _rebuilt(value, trust_remote_code) for key, value in arguments.items()})
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(
            f"recipe or checkpoint name the class {path} with {arguments}, which cannot be made ({error}); allowed are "
            "classes of this version, or your own where Python finds them: install what the checkpoint was made with"
        ) from error


def phrase(description: Description) -> str:
    """A description as one reads it: ``MaxSim(reduction=sum)``."""
    arguments = ", ".join(f"{name}={_phrased(value)}" for name, value in description["init_args"].items())
    return f"{description['class_path'].rpartition('.')[2]}({arguments})"


def _phrased(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_phrased(each) for each in value)}]"
    return phrase(value) if isinstance(value, dict) else str(value)


def _plain(value: object) -> object:
    if isinstance(value, list | tuple | nn.ModuleList):
        return [_plain(each) for each in value]
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"{type(value).__name__} is no plain value")


def _rebuilt(value: Any, trust_remote_code: bool) -> Any:
    if isinstance(value, list):
        return [_rebuilt(each, trust_remote_code) for each in value]
    if isinstance(value, dict):
        return rebuild(value, nn.Module, trust_remote_code)
    return value
