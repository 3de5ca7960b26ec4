"""FollowIRDiagnostics beside FollowIRValidation: what it logs and writes, against encodings of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from small import HEADS, Head, retriever, synthetic_data, trainer, write_task

from ifir_lightning.callbacks import diagnostics
from ifir_lightning.callbacks.diagnostics import FollowIRDiagnostics
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.data.evalset import Task, load_task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Run, evaluate_run
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import Embeddings
from ifir_lightning.spans import Span, query_spans

SHARES = [f"score_share/{name}" for name in ("query", "instruction", "markers", "expansion")]


def validate(
    backbone: Path, head: Head, tasks: list[str], folder: Path, ckpt_path: Path | None = None
) -> tuple[dict[str, float], RetrieverModule]:
    module = retriever(backbone, head)
    validating = trainer(folder, FollowIRDiagnostics(), FollowIRValidation(tasks))
    validating.validate(module, synthetic_data(), ckpt_path, verbose=False)
    return {name: float(value) for name, value in validating.callback_metrics.items()}, module


def figures(logged: dict[str, float]) -> dict[str, float]:
    start = "followir/diagnostics/"
    return {name.removeprefix(start): value for name, value in logged.items() if name.startswith(start)}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tasks")
    return [write_task(folder / domain, domain) for domain in ("travel", "food")]


def slow_runs(module: RetrieverModule, task: Task) -> dict[str, Run]:
    """Every query and passage encoded alone: without the instruction's rows, and without the instruction."""
    model, runs = module.retriever.eval(), {"without_instruction_tokens": {}, "without_instruction": {}}  # type: ignore[var-annotated]
    passages = {id_: model.encode_passages([passage]) for id_, passage in task.passages.items()}
    for id_, text in task.queries.items():
        pair = (text, task.instructions[id_])
        whole = model.encode_queries([text], [pair[1]])
        left = (
            query_spans(model.tokenizer, [pair]) != Span.INSTRUCTION
            if len(whole.values_ND) > 1
            else torch.tensor([True])
        )
        weights_N = None if whole.weights_N is None else whole.weights_N[left]
        dropped = Embeddings(left.sum()[None], whole.values_ND[left], weights_N)
        for name, query in (
            ("without_instruction_tokens", dropped),
            ("without_instruction", model.encode_queries([text])),
        ):
            runs[name][id_] = {p: model.score(query, passages[p]).item() for p in task.candidates[id_]}
    return runs


@pytest.mark.parametrize("head", HEADS)
def test_rankings_with_less_of_the_query_equal_a_loop(
    modernbert: Path, head: Head, tasks: list[str], tmp_path: Path
) -> None:
    logged, module = validate(modernbert, head, tasks, tmp_path)
    written = json.loads((tmp_path / "followir" / "validate" / "diagnostics.json").read_text())
    names = ["without_instruction"] if head == "bi-encoder" else ["without_instruction", "without_instruction_tokens"]
    for path in tasks:
        task = load_task(path)
        runs = slow_runs(module, task)
        for name in names:
            expected = evaluate_run(runs[name], task.qrels, task.changed, task.name, task.metric)
            for key in ("p_mrr", "score_b"):
                assert written["tasks"][task.name][f"{name}/{key}"] == pytest.approx(expected[key], abs=1e-3)
    assert figures(logged)["without_instruction/p_mrr"] == 0.0  # original and changed are one query
    if head != "bi-encoder":
        assert figures(logged)["without_instruction_tokens/p_mrr"] != 0.0


@pytest.mark.parametrize("head", HEADS)
def test_what_is_logged(modernbert: Path, head: Head, tasks: list[str], tmp_path: Path) -> None:
    logged, module = validate(modernbert, head, tasks, tmp_path)
    found = figures(logged)
    assert {"effective_rank", "mean_cosine", "cost"} <= found.keys()
    assert 1 <= found["effective_rank"] <= (32 if head == "bi-encoder" else module.retriever.pooling.dim)  # type: ignore[operator]
    assert 0 < found["cost"] < 100
    if head == "bi-encoder":
        assert not any(name in found for name in SHARES)
        return
    assert sum(found[name] for name in SHARES) == pytest.approx(100, abs=1e-3)
    assert found["score_share/expansion"] == 0
    own = "weighted" if head == "weighted" else "maxsim"
    for key in ("p_mrr", "score_b"):
        assert found[f"scorer/{own}/{key}"] == pytest.approx(logged[f"followir/{key}"], abs=1e-4)
    assert ("negative_weight" in found) == (head == "weighted")
    assert ("scorer/weighted/p_mrr" in found) == (head == "weighted")


def test_it_changes_nothing_of_the_benchmark(modernbert: Path, tasks: list[str], tmp_path: Path) -> None:
    logged, module = validate(modernbert, "weighted", tasks, tmp_path / "with")
    without = trainer(tmp_path / "without", FollowIRValidation(tasks))
    without.validate(module, synthetic_data(), verbose=False)
    for name, value in without.callback_metrics.items():
        assert logged[name] == float(value)
    runs = [(tmp_path / each / "followir" / "validate" / "food.trec").read_text() for each in ("with", "without")]
    assert runs[0] == runs[1]


def rank_figures(backbone: Path, tasks: list[str], folder: Path) -> dict[str, float]:
    return figures(validate(backbone, "weighted", tasks, folder)[0])


def test_two_ranks_give_the_figures_of_one(modernbert: Path, tasks: list[str], tmp_path: Path) -> None:
    one = rank_figures(modernbert, tasks, tmp_path / "one")
    first, second = on_ranks(2, rank_figures, modernbert, tasks, tmp_path / "two")
    assert first == second
    del one["cost"], first["cost"]
    assert first == pytest.approx(one, abs=1e-3)


def test_it_is_logged_with_every_validation_of_a_fit(
    modernbert: Path, tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a collapse is told, after the first step only: some encoders begin with embeddings that look alike."""
    monkeypatch.setattr(diagnostics, "COLLAPSED", -1.0)
    fitting = trainer(tmp_path, FollowIRDiagnostics(), FollowIRValidation(tasks[:1]), max_steps=1, val_check_interval=1)
    with pytest.warns(UserWarning, match=r"collapse: .* cosine of .*: lower model\.optimizer\.learning_rate") as told:
        fitting.fit(retriever(modernbert, "maxsim"), synthetic_data())
    assert sum("collapse" in str(each.message) for each in told) == 1
    for step in (0, 1):
        record = json.loads((tmp_path / "followir" / f"step-{step:08d}" / "diagnostics.json").read_text())
        assert record["step"] == step
        assert set(record["tasks"]) == {"travel"}


def test_a_checkpoint_that_is_validated_has_the_step_and_the_alarm_of_its_training(
    modernbert: Path, tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "COLLAPSED", -1.0)
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(retriever(modernbert), synthetic_data())
    fitting.save_checkpoint(tmp_path / "two.ckpt")
    with pytest.warns(UserWarning, match="collapse: "):
        validate(modernbert, "bi-encoder", tasks[:1], tmp_path, ckpt_path=tmp_path / "two.ckpt")
    for name in ("metrics", "diagnostics"):
        assert json.loads((tmp_path / "followir" / "validate" / f"{name}.json").read_text())["step"] == 2


@pytest.mark.parametrize("settings", [{"smooth_temperature": 0.0}, {"top_k": 0}])
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="allowed is more than 0"):
        FollowIRDiagnostics(**settings)
