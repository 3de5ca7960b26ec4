"""What the README shows is what there is."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import run

from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.cli import COMMANDS, TRAINER_COMMANDS
from ifir_lightning.data.formats import check_table, open_table, to_row
from ifir_lightning.errors import InputError
from ifir_lightning.models.pooling import MeanPooling
from ifir_lightning.models.scoring import Cosine
from ifir_lightning.records import Kind
from ifir_lightning.retriever import load_retriever
from ifir_lightning.search import run_task
from ifir_lightning.trec import read_run, write_run

SMOKE = (
    "--data.path=synthetic:64",
    "--data.global_batch_size=4",
    "--data.groups.group_size=4",
    "--trainer.val_check_interval=2",
    "--model.schedule.warmup_steps=1",
)
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMAND_LINES = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_names_what_exists(line: str) -> None:
    words = shlex.split(line.split("&&")[-1])
    if "ifir_lightning" in words:
        assert words[words.index("ifir_lightning") + 1] in (*TRAINER_COMMANDS, *COMMANDS)
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word


def test_the_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At smoke size, in the order of the README, in one run folder."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "quickstart"
    for line in COMMAND_LINES:
        words = shlex.split(line.split("&&")[-1].replace("runs/quickstart", str(folder)))
        if not words[0].endswith("python") or "ifir_lightning" not in words:
            continue
        if "configs/quickstart-trunk.yaml" in words:  # two run folders: in test_branches.py
            continue
        arguments = [str(tmp_path / word) if word.endswith((".trec", ".html")) else word for word in words]
        arguments = arguments[arguments.index("ifir_lightning") + 1 :]
        if arguments[0] == "fit":
            max_steps = 2 if "configs/quickstart.yaml" in arguments else 4
            arguments += [*SMOKE, f"--trainer.default_root_dir={folder}", f"--trainer.max_steps={max_steps}"]
        if arguments[0] == "study":
            arguments = ["study", str(smoke_study(tmp_path, ROOT / arguments[1])), "--output", str(tmp_path / "study")]
        assert run(arguments, tmp_path / "log") == 0, f"{line}\n{(tmp_path / 'log').read_text()}"
    assert (folder / "followir" / "step-00000004" / "metrics.json").exists()
    assert (tmp_path / "food.trec").exists()
    assert (tmp_path / "report.html").exists()
    assert "1 of 1 trials have ended: 1 finished" in (tmp_path / "study" / "report.html").read_text()
    assert (tmp_path / "quickstart-model" / "modules.json").exists()
    scope = run_example("load_retriever", **{"runs/quickstart": str(folder)})
    assert scope["scores_QP"].shape == (1, 2)


def smoke_study(folder: Path, file: Path) -> Path:
    """The study with one head, one seed, one point, and four steps."""
    content = yaml.safe_load(file.read_text()) | {"points": 1, "seeds": [0], "budget": 16, "axes": {}}
    content["heads"] = dict(list(content["heads"].items())[:1])
    smoke = dict(option.removeprefix("--").split("=") for option in SMOKE)
    content["settings"] = {key: yaml.safe_load(value) for key, value in smoke.items()}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder / "study.yaml"


def test_every_recipe_that_is_named_exists() -> None:
    for name in re.findall(r"`(configs/[^`]*\.yaml)`", README):
        for path in _expand(name):
            assert list(ROOT.glob(path)), path


def test_the_row_of_the_example_can_be_trained_on(tmp_path: Path) -> None:
    (row,) = re.findall(r'^ *(\{"query_id".*\})$', README, flags=re.MULTILINE)
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    table = open_table(str(tmp_path / "rows.jsonl"))
    check_table(table, "rows.jsonl")
    assert to_row(table[0]).positives[0].text == "Goethe wrote Faust."


def test_the_file_tree_lists_every_module() -> None:
    tree = next(text for kind, text in BLOCKS if text.startswith("ifir_lightning/\n"))
    listed = set(re.findall(r"(\w+\.py)", tree.split("\nconfigs/")[0]))
    files = [path for path in (ROOT / "ifir_lightning").rglob("*.py") if path.parent.name != "commands"]
    present = {path.name for path in files} - {"__init__.py", "__main__.py"}
    assert listed == present


def test_the_file_tree_lists_every_tool() -> None:
    listed = re.findall(r"(\w+\.py)", README.split("\ntools/\n")[1].split("\nbenchmarks/")[0])
    present = {path.name for path in (ROOT / "tools").glob("*.py") if not path.name.startswith("bench_")}
    assert set(listed) == present


def test_the_loss_of_the_example_runs() -> None:
    loss = run_example("class MarginLoss")["MarginLoss"]()
    scores_QP, targets_Q = torch.tensor([[0.9, 0.4, 0.2], [0.1, 0.5, 0.3]]), torch.tensor([0, 2])
    kinds_QP = torch.full((2, 3), Kind.IN_BATCH)
    kinds_QP[[0, 1], targets_Q] = Kind.POSITIVE
    assert loss(scores_QP, targets_Q, kinds_QP).item() == pytest.approx((0.5 + 1.2) / 2)
    kinds_QP[1, 1] = Kind.EXCLUDED  # the positive itself, with another query
    assert loss(scores_QP, targets_Q, kinds_QP).item() == pytest.approx((0.5 + 0.8) / 2)


def test_the_benchmark_of_the_example_runs() -> None:
    task = run_example("class Opposites")["load"]("colours")
    run = {query_id: {"red": 0.5, "blue": 0.4} for query_id in task.queries} | {"not-red": {"red": 0.1, "blue": 0.2}}
    assert task.evaluate(run) == {"task": "colours", "moved": 50.0, "num_queries": 2}


def test_the_benchmark_of_the_example_is_ranked(
    tmp_path: Path, modernbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_module(tmp_path, monkeypatch, "my_tasks", example("class Opposites"))
    task = named_task("my_tasks.load:colours")
    ranked, _ = run_task(load_retriever(str(modernbert), MeanPooling(), Cosine()), task)
    write_run(tmp_path / "colours.trec", ranked, "test")
    assert read_run(tmp_path / "colours.trec").keys() == {"red", "not-red", "blue", "not-blue"}


def test_ids_that_no_run_file_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_module(tmp_path, monkeypatch, "spaced_tasks", example("class Opposites").replace('"not-red"', '"not red"'))
    with pytest.raises(InputError, match=r"has the id 'not red'; runs are TREC files, .*: rename it$"):
        named_task("spaced_tasks.load:colours")


def test_pooling_and_scorer_of_the_example_run(modernbert: Path) -> None:
    scope = run_example("class MeanSqrtLenPooling")
    theirs = load_retriever(str(modernbert), MeanPooling(), Cosine())
    ours = load_retriever(str(modernbert), scope["MeanSqrtLenPooling"](), scope["Euclidean"]())
    texts = ["a quiet hotel", "the sea", "a"]
    lengths_B = ours.tokenizer.queries((text, "") for text in texts).lengths_B
    vectors_BD = ours.encode_queries(texts).values_ND
    means_BD = theirs.encode_queries(texts).values_ND
    torch.testing.assert_close(vectors_BD, means_BD * lengths_B.sqrt()[:, None])
    scores_QP = ours.score(texts, texts)
    distance = (vectors_BD[0] - ours.encode_passages(texts).values_ND[1]).norm().item()
    assert scores_QP[0, 1].item() == pytest.approx(-distance)


def test_the_plug_in_of_the_example_trains(tmp_path: Path) -> None:
    (line,) = [line for line in COMMAND_LINES if "IFIR_PLUGINS" in line]
    (tmp_path / "my_losses.py").write_text(example("class MarginLoss"))
    assignment, *words = shlex.split(line.replace("runs/margin", str(tmp_path / "margin")))
    arguments = [*words[words.index("-m") :], *SMOKE, "--trainer.max_steps=2"]
    name, plugins = assignment.split("=")
    search = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": search, name: plugins}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "my_losses.MarginLoss" in (tmp_path / "margin" / "config.yaml").read_text()


def own_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    """A module of the user's, which the environment allows."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("IFIR_PLUGINS", name)


def example(part: str) -> str:
    """The one Python block with ``part``."""
    (code,) = [text for kind, text in BLOCKS if kind == "python" and part in text]
    return code


def run_example(part: str, **replaced: str) -> dict[str, Any]:
    """The names that the one Python block with ``part`` defines."""
    code = example(part)
    for old, new in replaced.items():
        code = code.replace(old, new)
    scope: dict[str, Any] = {"__name__": "example"}
    exec(code, scope)
    return scope


def test_ci_runs_the_test_command_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in ci
    (command,) = [line for line in COMMAND_LINES if "pytest" in line]
    assert README.split("<!-- test command -->")[1].strip().splitlines()[1] == command


def _expand(name: str) -> list[str]:
    """a/{b,c}.yaml -> a/b.yaml, a/c.yaml."""
    match = re.search(r"\{([^}]*)\}", name)
    if match is None:
        return [name]
    return [name.replace(match.group(0), part) for part in match.group(1).split(",")]
