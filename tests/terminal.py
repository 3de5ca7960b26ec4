"""The command line, run in this process."""

import sys
from pathlib import Path

import pytest

from ifir_lightning.cli import main

ROOT = Path(__file__).parents[1]


class Terminal:
    """Stands in the root of the repository."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("IFIR_TRACEBACK", raising=False)

    def runs(self, *arguments: str) -> None:
        """To the end; locks of run folders are the process's, so several runs may follow each other."""
        self.monkeypatch.setattr(sys, "argv", ["ifir_lightning", *arguments])
        main()

    def refuses(self, *arguments: str) -> str:
        """The one line of a refusal, after which nothing is said."""
        self.monkeypatch.setattr(sys, "argv", ["ifir_lightning", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        errors = self.capsys.readouterr().err.splitlines()
        (line,) = [line for line in errors if line.startswith("error: ")]
        assert errors[-1] == line
        return line
