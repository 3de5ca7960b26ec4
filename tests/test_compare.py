"""compare: its numbers are those of the run files, its recipes those of the config files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import run_folders
from run_folders import STEPS, head, random_run, write_run_folder
from small import write_task

from ifir_lightning.bootstrap import bootstrap
from ifir_lightning.commands.compare import compare
from ifir_lightning.comparison.report import summarise
from ifir_lightning.data.evalset import Task, load_task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Run, p_mrr, rank_change, ranks
from ifir_lightning.run_folder import clear
from ifir_lightning.trec import read_run

LATE = head("TokenProjection", "MaxSim")
Compare = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks; a late-interaction recipe with two seeds, a bi-encoder with one, and an untrained one."""
    folder = tmp_path_factory.mktemp("world")
    tasks = [write_task(folder / name, name, num_queries) for name, num_queries in (("travel", 5), ("food", 8))]
    for seed in (0, 1):
        write_run_folder(folder / f"late-{seed}", tasks, seed, 3, settings=LATE)
    write_run_folder(folder / "bi", tasks, 2, 1)
    write_run_folder(folder / "untrained", tasks, 3, steps=None)
    return folder


@pytest.fixture
def numbers(world: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """The JSON of a comparison of folders of the world."""

    def run(*names: str, **options: Any) -> dict[str, Any]:
        capsys.readouterr()
        compare(*(str(world / name) for name in names), json=True, **options)
        return dict(json.loads(capsys.readouterr().out))

    return run


def recorded(folder: Path, step: int = STEPS[-1]) -> dict[str, Any]:
    return dict(json.loads((folder / "followir" / f"step-{step:08d}" / "metrics.json").read_text()))


def by_name(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [recipe for recipe in report["recipes"] if recipe["name"] == name]
    return dict(found)


def test_values_are_the_recorded_ones_averaged_over_seeds(numbers: Compare, world: Path) -> None:
    report = numbers("late-0", "late-1", "bi")
    late, bi = by_name(report, "late"), by_name(report, "bi")
    seeds = [recorded(world / f"late-{seed}") for seed in (0, 1)]
    alone = recorded(world / "bi")
    for key in ("p_mrr", "score_a", "score_b", "score_c"):
        assert late["results"]["mean"][key]["value"] == pytest.approx(fmean(s["benchmark"][key] for s in seeds))
        assert bi["results"]["mean"][key]["value"] == pytest.approx(alone["benchmark"][key])
        for index, task in enumerate(("travel", "food")):
            expected = fmean(seed["tasks"][index][key] for seed in seeds)
            assert late["results"][task][key]["value"] == pytest.approx(expected)
    assert [run["p_mrr"] for run in late["runs"]] == pytest.approx([seed["benchmark"]["p_mrr"] for seed in seeds])
    assert [recipe["name"] for recipe in report["recipes"]] == ["late", "bi"]  # by p-MRR
    assert report["summary"][0].startswith("late follows instructions best: p-MRR +")


def test_intervals_and_p_values_are_the_bootstrap_of_the_run_files(numbers: Compare, world: Path) -> None:
    report = numbers("late-0", "late-1", "bi")
    columns = []
    for name in ("travel", "food"):
        task = load_task(str(world / name))
        values = {}
        for run in ("late-0", "late-1", "bi"):
            scores = read_run(world / run / "followir" / "step-00000020" / f"{name}.trec")
            values[run] = 100 * np.array(list(p_mrr(scores, task.changed).per_query.values()))
        late = (values["late-0"] + values["late-1"]) / 2
        columns.append(np.stack([late, values["bi"], late - values["bi"]], axis=1))
    found = bootstrap(columns, np.array([-100, -100, -200]), np.array([100, 100, 200]))
    (pair,) = report["pairs"]
    assert (pair["first"], pair["second"]) == ("late", "bi")
    shown = [recipe["results"]["mean"]["p_mrr"] for recipe in report["recipes"]] + [pair["results"]["mean"]["p_mrr"]]
    assert [numbers["low"] for numbers in shown] == pytest.approx(found.lows.tolist())
    assert [numbers["high"] for numbers in shown] == pytest.approx(found.highs.tolist())
    assert pair["results"]["mean"]["p_mrr"]["p_value"] == pytest.approx(found.p_values[2])
    assert pair["results"]["mean"]["p_mrr"]["difference"] == pytest.approx(found.values[2])


def test_the_range_over_pairs_of_seeds(numbers: Compare, world: Path) -> None:
    (pair,) = numbers("late-0", "late-1", "bi")["pairs"]
    late = [recorded(world / f"late-{seed}")["benchmark"]["score_b"] for seed in (0, 1)]
    bi = recorded(world / "bi")["benchmark"]["score_b"]
    assert pair["seed_pairs"]["score_b"] == pytest.approx({"low": min(late) - bi, "high": max(late) - bi})


def test_last_and_best_validation(numbers: Compare, world: Path) -> None:
    values = {step: recorded(world / "late-0", step)["benchmark"]["p_mrr"] for step in STEPS}
    for validation, step in (("last", STEPS[-1]), ("best", recorded_best(world / "late-0"))):
        report = numbers("late-0", validation=validation)
        (run,) = report["recipes"][0]["runs"]
        assert (run["step"], run["p_mrr"]) == (step, pytest.approx(values[step]))
        assert report["validation"] == validation
    assert numbers("bi", validation="best")["recipes"][0]["runs"][0]["p_mrr"] == max(
        recorded(world / "bi", step)["benchmark"]["p_mrr"] for step in STEPS
    )


def test_a_run_that_never_got_better_than_it_began(numbers: Compare, world: Path, tmp_path: Path) -> None:
    """Its best is not trained; the steps differ from those of another run."""
    tasks = [str(world / name) for name in ("travel", "food")]
    run = write_run_folder(tmp_path / "run", tasks, seed=0, skill=-50, settings=LATE)
    report = numbers("late-0", str(run), validation="best")
    assert {seed["step"] for seed in report["recipes"][0]["runs"]} == {0, recorded_best(world / "late-0")}
    assert "different steps" in " ".join(report["warnings"])
    (alone,) = numbers(str(run), validation="best")["recipes"]
    assert alone["initialisation"] == "random (modernbert, 2 layers of 32), not trained"


def recorded_best(folder: Path) -> int:
    return max(STEPS, key=lambda step: float(recorded(folder, step)["benchmark"]["p_mrr"]))


def test_curves_are_the_validations_with_a_band_over_seeds(numbers: Compare, world: Path) -> None:
    curves = {curve["recipe"]: curve for curve in numbers("late-0", "late-1", "bi")["curves"]}
    values = [[recorded(world / f"late-{seed}", step)["benchmark"]["score_b"] for seed in (0, 1)] for step in STEPS]
    assert curves["late"]["steps"] == list(STEPS)
    assert curves["late"]["queries_seen"] == [0, 160, 320]  # 8 queries x 2 accumulated batches a step
    for name, over_seeds in (("mean", fmean), ("low", min), ("high", max)):
        assert curves["late"]["score_b"][name] == pytest.approx([over_seeds(value) for value in values])
    assert curves["bi"]["p_mrr"]["low"] == curves["bi"]["p_mrr"]["high"]


def test_a_run_that_was_killed_and_continued_is_one_line_of_time(numbers: Compare, world: Path, tmp_path: Path) -> None:
    """What lay after the checkpoint came again; a validation that never ended has no metrics."""
    run = tmp_path / "late-0"
    shutil.copytree(world / "late-0", run)
    clear(run, STEPS[1])
    assert numbers(str(run))["curves"][0]["steps"] == list(STEPS[:2])
    last = Path("followir") / f"step-{STEPS[2]:08d}"
    assert list(run.glob(f"abandoned/*/{last}/metrics.json"))
    shutil.copytree(world / "late-0" / last, run / last)
    shutil.copy(run / "config.yaml", run / "config-1.yaml")
    (run / "followir" / "step-00000099").mkdir()
    continued, straight = numbers(str(run)), numbers("late-0")
    for report in (continued, straight):
        report["recipes"][0]["runs"][0].pop("folder")
    assert continued == straight


def test_what_differs_is_listed_and_a_second_change_warned_of(world: Path, numbers: Compare, tmp_path: Path) -> None:
    report = numbers("late-0", "bi")
    assert {key: set(values) for key, values in report["settings"].items()} == {
        f"model.{part}.class_path": {f"ifir_lightning.models.{module}.{name}" for name in names}
        for part, module, names in (
            ("pooling", "pooling", ("TokenProjection", "MeanPooling")),
            ("scorer", "scoring", ("MaxSim", "Cosine")),
        )
    }
    assert [line for line in report["warnings"] if "cannot tell" not in line] == []
    tasks = [str(world / name) for name in ("travel", "food")]
    other = write_run_folder(tmp_path / "other", tasks, settings=LATE | {"data": {"global_batch_size": 4}})
    report = numbers("bi", str(other))
    assert report["settings"]["data.global_batch_size"] in ([8, 4], [4, 8])
    (warning,) = [line for line in report["warnings"] if "cannot tell" not in line]
    assert warning.endswith("differ in more than pooling and scorer: data.global_batch_size")
    trainer = {"max_steps": 20, "accumulate_grad_batches": 2, "num_nodes": 2, "logger": {"class_path": "CSVLogger"}}
    how = {"watchdog": {"silent_seconds": 60}, "trainer": trainer, "data": {"global_batch_size": 8, "num_workers": 3}}
    same = write_run_folder(tmp_path / "same", tasks, settings=LATE | how | {"extra": None, "verbose": False})
    assert set(numbers("late-0", str(same))["settings"]) == set(numbers("late-0", "late-1")["settings"])


def test_an_untrained_model_is_a_run(numbers: Compare) -> None:
    report = numbers("late-0", "untrained")
    untrained = by_name(report, "untrained")
    assert untrained["initialisation"] == "random (modernbert, 2 layers of 32), not trained"
    assert untrained["paradigm"] == "bi-encoder (MeanPooling, Cosine)"
    assert by_name(report, "late-0")["paradigm"] == "late interaction (TokenProjection, MaxSim)"
    assert untrained["runs"][0]["step"] == 0


@pytest.fixture
def again(world: Path, tmp_path: Path) -> Callable[..., str]:
    """A checkpoint of a run of the world that ``validate`` took in another folder."""
    tasks = [str(world / name) for name in ("travel", "food")]

    def write(name: str, run: str, step: int = 20, **settings: Any) -> str:
        checkpoint = {"ckpt_path": str(world / run / "checkpoints" / f"step-{step:08d}.ckpt"), "verbose": False}
        folder = write_run_folder(tmp_path / name, tasks, 0, 3, steps=None, settings=LATE | checkpoint | settings)
        metrics = folder / "followir" / "validate" / "metrics.json"
        metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"step": step}))
        return str(folder)

    return write


