"""The command line as users meet it: subprocesses, their exit status, what they print and write."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import QUICK

from ifir_lightning.data.synthetic import task_tables
from ifir_lightning.trec import read_run

ROOT = Path(__file__).parents[1]
FIT = (*QUICK, "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1", "--model.schedule.warmup_steps=1")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m ifir_lightning ...`` in the root of the repository, without a network."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "ifir_lightning", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a quickstart of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    done = run("fit", *FIT, f"--trainer.default_root_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_fit_fills_the_run_folder(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.csv", "p_mrr.png", "checkpoints", "followir"} <= names
    assert not [name for name in names if name.startswith("version_")]
    assert [path.name for path in sorted((trained / "followir").iterdir())] == [
        "step-00000000",
        "step-00000002",
        "step-00000004",
    ]
    steps = ("step-00000002", "step-00000004")
    files = {f"{step}.{suffix}" for step in steps for suffix in ("ckpt", "json")}
    assert {path.name for path in (trained / "checkpoints").iterdir()} == files


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume=never"], ["already holds a run", "--ckpt_path last"]),
        (["--model.loss.init_args.temperature=1"], ["temperature was 0.05 and is 1", "--ckpt_path last"]),
        (["--ckpt_path=last", "--data.groups.group_size=3"], ["data.groups.group_size is 3", "written with 4"]),
    ],
)
def test_a_fit_that_does_not_continue_is_refused_and_touches_nothing(
    trained: Path, arguments: list[str], expected: list[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    done = run("fit", *FIT, f"--trainer.default_root_dir={trained}", *arguments)
    _refused(done, *expected)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_what_lies_behind_the_newest_whole_checkpoint_is_kept_aside(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    damaged = folder / "checkpoints" / "step-00000004.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    done = run("fit", *FIT, f"--trainer.default_root_dir={folder}")
    assert done.returncode == 0, done.stderr
    assert "continues after step 2 (step-00000002.ckpt)" in done.stderr
    aside = folder / "abandoned" / "001-from-step-00000002"
    assert (aside / "checkpoints" / "step-00000004.ckpt").stat().st_size == 1000
    assert (aside / "followir" / "step-00000004" / "metrics.json").exists()
    assert damaged.stat().st_size > 1000


def test_the_saved_config_continues_the_run_and_keeps_its_log(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    first = (trained / "config.yaml").read_text()
    done = run("fit", f"--config={trained}/config.yaml", "--trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    assert "continues after step 4 (step-00000004.ckpt)" in done.stderr
    steps = [line.split(",")[0] for line in (trained / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == ["0", "1", "2", "3", "4", "5", "6"]
    assert (trained / ".launch").read_text() == "SLURM_JOB_ID 9\n"
    assert (trained / "config-1.yaml").read_text() == first
    assert (trained / "config.yaml").read_text() == first.replace("max_steps: 4", "max_steps: 6")


def test_validate_reproduces_the_last_validation_of_fit(trained: Path, tmp_path: Path) -> None:
    checkpoint = sorted((trained / "checkpoints").glob("step-*.ckpt"))[-1]
    done = run(
        "validate",
        f"--config={trained}/config.yaml",
        f"--ckpt_path={checkpoint}",
        f"--trainer.default_root_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert "p-MRR" in done.stdout
    found = json.loads((tmp_path / "followir" / "validate" / "metrics.json").read_text())
    assert (tmp_path / "followir" / "validate" / "config.yaml").is_file()
    expected = json.loads((trained / "followir" / checkpoint.stem / "metrics.json").read_text())
    assert found["benchmark"] == pytest.approx(expected["benchmark"], abs=1e-6)


def test_test_writes_a_folder_of_its_own(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    done = run(
        "test",
        f"--config={folder}/config.yaml",
        f"--trainer.default_root_dir={folder}",
        "--trainer.enable_progress_bar=false",  # which Lightning alone would refuse, as the recipe lists a bar
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "followir" / "test" / "metrics.json").exists()
    assert "Testing" not in done.stdout
    assert "holds a run, but this is the model before training" in done.stderr


def test_a_validated_checkpoint_is_recorded_with_its_step(trained: Path, tmp_path: Path) -> None:
    config = ("validate", f"--config={trained}/config.yaml", f"--trainer.default_root_dir={tmp_path}")
    checkpoint = sorted((trained / "checkpoints").glob("*.ckpt"))[-1]
    for ckpt_path, step in (((), 0), ((f"--ckpt_path={checkpoint}",), int(checkpoint.stem.removeprefix("step-")))):
        done = run(*config, *ckpt_path)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / "followir" / "validate" / "metrics.json").read_text())
        assert record["step"] == step


def test_predict_on_a_task_gives_the_run_of_the_validation(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "food.trec"
    done = run(
        "predict",
        f"--config={trained}/config.yaml",
        "--ckpt_path=last",
        "--task=synthetic/food",
        f"--output={output}",
    )
    assert done.returncode == 0, done.stderr
    tables = task_tables("food")
    assert read_run(output).keys() == {record["_id"] for record in tables["queries"]}
    evaluated = run("evaluate", "--task=synthetic/food", f"--run={output}", "--json")
    assert json.loads(evaluated.stdout)["task"] == "synthetic-food"


def test_predict_on_files_ranks_every_passage_for_every_query(trained: Path, tmp_path: Path) -> None:
    queries, passages = tmp_path / "queries.jsonl", tmp_path / "passages.jsonl"
    queries.write_text('{"_id": "q1", "text": "the fish pie recipe", "instruction": "Only the price."}\n')
    passages.write_text("".join(f'{{"_id": "p{i}", "text": "passage number {i}"}}\n' for i in range(5)))
    output = tmp_path / "run.trec"
    done = run(
        "predict",
        f"--config={trained}/config.yaml",
        f"--queries={queries}",
        f"--passages={passages}",
        f"--output={output}",
        "--top_k=3",
    )
    assert done.returncode == 0, done.stderr
    assert [len(scores) for scores in read_run(output).values()] == [3]


def test_evaluate_prints_json_with_exactly_the_promised_keys(shared_data: Path) -> None:
    task = shared_data / "followir-mini-core17"
    done = run("evaluate", f"--task={task}", f"--run={task}/run-minilm.trec", "--json")
    scales = [f"{metric}_{scale}" for metric in ("map_1000", "ndcg_5", "score") for scale in "abc"]
    counts = ["num_queries", "num_changed_passages", "skipped_queries"]
    assert set(json.loads(done.stdout)) == {"task", "p_mrr", *scales, *counts}


def _refused(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in expected), line
