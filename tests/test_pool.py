"""What a pool of passages holds, what of it is counted and left out, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tables import RECORDS, changed, plain, write_jsonl

from ifir_lightning.data.formats import open_table
from ifir_lightning.data.pool import read_pool, table_pool
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage

GOOD = [{"_id": f"x{i}", "title": None, "text": f"passage {i}"} for i in range(3)]


def test_left_out_passages_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = [{"_id": "y", "text": "passage 0"}, {"_id": "z", "text": " "}, {"_id": "e", "text": ""}, GOOD[1]]
    path = write_jsonl(tmp_path / "pool.jsonl", [*GOOD, *others])
    with caplog.at_level("INFO"):
        assert read_pool(str(path)) == [Passage(f"x{i}", "", f"passage {i}") for i in range(3)]
    assert caplog.messages == [f"pool {path}: left out are 1 ids with a text that another has, and 2 without text"]


def test_one_id_with_two_texts_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", [{"id": i % 10, "text": f"passage {i}"} for i in range(40)])
    with pytest.raises(InputError, match=r"pool\.jsonl: 10 ids have more than one text \(first '0'\); allowed is one"):
        read_pool(str(path))


def test_of_a_table_the_first_text_is_taken_and_the_ids_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = changed(0, negative_passages=[{**plain("j"), "text": "other"}])
    path = str(write_jsonl(tmp_path / "train.jsonl", records))
    texts = {passage.id: passage.text for passage in table_pool(open_table(path), path)}
    assert texts["j"] == "other"
    assert caplog.messages == [
        f"pool {path}: 1 ids have more than one text (first 'j'): the first of each can be found"
    ]
    whole = str(write_jsonl(tmp_path / "whole.jsonl", RECORDS))
    assert [passage.id for passage in table_pool(open_table(whole), whole)] == list("abcdefgj")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([1], r"line 4 is no JSON object: '\[1\]'; allowed are intact \.jsonl files"),
        ("s", "line 4 is no JSON object"),
        ({"_id": "s", "text": "a \ud800"}, "line 4 is not one JSON object in Unicode .*surrogates not allowed"),
        ({"_id": "t", "text": "b", "title": 5}, "'t' has title 5; allowed are a string and null: correct it"),
        ({"_id": "t", "text": "b", "title": float("nan")}, "'t' has title nan; allowed are"),
        ({"_id": "t", "text": 5}, "has the columns _id, text; needed are text, a string, and one of docid, _id, id"),
        ({"_id": ["t"], "text": "b"}, "has the columns _id, text; needed are"),
    ],
)
def test_records_that_hold_no_passage_are_refused(tmp_path: Path, record: Any, says: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [*GOOD, record]))
    with pytest.raises(InputError, match=rf"pool\.jsonl: .*{says}") as caught:
        read_pool(str(path))
    assert "\n" not in str(caught.value)
