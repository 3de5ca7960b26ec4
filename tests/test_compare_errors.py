"""compare refuses what cannot be compared, and names it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import write_run_folder
from small import write_task

from ifir_lightning.cli import main
from ifir_lightning.commands.compare import compare
from ifir_lightning.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run_folder(tmp_path / "run", [write_task(tmp_path / "travel")], steps=(0,))
    return tmp_path / "run"


def _drop_queries(run: Path) -> None:
    path = run / "followir" / "step-00000000" / "travel.trec"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(lines[0].split()[0])))


def _swap_scores(run: Path) -> None:
    path = run / "followir" / "step-00000000" / "travel.trec"
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(f"{q} Q0 {d} {r} {-float(s)} {t}\n" for q, _, d, r, s, t in lines))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run": (lambda run: shutil.rmtree(run / "followir"), r"run is no run folder.*allowed are folders that fit"),
    "no recipe": (lambda run: (run / "config.yaml").unlink(), r"config.yaml: No such file"),
    "no YAML": (lambda run: (run / "config.yaml").write_text("a: ["), r"config.yaml is no YAML"),
    "no text": (lambda run: (run / "config.yaml").write_bytes(b"\xff"), r"config.yaml is no YAML"),
    "nothing of FollowIR": (
        lambda run: (run / "config.yaml").write_text("followir:\n"),
        r"config.yaml names no followir.tasks",
    ),
    "no list of tasks": (
        lambda run: (run / "config.yaml").write_text("followir: {tasks: 3}\n"),
        r"config.yaml names no followir.tasks",
    ),
    "other YAML": (lambda run: (run / "config.yaml").write_text("a: 1"), r"config.yaml names no followir.tasks"),
    "torn metrics": (
        lambda run: (run / "followir" / "step-00000000" / "metrics.json").write_text('{"step": 0'),
        r"step-00000000/metrics.json: .*validate it again",
    ),
    "no run file": (
        lambda run: (run / "followir" / "step-00000000" / "travel.trec").unlink(),
        r"step-00000000/travel.trec: No such file",
    ),
    "queries missing": (_drop_queries, r"travel.trec lacks 1 of 6 queries of travel \(first '"),
    "other scores": (_swap_scores, r"p_mrr of travel was .* at the validation and is now .* has changed since"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_folder(run: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(run)
    with pytest.raises(InputError, match=message):
        compare(str(run))


def test_runs_of_other_tasks(run: Path, tmp_path: Path) -> None:
    other = write_run_folder(tmp_path / "other", [write_task(tmp_path / "food", "food")], steps=(0,))
    with pytest.raises(InputError, match=r"run was evaluated on travel, .*other on food; allowed are runs of the same"):
        compare(str(run), str(other))


@pytest.mark.parametrize("fault", ["queries", "texts"])
def test_tasks_of_one_name_that_are_not_the_same(run: Path, tmp_path: Path, fault: str) -> None:
    task = write_task(tmp_path / "elsewhere" / "travel", num_queries=4 if fault == "queries" else 3)
    if fault == "texts":
        path = Path(task) / "corpus" / "test.jsonl"
        path.write_text(path.read_text().replace('"text": "', '"text": "Now ', 1))
    other = write_run_folder(tmp_path / "other", [task], steps=(0,))
    expected = r"has query '.*' in one of" if fault == "queries" else r"has the same queries but other texts"
    with pytest.raises(InputError, match=expected):
        compare(str(run), str(other))


def test_a_task_too_small_for_a_bootstrap(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [write_task(tmp_path / "travel", num_queries=1)], steps=(0,))
    with pytest.raises(InputError, match="'travel' has fewer than 2 queries"):
        compare(str(run))


def test_options(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run is named more than once"):
        compare(str(run), f"{run}/../run")
    with pytest.raises(InputError, match="--num_queries is 0"):
        compare(str(run), num_queries=0)
    (tmp_path / "file").touch()
    for output, allowed in (
        (tmp_path, "a file that ends in .html or .htm"),
        (tmp_path / "report.png", "a file that ends in .html or .htm"),
        (tmp_path / "file" / "report.html", "no folder to write in"),
    ):
        with pytest.raises(InputError, match=rf"--output .* {allowed}"):
            compare(str(run), output=str(output))


def test_the_command_line(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders stand anywhere among the options; a mistake is one line and status 2."""
    monkeypatch.delenv("IFIR_TRACEBACK", raising=False)
    output = run.parent / "report.html"
    monkeypatch.setattr(sys, "argv", ["ifir_lightning", "compare", str(run), "--json", "--output", str(output)])
    main()
    printed = capsys.readouterr()
    assert json.loads(printed.out)["recipes"][0]["name"] == "run"
    assert printed.err == f"wrote {output}\n"
    assert output.read_text().endswith("</html>\n")
    monkeypatch.setattr(sys, "argv", ["ifir_lightning", "compare", "--json", str(run), "no/such/run"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: no/such/run is no run folder")
