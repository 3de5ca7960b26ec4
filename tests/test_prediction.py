"""What ``predict`` refuses before it encodes anything."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import retriever, synthetic_data, trainer

from ifir_lightning.callbacks.prediction import TrecPrediction
from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage

GOOD = {"_id": "a", "text": "hotel"}


def prediction(folder: Path, queries: str, passages: str = json.dumps(GOOD)) -> TrecPrediction:
    (folder / "queries.jsonl").write_text(queries, encoding="utf-8")
    (folder / "passages.jsonl").write_text(passages, encoding="utf-8")
    return TrecPrediction(None, str(folder / "queries.jsonl"), str(folder / "passages.jsonl"), str(folder / "run.trec"))


def test_queries_and_passages(tmp_path: Path) -> None:
    queries = '\ufeff{"_id": 0, "text": "a\u2028b"}\r\n\r\n{"_id": "1", "text": "c", "instruction": "d", "more": [1]}\n'
    passages = '{"_id": "p", "text": "x", "title": null}\n{"_id": "0", "text": "y", "title": "Y"}'
    made = prediction(tmp_path, queries, passages)
    assert made.queries == {"0": ("a\u2028b", ""), "1": ("c", "d")}
    assert made.passages == {"p": Passage("p", "", "x"), "0": Passage("0", "Y", "y")}


@pytest.mark.parametrize(
    ("queries", "says"),
    [
        ("", "the file is empty"),
        ("not json", "line 1 is not one JSON object in Unicode"),
        ("[1]", "line 1 is no JSON object"),
        ('{"_id": "a", "text": "hotel \\ud800"}', "line 1 is not one JSON object in Unicode .*surrogates"),
        *(
            (f"{json.dumps(GOOD)}\n{json.dumps(record)}", f"object 2 {fault}")
            for record, fault in (
                ({"_id": "b"}, "lacks _id or text; both are needed: add them"),
                ({"_id": "b", "text": " "}, "lacks _id or text"),
                ({"text": "x"}, "lacks _id or text"),
                ({"_id": "b", "text": ["x", "y"]}, r"has text \['x', 'y'\]; allowed is a string: correct it"),
                ({"_id": "b", "text": float("nan")}, "has text nan; allowed is a string"),
                (
                    {"_id": "b", "text": "x", "instruction": {"k": 1}},
                    r"has instruction \{'k': 1\}; allowed is a string",
                ),
                ({"_id": "b", "text": "x", "title": 5}, "has title 5; allowed is a string"),
                ({"_id": "b c", "text": "x"}, "has the _id 'b c'; allowed are whole numbers and names without white"),
                ({"_id": ["b"], "text": "x"}, r"has the _id \['b'\]; allowed are"),
                (GOOD, "has the _id 'a' again; allowed is once: rename one"),
            )
        ),
    ],
)
def test_records_that_cannot_be_ranked_are_refused(tmp_path: Path, queries: str, says: str) -> None:
    with pytest.raises(InputError, match=rf"queries\.jsonl: {says}") as caught:
        prediction(tmp_path, queries)
    assert "\n" not in str(caught.value)


def test_more_passages_than_the_metrics_of_a_task_look_at(modernbert: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    lines = [json.dumps({"_id": f"p{number}", "text": f"a quiet hotel {number}"}) for number in range(130)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "garden"}')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tp3\t1\n")
    output = tmp_path / "run.trec"
    for top_k, expected in ((1000, 130), (120, 120), (2, 2)):
        writer = TrecPrediction(task=f"beir:{tmp_path}", output=str(output), top_k=top_k)
        trainer(tmp_path, writer).predict(retriever(modernbert), synthetic_data(), return_predictions=False)
        assert len(output.read_text().splitlines()) == expected


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; allowed is a \.jsonl file"):
        TrecPrediction(queries=f"{tmp_path}/none.jsonl", passages=f"{tmp_path}/none.jsonl")


@pytest.mark.parametrize(
    ("output", "says"),
    [(".", "allowed is a file: rename it"), ("file/run.trec", "file is no folder to write in; allowed is one: choose")],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, output: str, says: str) -> None:
    (tmp_path / "file").touch()
    settings: dict[str, Any] = {"task": "synthetic/food", "output": str(tmp_path / output)}
    with pytest.raises(InputError, match=f"--output {tmp_path}.*{says}"):
        TrecPrediction(**settings)
