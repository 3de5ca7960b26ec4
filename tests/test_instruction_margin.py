"""The instruction-margin probe: rows that training never takes, margins against a loop, the picture under p-MRR."""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from matplotlib.figure import Figure
from ranks import on_ranks
from small import HEADS, Head, Recorder, retriever, synthetic_data, trainer, write_task

from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.callbacks.margin import NAMES, InstructionMarginProbe
from ifir_lightning.data import formats
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.held_out import held_out_rows
from ifir_lightning.errors import InputError
from ifir_lightning.instruction_margin import instruction_margins
from ifir_lightning.records import Passage, Row


@pytest.fixture
def data() -> PromptrieverData:
    opened = synthetic_data(num_rows=200)
    opened.setup("fit")
    return opened


def test_the_held_out_queries_follow_from_their_texts_alone(data: PromptrieverData) -> None:
    flags = held_out_rows(data.table, 0.2)
    for query, flag in zip(data.table["only_query"], flags, strict=True):
        digest = hashlib.blake2b(query.encode(), digest_size=8).hexdigest()
        assert flag == (int(digest, 16) < 0.2 * 2**64)
    assert 0.1 < flags.mean() < 0.3
    assert not (flags & ~held_out_rows(data.table, 0.3)).any()
    backwards = datasets.Dataset.from_list([{"only_query": text} for text in reversed(data.table["only_query"])])
    assert held_out_rows(backwards, 0.2).tolist() == flags[::-1].tolist()


def test_the_rows_of_a_query_go_together_though_each_has_an_id_of_its_own() -> None:
    rows = [
        {"query_id": f"{number}-{kind}", "query": f"query {number}{kind}", "only_instruction": kind}
        for number in range(40)
        for kind in ("", " about cost", " about rooms")
    ]
    by_query = held_out_rows(datasets.Dataset.from_list(rows), 0.5).reshape(40, 3)
    assert (by_query.all(1) | ~by_query.any(1)).all()
    assert 5 < by_query[:, 0].sum() < 35


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_that_cannot_be(data: PromptrieverData, share: float) -> None:
    with pytest.raises(InputError, match=r"held-out share .*: allowed is more than 0 and less than 1"):
        data.hold_out(share)


def test_no_epoch_takes_a_held_out_row(data: PromptrieverData) -> None:
    flags = held_out_rows(data.table, 0.2)
    rows = data.hold_out(0.2)
    assert sorted(rows.tolist()) == np.flatnonzero(flags).tolist()
    for epoch in range(3):
        taken = data.epoch_rows(epoch)
        assert sorted(taken.tolist()) == np.flatnonzero(~flags).tolist()
    assert data.batches_per_epoch == int((~flags).sum()) // 4


def test_a_mix_of_rows_is_kept(modernbert: Path) -> None:
    data = synthetic_data(num_rows=200, instruction_fraction=0.5)
    data.setup("fit")
    rows = set(data.hold_out(0.2).tolist())
    taken = data.epoch_rows(0)
    assert not rows & set(taken.tolist())
    assert formats.has_instruction(data.table)[taken].mean() == pytest.approx(0.5, abs=0.01)


def passage(name: str) -> Passage:
    return Passage(name, "", f"a quiet hotel {name} near the harbour")


ROWS = [
    Row("1", "hotel", "no garden", (passage("p"), passage("z")), (passage("h"),), (passage("n"), passage("z"))),
    Row("2", "quiet walks", "with breakfast", (passage("q"),), (), (passage("m"), passage("k"), passage("n"))),
]


@pytest.mark.parametrize("head", HEADS)
def test_margins_equal_a_loop(modernbert: Path, head: Head) -> None:
    model = retriever(modernbert, head).retriever.eval()
    for row, found in zip(ROWS, instruction_margins(model, ROWS).tolist(), strict=True):
        negatives = [each for each in row.instruction_negatives if each.id != "z"]  # z is a positive
        expected = []
        for instruction in (row.instruction, ""):
            query = model.encode_queries([row.query], [instruction])
            scores = [
                model.score(query, model.encode_passages([each])).item() for each in (row.positives[0], *negatives)
            ]
            expected.append([scores[0] - score for score in scores[1:]])
        means = [sum(margins) / len(margins) for margins in expected]
        wins = [float(all(margin > 0 for margin in margins)) for margins in expected]
        assert found == pytest.approx(means + wins, abs=1e-5)
        assert means[0] != means[1]


def fit(backbone: Path, folder: Path, task: str) -> tuple[list[dict[str, float]], list[list[int]]]:
    """Two steps; the records of the probe, and the rows of every batch."""
    recorder, probe = Recorder(), InstructionMarginProbe(share=0.5, num_rows=5)
    callbacks = (recorder, probe, FollowIRValidation([task]))
    trainer(folder, *callbacks, max_steps=2, val_check_interval=2).fit(
        retriever(backbone, "weighted"), synthetic_data(num_rows=40)
    )
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("followir/step-*/probe.json"))]
    return records, [rows for _, rows in recorder.rows]


