"""A run across two nodes, as network namespaces, is that of two ranks on one node."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import two_nodes

    return two_nodes


@pytest.mark.slow
def test_two_nodes_train_as_two_ranks_of_one() -> None:
    command = [sys.executable, str(TOOLS / "two_nodes.py"), "--steps", "8"]
    environment = os.environ | {"PYTHONPATH": str(TOOLS.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.stdout.startswith("skipped:"):
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    alone, together = done.stdout.partition("weights ")[2].partition(" on two")[0].split(" on one node, ")
    assert alone == together
    assert "metrics.csv identical" in done.stdout


def test_without_root_or_namespaces_it_says_so(tool, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(*arguments: str) -> NoReturn:
        raise subprocess.CalledProcessError(1, ["ip", *arguments], stderr="Operation not permitted")

    monkeypatch.setattr(tool, "ip", refuse)
    monkeypatch.setattr(tool.shutil, "which", lambda program: program)
    monkeypatch.setattr(tool.Nodes, "close", lambda self: None)
    for user, said in ((1000, "it needs root"), (0, "no network namespaces here: Operation not permitted")):
        monkeypatch.setattr(tool.os, "geteuid", lambda user=user: user)
        with pytest.raises(SystemExit) as end, tool.open_nodes():
            pytest.fail("there are nodes")
        assert (end.value.code, capsys.readouterr().out) == (0, f"skipped: {said}\n")