def test_a_checkpoint_that_was_validated_elsewhere_is_a_trained_run(
    numbers: Compare, again: Callable[..., str]
) -> None:
    """With the step of the checkpoint, which its validation records."""
    report = numbers("bi", again("again", "late-0"))
    found = by_name(report, "again")
    assert found["initialisation"] == "random (modernbert, 2 layers of 32)"
    assert found["runs"][0]["step"] == 20
    assert [curve["queries_seen"] for curve in report["curves"] if curve["recipe"] == "again"] == [[20 * 8 * 2]]


def test_a_validation_belongs_to_the_recipe_that_trained_its_checkpoint(
    numbers: Compare, again: Callable[..., str]
) -> None:
    """Each seed's at a step of its own; what ``validate`` was told otherwise is said."""
    best = [again("best-0", "late-0"), again("best-1", "late-1", step=10)]
    assert [recipe["name"] for recipe in numbers(*best)["recipes"]] == ["best"]
    assert [recipe["name"] for recipe in numbers("late-1", best[0])["recipes"]] == ["late-1"]
    cut = again("cut", "late-0", model=LATE["model"] | {"text": {"max_query_length": 32}})
    assert set(numbers("late-0", cut)["settings"]) == {"validate: model.text.max_query_length"}
    assert "model.pooling.class_path" in numbers("late-0", again("other", "bi"))["settings"]
    untrained = again("untrained", "late-0", ckpt_path=None)
    assert numbers("late-0", untrained)["settings"] == {"trained": [True, False]}