def test_a_fit_probes_before_the_first_step_and_at_each_validation(
    modernbert: Path, tmp_path: Path, data: PromptrieverData, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args: (drawn.append(self.axes), save(self, *args)))
    records, rows = fit(modernbert, tmp_path, write_task(tmp_path / "travel"))
    assert [record["step"] for record in records] == [0, 2]
    assert [record["num_rows"] for record in records] == [5, 5]
    assert records[0]["margin"] != records[1]["margin"]
    table = formats.open_table("synthetic:40")
    assert not held_out_rows(table, 0.5)[[row for batch in rows for row in batch]].any()
    *_, margin, accuracy = drawn[-1]
    for axes, key in ((margin, "margin"), (accuracy, "accuracy")):
        lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        assert lines == [([0, 2], [record[name] for record in records]) for name in (key, f"{key}_without_instruction")]


def test_the_numbers_are_means_over_held_out_rows_with_instruction_negatives(modernbert: Path, tmp_path: Path) -> None:
    records, _ = fit(modernbert, tmp_path, write_task(tmp_path / "travel"))
    table = formats.open_table("synthetic:40")
    rows = [formats.to_row(table[int(number)]) for number in np.flatnonzero(held_out_rows(table, 0.5))]
    probed = [row for row in rows if row.instruction_negatives][:5]
    means = instruction_margins(retriever(modernbert, "weighted").retriever.eval(), probed).mean(0) * 1.0
    expected = dict(zip(NAMES, (means * means.new_tensor([1, 1, 100, 100])).tolist(), strict=True))
    assert {name: records[0][name] for name in NAMES} == pytest.approx(expected, abs=1e-4)


def test_two_ranks_share_the_rows(modernbert: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "travel")
    (one, _), (two, _) = (
        fit(modernbert, tmp_path / "one", task),
        on_ranks(2, fit, modernbert, tmp_path / "two", task)[0],
    )
    assert [record["step"] for record in two] == [0, 2]
    assert two[0] == pytest.approx(one[0], abs=1e-4)


def test_a_table_without_such_rows_is_refused_before_training(modernbert: Path, tmp_path: Path) -> None:
    data = synthetic_data(num_rows=40, rows="without_instruction")
    with pytest.raises(InputError, match=r"no held-out row of synthetic:40 has an instruction .*: raise it"):
        trainer(tmp_path, InstructionMarginProbe(share=0.5), max_steps=1).fit(retriever(modernbert), data)


def test_without_a_task_of_followir_it_would_see_nothing(modernbert: Path, tmp_path: Path) -> None:
    tasks = ["beir:tests/beir"]
    observed = trainer(tmp_path, InstructionMarginProbe(share=0.5), FollowIRValidation(tasks), max_steps=1)
    says = r"InstructionMarginProbe of trainer.callbacks would see nothing: .*beir.* allowed is one or more: name one"
    with pytest.raises(InputError, match=says):
        observed.fit(retriever(modernbert), synthetic_data(num_rows=40))
    with pytest.warns(UserWarning, match=says):
        observed.validate(retriever(modernbert), synthetic_data(), verbose=False)


def test_validate_reads_no_table(modernbert: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "travel")
    validating = trainer(tmp_path, InstructionMarginProbe(), FollowIRValidation([task]))
    validating.validate(retriever(modernbert), synthetic_data(), verbose=False)
    assert not any("probe" in name for name in validating.callback_metrics)


def test_a_run_goes_on_with_the_rows_that_it_began_with(modernbert: Path, tmp_path: Path) -> None:
    first = trainer(tmp_path, InstructionMarginProbe(share=0.5), max_steps=1)
    first.fit(retriever(modernbert), synthetic_data(num_rows=40))
    first.save_checkpoint(tmp_path / "first.ckpt")
    again, recorder = InstructionMarginProbe(share=0.5), Recorder()
    settings = {"ckpt_path": str(tmp_path / "first.ckpt"), "weights_only": False}
    trainer(tmp_path, again, recorder, max_steps=3).fit(retriever(modernbert), synthetic_data(num_rows=40), **settings)
    assert len(recorder.rows) == 2
    for callbacks in ([], [InstructionMarginProbe(share=0.2)]):
        with pytest.raises(InputError, match=r"rows to train on is \d+, the checkpoint was written with \d+"):
            trainer(tmp_path, *callbacks, max_steps=3).fit(
                retriever(modernbert), synthetic_data(num_rows=40), **settings
            )
