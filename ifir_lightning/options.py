"""The options of our own commands, which are the parameters of their functions."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import NoReturn

from docstring_parser import parse
from jsonargparse import ArgumentParser

from ifir_lightning.errors import InputError
from ifir_lightning.parser_errors import one_line


class CommandParser(ArgumentParser):
    """Says in one line what is wrong with the options of one of our commands."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.exit_on_error:  # as in RecipeParser
            raise InputError(one_line(message, f"{self.prog} --help", {})) from ex
        super().error(message, ex)


def run(command: str, function: Callable[..., None], arguments: list[str]) -> None:
    """Call the function of a command: its parameters are its options, its docstring is their help.

    A bool is a flag, a tuple takes several words, ``*names`` take what has no --.
    """
    parameters = signature(function).parameters
    flags = {name for name, parameter in parameters.items() if parameter.annotation is bool}
    several = {name for name, parameter in parameters.items() if parameter.annotation == tuple[str, ...]}
    listed = [name for name, parameter in parameters.items() if parameter.kind is Parameter.VAR_POSITIONAL]
    helps = {each.arg_name: each.description for each in parse(function.__doc__ or "").params}
    parser = CommandParser(prog=f"python -m ifir_lightning {command}", allow_abbrev=False)
    parser.add_function_arguments(function, skip={*flags, *several, *listed})
    for flag in sorted(flags):
        parser.add_argument(f"--{flag}", action="store_true", help=helps[flag])
    for name in several:
        parser.add_argument(f"--{name}", nargs="+", type=str, default=(), help=helps[name])
    for name in listed:
        parser.add_argument(name, nargs="+", type=str, help=helps[name])
    parsed = parser.parse_args([_underscored(argument) for argument in arguments])
    options = vars(parser.instantiate_classes(parsed))
    values = [value for name in listed for value in options.pop(name)]
    function(*values, **options)


def _underscored(argument: str) -> str:
    """``--push-to-hub`` is ``--push_to_hub``."""
    option, equals, value = argument.partition("=")
    return option.replace("-", "_").replace("__", "--", 1) + equals + value if option.startswith("--") else argument