@pytest.fixture
def branch(world: Path, tmp_path: Path) -> Callable[..., str]:
    """A run that began in a trunk of its own."""
    tasks = [str(world / name) for name in ("travel", "food")]

    def write(name: str, seed: int, trunk: str, step: int = 10, root: Path = tmp_path, **settings: Any) -> str:
        if not (tmp_path / trunk).exists():
            write_run_folder(tmp_path / trunk, tasks, seed, settings=LATE | settings)
        begins = {"ckpt_path": str(root / trunk / "checkpoints" / f"step-{step:08d}.ckpt")}
        return str(write_run_folder(tmp_path / name, tasks, seed, settings=LATE | begins))

    return write


def test_branches_of_one_trunk_per_seed_are_seeds_of_one_recipe(
    numbers: Compare, branch: Callable[..., str], tmp_path: Path
) -> None:
    """A trunk that differs otherwise, or another place in it, is another recipe; one that only went on is none."""
    same = [branch(f"short-{seed}", seed, f"trunk-{seed}") for seed in (0, 1, 2)]
    config = tmp_path / "trunk-2" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 20", "max_steps: 400"))
    report = numbers(*same)
    assert [recipe["name"] for recipe in report["recipes"]] == ["short"]
    assert report["warnings"] == []
    later = branch("later", 0, "trunk-0", step=20)
    other = branch("other", 0, "small", data={"global_batch_size": 4})
    gone = branch("gone", 0, "lost")
    (tmp_path / "lost" / "config.yaml").unlink()
    settings = numbers(*same, later, other, gone)["settings"]
    lost = "ckpt_path: of a run that is not there"
    assert set(settings) == {"ckpt_path", "ckpt_path: data.global_batch_size", lost}
    assert sorted(settings["ckpt_path"]) == ["step-00000010.ckpt"] * 3 + ["step-00000020.ckpt"]


