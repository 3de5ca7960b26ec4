"""The help of our own commands is what their docstrings say."""

from inspect import signature

import pytest
from docstring_parser import parse

from ifir_lightning.cli import COMMANDS
from ifir_lightning.errors import InputError
from ifir_lightning.options import run


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_describes_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # no words are broken at their hyphens
    function = COMMANDS[command]
    described = {each.arg_name: each.description or "" for each in parse(function.__doc__ or "").params}
    assert described.keys() == signature(function).parameters.keys()
    with pytest.raises(SystemExit):
        run(command, function, ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, description in described.items():
        if f"--{name}." not in said:  # settings of a class have its own help
            assert " ".join(description.split()) in said, name


def test_options_are_not_abbreviated() -> None:
    with pytest.raises(InputError, match=r"--tas"):
        run("evaluate", COMMANDS["evaluate"], ["--tas", "synthetic/food", "--run", "food.trec"])
