"""What a table or a setting can have wrong is said in ``setup``, before any step, in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import retriever, synthetic_data, trainer

from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.sampling import GroupSampler
from ifir_lightning.data.synthetic import training_rows
from ifir_lightning.errors import InputError

Record = dict[str, Any]
NUM_ROWS = 8


def write(folder: Path, first: Record | None = None, without: str = "") -> str:
    """A table whose first row is changed by ``first``, and without a column."""
    records = list(training_rows(NUM_ROWS))
    records[0] |= first or {}
    lines = (json.dumps({name: value for name, value in record.items() if name != without}) for record in records)
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def set_up(path: str, batch: int = 4, group_size: int = 3, **settings: Any) -> None:
    PromptrieverData(path, batch, GroupSampler(group_size=group_size), **settings).setup("fit")


@pytest.mark.parametrize(
    ("first", "without", "words"),
    [
        ({"positive_passages": []}, "", ("row 0", "has no positives", "add it or remove")),
        ({"only_query": " ", "query": ""}, "", ("row 0", "empty query", "add it or remove")),
        ({}, "new_negatives", ("lacks new_negatives", "add what is missing")),
        ({}, "positive_passages", ("lacks positive_passages", "add what is missing")),
        ({"negative_passages": [], "new_negatives": []}, "", ("group_size 3", "no negative", "set group_size to 1")),
    ],
)
def test_faults_of_a_table(tmp_path: Path, first: Record, without: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        set_up(write(tmp_path, first, without))
    assert_one_line(error.value, words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group_size": 40}, ("group_size 40", "more than any row", "choose 1 to")),
        ({"batch": 9}, ("batch size 9", "8 rows", "lower the batch size")),
        ({"batch": 8, "rows": "with_instruction"}, ("batch size 8", "rows", "lower the batch size")),
        ({"batch": 0}, ("data.global_batch_size is 0", "1 or more")),
        ({"rows": "some"}, ("rows 'some'", "with_instruction")),
        ({"instruction_fraction": 1.5}, ("instruction_fraction 1.5", "between 0 and 1")),
        ({"seed": -1}, ("seed -1", "between 0 and")),
    ],
)
def test_faults_of_settings(tmp_path: Path, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    path = write(tmp_path)
    with pytest.raises(InputError) as error:
        set_up(path, **settings)
    assert_one_line(error.value, words)


def test_a_missing_path() -> None:
    with pytest.raises(InputError) as error:
        set_up("no/such/folder/train.parquet")
    assert_one_line(error.value, ("no/such/folder/train.parquet", "allowed are", "correct the path"))


def test_a_batch_that_the_ranks_cannot_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ifir_lightning.distributed.world_size", lambda: 3)
    monkeypatch.setattr("ifir_lightning.distributed.rank", lambda: 2)
    with pytest.raises(InputError) as error:
        set_up(write(tmp_path))
    assert_one_line(error.value, ("batch size 4", "3 ranks", "multiple of 3"))


def test_too_few_negatives_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = training_rows(1).__next__()["negative_passages"][:1]
    set_up(write(tmp_path, {"negative_passages": few, "new_negatives": []}))
    assert "1 of 8 rows have fewer than 2 negatives: theirs are repeated" in caplog.text


def test_a_row_without_has_instruction_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(write(tmp_path))
    *before, fourth, fifth = path.read_text("utf-8").splitlines(keepends=True)[:5]
    path.write_text("".join([*before, fourth.replace('"has_instruction"', '"had_instruction"'), fifth]), "utf-8")
    set_up(str(path))
    assert "1 of 5 rows have no has_instruction, the first is row 3: they count as rows without" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [({"batch": 9}, "batch size 9 exceeds the 8 rows"), ({"group_size": 40}, "group_size 40 is more than any row")],
)
def test_fit_ends_before_its_first_step(
    modernbert: Path, tmp_path: Path, data: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = retriever(modernbert)
    monkeypatch.setattr(module, "training_step", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, max_steps=1).fit(module, synthetic_data(num_rows=8, **data))


def assert_one_line(error: InputError, words: tuple[str, ...]) -> None:
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)