def test_branches_are_compared_wherever_one_stands(
    numbers: Compare, branch: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a relative path leads nowhere, the seeds stay together, and what is not known is said."""
    same = [branch(f"short-{seed}", seed, f"trunk-{seed}", root=Path()) for seed in (0, 1)]
    for place, num_warnings in ((tmp_path, 0), (Path(tmp_path.root), 1)):
        monkeypatch.chdir(place)
        report = numbers(*same)
        assert [recipe["name"] for recipe in report["recipes"]] == ["short"]
        lines = [f"short goes on from ckpt_path trunk-0/checkpoints/step-{10:08d}.ckpt, whose run is not there: how"]
        assert [line[: len(lines[0])] for line in report["warnings"]] == lines * num_warnings


def test_validations_on_other_tasks_than_the_last_are_left_out(numbers: Compare, world: Path, tmp_path: Path) -> None:
    tasks = [str(world / name) for name in ("travel", "food")]
    run = write_run_folder(tmp_path / "run", tasks, 0, 1)
    metrics = run / "followir" / "step-00000010" / "metrics.json"
    record = json.loads(metrics.read_text())
    best = {**record["benchmark"], "p_mrr": 99.0}
    metrics.write_text(json.dumps(record | {"benchmark": best, "tasks": record["tasks"][:1]}))
    report = numbers(str(run), validation="best")
    assert report["curves"][0]["steps"] == [0, 20]
    assert report["recipes"][0]["runs"][0]["step"] in (0, 20)
    assert f"{run}: validations at steps 10, on other tasks than the last, are left out" in report["warnings"]


def test_a_recipe_without_its_batch_size(numbers: Compare, world: Path, tmp_path: Path) -> None:
    """An untrained model has seen no query; of a trained one it has to be known."""
    tasks = [str(world / name) for name in ("travel", "food")]
    untrained = write_run_folder(tmp_path / "untrained", tasks, steps=None, settings={"data": {}})
    assert numbers(str(untrained))["curves"][0]["queries_seen"] == [0]
    with pytest.raises(InputError, match=r"lacks data.global_batch_size; .* restore the file"):
        numbers(str(write_run_folder(tmp_path / "trained", tasks, settings={"data": {}})))


def test_an_interval_of_every_value_is_said_to_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 20 queries one is ranked the wrong way round, so Score B of every other is 100."""
    task = write_task(tmp_path / "travel", "travel", 20)
    wrong = f"{load_task(task).base_ids[0]}-og"

    def ranked(loaded: Task, *_: Any) -> Run:
        return {
            query_id: {id_: (-1.0 if query_id == wrong else 1.0) * loaded.qrels[query_id].get(id_, 0) for id_ in ids}
            for query_id, ids in loaded.candidates.items()
        }

    for name, run in (("right", random_run), ("one-wrong", ranked)):
        monkeypatch.setattr(run_folders, "random_run", run)
        compare(str(write_run_folder(tmp_path / name, [task], skill=1000)), json=True)
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        told = [line for line in warnings if "Score B (mean), " in line and "cannot tell" in line]
        assert len(told) == (name == "one-wrong"), warnings


def test_few_queries_and_many_recipes_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 33 recipes are 528 pairs, and 0.05 / 528 is less than the 1 / 10001 of the draws."""
    task = write_task(tmp_path / "travel", "travel", 3)
    settings = [{"data": {"global_batch_size": size}} for size in range(1, 34)]
    runs = [
        str(write_run_folder(tmp_path / f"run{size}", [task], steps=(0,), settings=each))
        for size, each in enumerate(settings)
    ]
    for count, warned in ((32, False), (33, True)):
        compare(*runs[:count], json=True)
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert any(line.startswith("only 3 queries have a p-MRR") for line in warnings)
        assert any(line.startswith("528 pairs are compared: to be real") for line in warnings) == warned


def test_other_benchmarks_of_a_recipe_are_left_out(numbers: Compare, world: Path, tmp_path: Path) -> None:
    tasks = [str(world / name) for name in ("travel", "food")]
    named = {"followir": {"tasks": [f"followir:{tasks[0]}", "beir:not/read", tasks[1]]}}
    other = write_run_folder(tmp_path / "other", tasks, settings=named)
    assert [task["name"] for task in numbers(str(other))["tasks"]] == ["travel", "food"]


def test_runs_that_stopped_early_or_share_a_seed_are_warned_of(numbers: Compare, world: Path, tmp_path: Path) -> None:
    tasks = [str(world / name) for name in ("travel", "food")]
    write_run_folder(tmp_path / "late-7", tasks, 0, 3, steps=STEPS[:2], settings=LATE)
    report = numbers("late-0", str(tmp_path / "late-7"))
    assert [recipe["name"] for recipe in report["recipes"]] == ["late"]
    assert any("late has seeds [0, 0]" in warning for warning in report["warnings"])
    assert any("different steps" in warning and "late-7 10" in warning for warning in report["warnings"])
    assert report["curves"][0]["steps"] == [0, 10]


def test_gains_and_losses_equal_a_loop(numbers: Compare, world: Path) -> None:
    """Of every query the difference, sorted; of its passages the ranks, averaged over seeds."""
    report = numbers("late-0", "late-1", "bi", num_queries=3)
    runs, expected = {}, {}
    for name in ("travel", "food"):
        task = load_task(str(world / name))
        for run in ("late-0", "late-1", "bi"):
            runs[run, name] = read_run(world / run / "followir" / "step-00000020" / f"{name}.trec")
        values = {run: p_mrr(runs[run, name], task.changed).per_query for run in ("late-0", "late-1", "bi")}
        for base in task.base_ids:
            late = (values["late-0"][base] + values["late-1"][base]) / 2
            expected[name, base] = 100 * (late - values["bi"][base])
    ordered = sorted(expected, key=lambda key: expected[key])
    queries = report["pairs"][0]["queries"]
    assert [(e["task"], e["query_id"]) for e in queries["gains"]] == ordered[::-1][:3]
    losses = [key for key in ordered[:3] if expected[key] < 0]
    assert [(e["task"], e["query_id"]) for e in queries["losses"]] == losses
    for entry in (*queries["gains"], *queries["losses"]):
        task = load_task(str(world / entry["task"]))
        base = entry["query_id"]
        assert entry["difference"] == pytest.approx(expected[entry["task"], base])
        assert entry["query"] == task.queries[f"{base}-og"]
        assert entry["changed_instruction"] == task.instructions[f"{base}-changed"]
        shares = {}
        for doc_id in task.changed[base]:
            pairs = [
                [ranks(runs[run, entry["task"]][base + end])[doc_id] for end in ("-og", "-changed")]
                for run in ("late-0", "late-1", "bi")
            ]
            late = (rank_change(*pairs[0]) + rank_change(*pairs[1])) / 2
            averaged = [fmean(pair[i] for pair in pairs[:2]) for i in (0, 1)]
            shares[doc_id] = (abs(late - rank_change(*pairs[2])), [averaged, pairs[2]])
        best = sorted(shares, key=lambda doc_id: -shares[doc_id][0])[:3]
        assert {passage["passage_id"] for passage in entry["passages"]} == set(best)
        for passage in entry["passages"]:
            assert passage["ranks"] == shares[passage["passage_id"]][1]
            assert task.passages[passage["passage_id"]].text[:40] in passage["text"]


@pytest.mark.parametrize(
    ("p_values", "title", "verdicts"),
    [
        ((0.001, 0.02), "follows instructions best", ("is real", "is real")),
        ((0.001, 0.03), "has the highest p-MRR", ("is real", "is not shown by these queries")),
    ],
)
def test_the_best_is_called_best_where_every_lead_is_real(
    p_values: tuple[float, float], title: str, verdicts: tuple[str, str]
) -> None:
    """0.05 over two pairs is 0.025."""
    value = {key: {"value": 3.0, "low": 1.0, "high": 5.0} for key in ("p_mrr", "score_b")}
    recipes = [
        {"name": name, "results": {"mean": value}, "runs": [{}] * seeds}
        for name, seeds in zip("abc", (1, 1, 2), strict=True)
    ]
    pairs = []
    for second, p_value in zip("bc", p_values, strict=True):
        numbers = {"difference": 2.0, "low": 1.0, "high": 3.0, "p_value": p_value}
        results = {"mean": {"p_mrr": numbers, "score_b": numbers}}
        pairs.append(
            {"first": "a", "second": second, "results": results, "seed_pairs": {"p_mrr": {"low": 2.0, "high": 2.0}}}
        )
    first, *leads = summarise(recipes, pairs)
    assert first.startswith(f"a {title}: p-MRR +3.00 [+1.00, +5.00]")
    for lead, second, verdict in zip(leads, "bc", verdicts, strict=True):
        assert lead.startswith(f"Its lead in p-MRR over {second} {verdict}: +2.00 [+1.00, +3.00], p = ")
    scatters = ("one seed each, so what another seed", "between single seeds +2.00 to +2.00")
    assert all(scatter in lead for scatter, lead in zip(scatters, leads, strict=True))


def test_one_run_alone(numbers: Compare) -> None:
    report = numbers("late-0")
    assert report["pairs"] == []
    assert report["settings"] == {}
    assert report["summary"][0].startswith("late-0 stands alone: p-MRR")
    highest = [entry["p_mrr"][0] for entry in report["queries"]["gains"]]
    assert highest
    assert highest == sorted(highest, reverse=True)


def test_the_terminal_shows_p_mrr_with_scores(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(*(str(world / name) for name in ("late-0", "late-1", "bi")))
    shown = capsys.readouterr().out
    compare(*(str(world / name) for name in ("late-0", "late-1", "bi")), json=True)
    report = json.loads(capsys.readouterr().out)
    for recipe in report["recipes"]:
        for result in recipe["results"].values():
            assert f"{result['p_mrr']['value']:+.2f}" in shown
            assert f"{result['score_b']['value']:.2f}" in shown
    for words in ("p-MRR", "Score B", "Score A", "Score C", "Settings that differ", "Paired bootstrap"):
        assert words in shown
