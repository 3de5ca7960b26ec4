"""A teacher's scores from the column of a table to the loss: with their passages, or refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Head, Recorder, retriever, trainer
from test_datamodule import open_data
from transformers import PreTrainedTokenizerBase

from ifir_lightning.callbacks.teacher import TeacherFigures, score_span
from ifir_lightning.data.collate import id_digest
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.formats import open_table, to_row
from ifir_lightning.data.sampling import GroupSampler
from ifir_lightning.data.synthetic import training_rows
from ifir_lightning.distillation import KLDivergence, MarginMSE
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE, Loss, WeightedSum
from ifir_lightning.models.pooling import CLSPooling, MeanPooling, Pooling, Projected, TokenProjection
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, Scorer, WeightedMaxSim
from ifir_lightning.records import Batch, Embeddings, Passage, Row, row_passages

NUM_ROWS = 16


def score_of(passage_id: str) -> float:
    """A teacher that can be asked again."""
    return (id_digest(passage_id) % 1000) / 100 - 5


def taught(record: dict[str, Any]) -> dict[str, Any]:
    names = ("positive_passages", "new_negatives", "negative_passages")
    return record | {"teacher_scores": [score_of(p["docid"]) for name in names for p in record[name]]}


def write(folder: Path, records: list[dict[str, Any]] | None = None) -> str:
    records = [taught(record) for record in training_rows(NUM_ROWS)] if records is None else records
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(folder / "train.jsonl")


def fit(
    path: str, backbone: Path, folder: Path, loss: Loss, group_size: int = 4, head: Head = "bi-encoder"
) -> Recorder:
    recorder, data = Recorder(), PromptrieverData(path, 4, GroupSampler(group_size=group_size))
    figures = [TeacherFigures()] if loss.needs_teacher else []
    trainer(folder, *figures, recorder, max_steps=3).fit(retriever(backbone, head, loss=loss), data)
    return recorder


@pytest.mark.parametrize("strategy", ["shuffled_window", "random", "top", "top_k_random"])
def test_scores_follow_their_passages_through_every_choice(strategy: Any) -> None:
    """Two positives, a positive among the negatives, spare instruction negatives, and repeats."""
    passages = {letter: tuple(Passage(f"{letter}{i}", "", "") for i in range(5)) for letter in "pih"}
    row = Row("q", "query", "", passages["p"][:2], (*passages["h"], passages["p"][1]), passages["i"])
    scores = tuple(score_of(passage.id) for passage in row_passages(row))
    row = Row(**(vars(row) | {"teacher_scores": scores}))
    top_k = 3 if strategy == "top_k_random" else None
    seen = set()
    for group_size in (1, 4, 8, 20):
        for epoch in range(6):
            group = GroupSampler(group_size, strategy=strategy, top_k=top_k)(row, 3, epoch)
            assert group.teacher_scores == tuple(score_of(passage.id) for passage in group.passages)
            seen |= {passage.id for passage in group.passages}
    assert len(seen) == 12


def test_a_batch_holds_the_scores_of_its_passages(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write(tmp_path)
    batches = batches_of(path, tokenizer, needed=True)
    ids = {id_digest(p.id): p.id for row in rows_of(path) for p in row_passages(row)}
    for batch in batches:
        assert batch.teacher_QG is not None
        expected = [score_of(ids[digest]) for digest in batch.passage_ids_P.tolist()]
        assert batch.teacher_QG.flatten().tolist() == pytest.approx(expected, rel=1e-6)
        assert batch.teacher_QG.shape == (4, 5)
        assert batch.to("cpu").teacher_QG is not None
    with_workers = batches_of(path, tokenizer, needed=True, num_workers=2)
    assert all(torch.equal(a.teacher_QG, b.teacher_QG) for a, b in zip(batches, with_workers, strict=True))  # type: ignore[arg-type]


def test_without_a_distilling_loss_or_a_column_there_are_none(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert {batch.teacher_QG for batch in batches_of(write(tmp_path), tokenizer, needed=False)} == {None}
    bare = write(tmp_path, list(training_rows(NUM_ROWS)))
    assert {batch.teacher_QG for batch in batches_of(bare, tokenizer, needed=False)} == {None}


def rows_of(path: str) -> list[Row]:
    return [to_row(record) for record in open_table(path)]


def batches_of(path: str, tokenizer: PreTrainedTokenizerBase, needed: bool, **settings: Any) -> list[Batch]:
    data = open_data(path, tokenizer, **settings)
    data.teaches = needed
    return list(data.train_dataloader())


def test_scores_without_a_loss_that_distils_are_a_warning(
    modernbert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(write(tmp_path), modernbert, tmp_path, InfoNCE())
    assert "its teacher_scores are not used: model.loss does not distil" in caplog.text
    caplog.clear()
    fit(write(tmp_path), modernbert, tmp_path, KLDivergence())
    fit(write(tmp_path, list(training_rows(NUM_ROWS))), modernbert, tmp_path, InfoNCE())
    assert "teacher_scores" not in caplog.text


@pytest.mark.parametrize("loss", [KLDivergence(), MarginMSE(), WeightedSum([InfoNCE(), KLDivergence()])])
def test_a_loss_that_distils_without_scores_is_refused(modernbert: Path, tmp_path: Path, loss: Loss) -> None:
    with pytest.raises(
        InputError,
        match=rf"model.loss {type(loss).__name__} learns from .* no column teacher_scores; .* set data.teacher_scores",
    ):
        fit(write(tmp_path, list(training_rows(NUM_ROWS))), modernbert, tmp_path, loss)


def test_a_group_of_one_teaches_nothing(modernbert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"group_size is 1; .* allowed is 2 or more"):
        fit(write(tmp_path), modernbert, tmp_path, KLDivergence(), group_size=1)


@pytest.mark.parametrize("fault", ["short", "long", "missing", "nan", "null"])
def test_faulty_scores_are_refused_with_their_row(modernbert: Path, tmp_path: Path, fault: str) -> None:
    records = [taught(record) for record in training_rows(NUM_ROWS)]
    scores = records[5]["teacher_scores"]
    changed = {
        "short": scores[:-1],
        "long": [*scores, 1.0],
        "missing": None,
        "nan": [*scores[:-1], math.nan],
        "null": [*scores[:-1], None],
    }
    records[5]["teacher_scores"] = changed[fault]
    with pytest.raises(InputError, match=r"row 5 has no whole list of teacher_scores \(1 of 16 rows\)"):
        fit(write(tmp_path, records), modernbert, tmp_path, KLDivergence())


FIGURES = {f"train/teacher/{name}" for name in ("entropy", "agreement", "gap", "largest_probability")}
REACHABLE = "train/teacher/reachable_probability"


@pytest.mark.parametrize("head", ["bi-encoder", "maxsim"])
def test_figures_that_are_logged(modernbert: Path, tmp_path: Path, head: Head) -> None:
    """With KLDivergence alone the gap is the loss; bounded scores at temperature 0.5 span 4."""
    recorder = fit(write(tmp_path), modernbert, tmp_path, KLDivergence(0.5, 2.0), head=head)
    for metrics in recorder.metrics:
        assert metrics.keys() >= FIGURES | {REACHABLE}
        assert metrics["train/teacher/gap"] == pytest.approx(metrics["train/loss"], rel=1e-5)
        assert metrics[REACHABLE] == pytest.approx(1 / (1 + 3 * math.exp(-4)), rel=1e-5)
        assert 0 < metrics["train/teacher/entropy"] < math.log(4)
        assert metrics["train/teacher/agreement"] in (0, 0.25, 0.5, 0.75, 1)


def test_the_teachers_figures_are_those_of_its_scores(modernbert: Path, tmp_path: Path) -> None:
    """Log 3 for the positive and 0 for three others, in every row: 1/2 and three times 1/6."""
    records = [taught(record) for record in training_rows(NUM_ROWS)]
    for record in records:
        record["teacher_scores"] = [math.log(3)] + [0.0] * (len(record["teacher_scores"]) - 1)
    both = WeightedSum([InfoNCE(), KLDivergence(0.05, normalize_student=True)])
    metrics = fit(write(tmp_path, records), modernbert, tmp_path, both).metrics[-1]
    assert metrics["train/teacher/largest_probability"] == pytest.approx(0.5, rel=1e-5)
    expected = 0.5 * math.log(2) + 0.5 * math.log(6)
    assert metrics["train/teacher/entropy"] == pytest.approx(expected, rel=1e-5)
    assert metrics[REACHABLE] == pytest.approx(1 / (1 + 3 * math.exp(-20)), rel=1e-6)


@pytest.mark.parametrize(
    ("pooling", "scorer", "spans"),
    [
        (MeanPooling(), Cosine(), [2.0, 2.0]),
        (TokenProjection(), MaxSim("mean"), [2.0, 2.0]),
        (TokenProjection(), MaxSim("sum"), [6.0, 10.0]),
        (Projected(CLSPooling(), normalize=True), MaxSim("sum"), [2.0, 2.0]),
        (TokenProjection(normalize=False), MaxSim("sum"), None),
        (TokenProjection(token_weights=True), WeightedMaxSim("mean"), None),
        (MeanPooling(), Dot(), None),
    ],
)
def test_the_span_of_scores(pooling: Pooling, scorer: Scorer, spans: list[float] | None) -> None:
    """Queries of 3 and 5 tokens."""
    found = score_span(pooling, scorer, torch.tensor([3, 5]))
    assert (None if found is None else found.tolist()) == spans


def test_figures_without_a_distilling_loss_are_refused(modernbert: Path, tmp_path: Path) -> None:
    data = PromptrieverData(write(tmp_path), 4, GroupSampler(group_size=4))
    with pytest.raises(InputError, match=r"model.loss is InfoNCE; allowed is one of them"):
        trainer(tmp_path, TeacherFigures(), max_steps=1).fit(retriever(modernbert), data)


def test_scores_at_both_ends_of_the_span() -> None:
    """Three query tokens that equal a passage's one, or its opposite."""
    queries = Embeddings(torch.tensor([3]), torch.tensor([[0.6, 0.8]] * 3))
    passages = Embeddings(torch.tensor([1, 1]), torch.tensor([[0.6, 0.8], [-0.6, -0.8]]))
    for scorer in (MaxSim("sum"), MaxSim("mean")):
        best, worst = scorer(queries, passages)[0].tolist()
        assert best - worst == pytest.approx(score_span(TokenProjection(), scorer, queries.lengths_B))
