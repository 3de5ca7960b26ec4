"""What jsonargparse says of a recipe or an option, in one line that names the key, the value and what is allowed."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, isabstract, signature
from pathlib import Path

import yaml

from ifir_lightning.errors import InputError
from ifir_lightning.security import may_name, refusal

_RECIPE = "allowed are settings by their keys, as in the recipes of configs/: correct it"
_KEY = re.compile(r"""(?:\s*Unable to load config '.*'\n\s+-)?\s*Parser key "([^"]+)":""")
_IN_CLASS = re.compile(r"^( *)(?:- )?Problem with given class_path '([^']+)':\n", re.MULTILINE)
_NO_CLASS = re.compile(
    r"dot import path string: (\S*)|Import path (\S+) does not correspond|Not a valid subclass of .+ Got value: (\S+)|"
    r"module '\S+' has no attribute|No module named"
)
_NO_SETTING = re.compile(r"Option '([^']+)' is not accepted")
_NO_SETTINGS = re.compile(r'Unable to load config "([^"]+)"')
_EXPECTED = re.compile(r"Expected a (.+)\. Got value: (.*)")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]\n.*Given value: (.*)", re.DOTALL)
_TYPE = re.compile(r"Literal\[([^]]+)\]|<class '[\w.]*?(\w+)'>|(?:^|[ .])(?!Literal)(\w+)\[")
_NESTED = re.compile(r"NestedArg\(key='(.*)', val='?(.*?)'?\)$")
_WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
_WORDS |= {"list": "a list", "tuple": "a list", "Iterable": "a list", "dict": "a mapping"}


def check_recipe(path: Path) -> None:
    """Raise InputError where a file cannot be a recipe, of which jsonargparse would not say the name."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(refusal(str(error)) or f"{path} is no YAML in UTF-8 ({error}); {_RECIPE}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} {'is empty' if content is None else 'names no keys'}; {_RECIPE}")


def one_line(message: str, see: str, kinds: Mapping[str, type]) -> str:
    """The innermost fault of jsonargparse's message.

    Args:
        message: What jsonargparse gives to ``ArgumentParser.error``; where it is of no known form, it is kept.
        see: What lists all keys.
        kinds: The base class of what a key that ends so names.
    """
    key, owner, fault = _innermost(message)
    if found := _NO_SETTING.search(fault):
        return f"{key}: {owner.rpartition('.')[2]} has no setting {found[1]}; {_settings(owner)}: correct it"
    if found := _NO_CLASS.search(fault):
        return _no_class(key, found[1] or found[2] or found[3] or owner, kinds.get(key.rpartition(".")[2]))
    if found := _EXPECTED.search(fault) or _SUBTYPES.search(fault):
        value = found[2].strip()
        if nested := _NESTED.match(value):
            return f"{key}.{nested[1]} is {nested[2]}, but {key} is not set; allowed is {_types(found[1])}: set it, too"
        return f"{key} is {value}; allowed is {_types(found[1])}: correct it (keys: {see})"
    if key and (found := _NO_SETTINGS.search(fault)):
        return f"{key} is {found[1]}; allowed are the settings that {see} lists: give --{key}.SETTING VALUE"
    if key == "config" and "\n" not in fault:
        return f"--config: {fault.strip()}; allowed is a recipe, a YAML file as those in configs/: check the path"
    return f"{message}; allowed is what {see} lists: correct it"


def _innermost(message: str) -> tuple[str, str, str]:
    """The key, the class whose argument it is ("" if none), and what is wrong with its value."""
    key, owner, text = "", "", message
    while True:
        if found := _KEY.match(text):
            key, text = f"{key}.init_args.{found[1]}" if owner else found[1], text[found.end() :]
        elif found := _IN_CLASS.search(text):
            owner, text = found[2], _deeper(text[found.end() :], len(found[1]))
        else:
            return key, owner, text


def _deeper(text: str, indent: int) -> str:
    """The first lines, as far as they are indented more than that; a list's items are by its dash."""
    lines = text.splitlines()
    ends = [n for n, line in enumerate(lines) if len(line) - len(line.lstrip()) <= indent]
    return "\n".join(lines[: ends[0] if ends else None])


def _settings(owner: str) -> str:
    module, _, name = owner.rpartition(".")
    parameters = signature(getattr(import_module(module), name)).parameters.values()
    names = [each.name for each in parameters if each.kind is not Parameter.VAR_KEYWORD]
    return f"allowed are {', '.join(names)}" if names else "it has none"


def _no_class(key: str, name: str, kind: type | None) -> str:
    """Names that are near are said where there are many."""
    if kind is None:
        return f"{key} is {name}; allowed are its settings, or a class by its full name: give --{key}.SETTING VALUE"
    known = sorted({each.__name__ for each in _subclasses(kind)})
    names = known if len(known) <= 12 else get_close_matches(name.rpartition(".")[2], known)
    allowed = _either([*names, "a full name, as module.Class"])
    return f"{key} is {name}, which is no {kind.__name__}; allowed is {allowed}: correct it"


def _subclasses(kind: type) -> list[type]:
    """Those imported so far that recipes may name, which they may do by the short name."""
    children: list[type] = kind.__subclasses__()
    below = [each for child in children for each in _subclasses(child)]
    name = kind.__name__
    is_offered = may_name(f"{kind.__module__}.{name}") and not isabstract(kind) and not name.startswith("_")
    return [kind, *below] if is_offered else below


def _types(text: str) -> str:
    """jsonargparse's types in words."""
    words = []
    for literal, name, outer in _TYPE.findall(text):
        choices = literal.replace("'", "").split(", ") if literal else [name or outer]
        words += [_WORDS.get(choice, choice if literal else f"a {choice}") for choice in choices]
    return _either(list(dict.fromkeys(words))) if words else text


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
