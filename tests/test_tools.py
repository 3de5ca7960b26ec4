"""The tools under tools/: what they say without a GPU, how ratios are made of figures, what texts they measure with."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from small import retriever

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    """Import a file of tools/ as its programs do."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def load(name: str) -> ModuleType:
        return import_module(name)

    return load


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(TOOLS / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(TOOLS.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


BAD_VALUES = {
    "faults.py": (["--cells", "kill", "no fault"], ["'no fault'", "kill, start, 1 rank"]),
    "scaling.py": (["--processes", "1", "0"], ["--processes 0", "1 to 128"]),
    "bench_maxsim.py": (["--rounds=0"], ["--rounds 0", "1 or more"]),
    "bench_training.py": (["--rounds=0"], ["--rounds 0", "1 or more"]),
    "bench_validation.py": (["--rounds=0"], ["--rounds 0", "1 or more"]),
    "table_of_runs.py": ([], ["required", "folders"]),
    "study_answers.py": (["no/study", "--pictures=docs"], ["no/study", "results.json"]),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_is_said_in_one_line(name: str, tool, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    arguments, expected = BAD_VALUES[name]
    monkeypatch.chdir(TOOLS.parent)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        tool(name.removesuffix(".py")).main()
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(word in line for word in expected), line


@pytest.mark.parametrize("name", ["mteb_evaluate", "table_of_runs"])
def test_a_tool_has_help_whatever_is_installed(name: str, tool, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(SystemExit) as ended:
        tool(name).main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_check_ends_without_a_gpu_and_says_so(tmp_path: Path) -> None:
    said = run("gpu_check.py", "--output", str(tmp_path))
    assert said.startswith("no CUDA device: the GPU tests and all benchmarks are skipped")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bench_maxsim_counts_inputs_gradients_and_what_lies_beside_them() -> None:
    found = {way: json.loads(run("bench_maxsim.py", "--measure", way, "16", "128")) for way in ("naive", "torch")}
    similarities = 4 * 16 * 32 * 128 * 180
    assert found["naive"]["extra_bytes"] > 2 * similarities > found["torch"]["extra_bytes"]
    held = 4 * 128 * (16 * 32 + 128 * 180)
    for figures in found.values():
        assert figures["of_inputs_and_gradients"] == pytest.approx((held + figures["extra_bytes"]) / (2 * held))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bench_data_measures_the_data_module(tool, tmp_path: Path) -> None:
    """The sum of a worker's phases is its time; all figures of a start are there."""
    tool("benchmarks.table").write_table(tmp_path / "train.parquet", 40, ["word", "other"], num_negatives=8)
    settings = {"table": str(tmp_path / "train.parquet"), "batch": 8, "group_size": 4, "workers": 0, "batches": 2}
    measure, settings = tool("bench_data").measure, settings | {"tokenizer": str(tool("bench_data").TOKENIZER)}
    start, phases, loader = (measure(tmp_path, settings | {"what": what}) for what in ("start", "phases", "loader"))
    assert start["before_anonymous"] < start["peak_anonymous"]
    assert min(start["setup_seconds"], start["first_batch_seconds"]) > 0
    spent = sum(phases[name] for name in ("read", "sample", "tokenise", "pack"))
    assert spent == pytest.approx(1e6 / phases["texts_per_second"], rel=0.02)
    assert loader["texts_per_second"] == pytest.approx(5 * loader["rows_per_second"])


def test_what_bench_data_writes_names_no_place_of_this_machine(
    tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tool("bench_data")
    monkeypatch.setattr(bench, "measure_table", lambda *arguments: {})
    monkeypatch.setattr(bench, "growth", lambda sizes: {})
    monkeypatch.setattr("sys.argv", ["bench_data.py", "--rows", "5000", "--folder", str(tmp_path), "--json"])
    bench.main()
    assert json.loads(capsys.readouterr().out)["tokenizer"] == "quickstart-tokenizer"


def test_ratios_above_one_mean_that_we_are_faster_and_memory_below_one_that_we_need_less(tool) -> None:
    ours, theirs = {"cpu_seconds": 2.0, "peak_bytes": 3}, {"cpu_seconds": 10.0, "peak_bytes": 12}
    twice = {"cpu_seconds": 4.0, "peak_bytes": 6}
    figures = {
        "304_300": {"ours": ours, "pylate": theirs, "multi-vector": twice},
        "192_180": {"ours": ours, "pylate": twice},
        "bi_encoder": {"ours-dense": ours, "dense": theirs},
    }
    assert tool("bench_training").ratios(figures) == {
        "speed_vs_pylate_304_300": 5.0,
        "memory_vs_pylate_304_300": 0.25,
        "speed_vs_sentence_transformers_304_300": 2.0,
        "memory_vs_sentence_transformers_304_300": 0.5,
        "speed_vs_pylate_192_180": 2.0,
        "bi_encoder_speed_vs_sentence_transformers": 5.0,
    }


def test_the_texts_of_the_training_benchmark_have_the_mix_of_lengths(tool) -> None:
    """124,000 real tokens in 128 x (1 + 7) texts, 74 a query: 35% plain, 65% with an instruction."""
    make_texts, step = tool("benchmarks.texts").make_texts, tool("benchmarks.step")
    queries = [2 + len(text.split()) for text in make_texts(4000, 1)["queries"]]
    assert sum(queries) / len(queries) == pytest.approx(74, rel=0.04)
    assert 0.33 < sum(length < 42 for length in queries) / len(queries) < 0.39
    assert step.num_tokens(make_texts(128, 8), 304, 300) == pytest.approx(124_000, rel=0.04)
    assert step.num_tokens({"queries": ["a b c"], "passages": [["a b", "a b c d e"]]}, 4, 6) == 4 + 4 + 6


def test_the_answers_of_a_study_are_tables_and_pictures(tool, tmp_path: Path) -> None:
    def at(mean: float) -> dict:
        return {"mean": mean, "low": mean - 1, "high": mean + 1, "count": 3}

    def point(head: str, number: int, values: dict, mean: float) -> dict:
        return {"head": head, "point": number, "values": values, "p_mrr": at(mean), "score_b": at(90.0)}

    base, other = {"queries": 1.0}, {"queries": 0.5}
    content = {
        "file": "elsewhere/study.yaml",
        "question": "How many?",
        "budget_queries": 4000,
        "seeds": [0, 1, 2],
        "seconds": 600.0,
        "trials": {"planned": 12, "finished": 11, "failed": 1, "diverged": 0},
        "points_drawn": False,
        "points": [point("plain", 0, base, 10.0), point("plain", 1, other, 7.0), point("late", 0, base, 20.0)],
        "changes": [point("plain", 1, other, -3.0)],
        "differences": [point("late", 0, base, 10.0) | {"minus": "plain"}],
        "data_demand": [
            {
                "axis": "queries",
                "metric": "p_mrr",
                "goal": 10.0,
                "heads": {"plain": {"law": {"limit": 30.0, "rate": 0.5}, "size_for_goal": 1.0}},
            }
        ],
    }
    said = tool("study_answers").section("demand", content, tmp_path)
    counted = "11 trainings finished, 1 failed and 0 diverged of 12 planned, 10 minutes"
    assert f"`python -m ifir_lightning study elsewhere/study.yaml`: {counted}" in said
    assert "| plain | queries 0.5 | 7.0 [6.0, 8.0] | 90.0 [89.0, 91.0] |" in said
    assert "| plain | queries 0.5 | -3.0 [-4.0, -2.0] |" in said
    assert "| late - plain | queries 1.0 | 10.0 [9.0, 11.0] |" in said
    assert "| plain | 30.0 | 0.50 | 1 |  |" in said
    assert "![p-MRR over queries](demand-1.svg)" in said
    assert (tmp_path / "demand-1.svg").read_text().startswith("<?xml")


def test_a_study_of_sensitivity_that_has_not_come_far_has_no_picture(tool, tmp_path: Path) -> None:
    content = {
        "file": "study.yaml",
        "question": "How sensitive?",
        "budget_queries": 4000,
        "seeds": [0],
        "seconds": 60.0,
        "trials": {"planned": 12, "finished": 1, "failed": 0, "diverged": 0},
        "points": [],
        "sensitivity": {"plain": {"diverged_share": 0.0, "failed_share": 0.0}},
    }
    said = tool("study_answers").section("begun", content, tmp_path)
    assert "1 trainings finished" in said
    assert "![" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("off", "status"), [(0.0, 0), (0.001, 1), (float("nan"), 1)])
def test_an_export_is_compared_as_peers_score_it(
    off: float, status: int, tool, modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A query of two tokens, a passage of one and one of two; the run's own scores have weights. One peer is off."""
    check = tool("check_export")
    own = {
        "queries": np.array([[1.0, 0.0], [0.0, 1.0]], np.float32),
        "query_rows": np.array([2], np.int16),
        "passages": np.array([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]], np.float32),
        "passage_rows": np.array([1, 2], np.int16),
        "scores": np.array([[7.0, 8.0]], np.float32),
    }
    theirs = {
        library: {"scores": np.array([[1.4, 1.0 + difference]], np.float32)}
        for library, difference in (("pylate", 0.0), ("multi-vector", off))
    }
    monkeypatch.setattr(check, "load_retriever", lambda run: retriever(modernbert, "weighted").retriever)
    monkeypatch.setattr(check, "run", lambda *words: None)
    monkeypatch.setattr(
        check, "score", lambda python, library, folders, output: {folders[0].name: {"ours": own, **theirs}[library]}
    )
    monkeypatch.setattr(check, "ENVIRONMENT", {})
    monkeypatch.setattr(sys, "argv", ["check_export.py", f"--run={tmp_path}", "--peers=a", "--peers-6=b"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    said = capsys.readouterr().out
    assert ended.value.code == status, said
    assert said.count("largest difference") == 2
    assert "the token weights of weighted MaxSim" in said
