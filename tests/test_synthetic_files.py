"""The synthetic world as files: published layouts, the tokenizer, the command that writes them."""

import shlex
from pathlib import Path

import pytest
from datasets import Value, load_dataset
from test_synthetic import texts_of
from transformers import AutoTokenizer

from ifir_lightning.commands.synthesize import synthesize
from ifir_lightning.data.synthetic import TASKS, build_tokenizer, task_tables, training_rows, write_world
from ifir_lightning.errors import InputError

ROOT = Path(__file__).parents[1]


# Layouts

SCORED = {"docid": "string", "explanation": "string", "followir_score": "float64", "joint_id": "string"}
SCORED |= {"text": "string", "title": "string"}
TRAINING_COLUMNS = {
    "query_id": "string",
    "query": "string",
    "positive_passages": SCORED,
    "negative_passages": {"docid": "string", "text": "string", "title": "string"},
    "only_instruction": "string",
    "only_query": "string",
    "has_instruction": "bool",
    "new_negatives": SCORED,
}
TASK_COLUMNS = {  # config: (split, columns)
    "corpus": ("corpus", {"_id": "string", "title": "string", "text": "string"}),
    "queries": ("queries", {"_id": "string", "text": "string"}),
    "instruction": ("instruction", {"query-id": "string", "instruction": "string"}),
    "default": ("test", {"query-id": "string", "corpus-id": "string", "score": "float64"}),
    "qrel_diff": ("qrel_diff", {"query-id": "string", "corpus-ids": ["string"]}),
    "top_ranked": ("top_ranked", {"query-id": "string", "corpus-ids": ["string"]}),
}


def named_types(feature: object) -> object:
    if isinstance(feature, Value):
        return feature.dtype
    if isinstance(feature, dict):
        return {name: named_types(value) for name, value in feature.items()}
    inner = named_types(feature.feature)  # type: ignore[attr-defined]
    return inner if isinstance(inner, dict) else [inner]


def test_files_have_the_published_layout_and_hold_the_world(tmp_path: Path) -> None:
    write_world(tmp_path / "world", num_rows=25, seed=3, num_queries=2, num_candidates=30, rows_per_file=10)
    files = sorted((tmp_path / "world/train").iterdir())
    assert [file.name for file in files] == [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    rows = read([str(file) for file in files], tmp_path)
    assert named_types(rows.features) == TRAINING_COLUMNS
    assert list(rows) == list(training_rows(25, seed=3))
    for name in TASKS:
        tables = task_tables(name, seed=3, num_queries=2, num_candidates=30)
        for config, (split, columns) in TASK_COLUMNS.items():
            path = tmp_path / f"world/tasks/{name}/{config}/{split}-00000-of-00001.parquet"
            records = read([str(path)], tmp_path)
            assert named_types(records.features) == columns
            assert list(records) == tables[config]


def read(paths: list[str], cache: Path):
    return load_dataset("parquet", data_files=paths, split="train", cache_dir=str(cache / "cache"))


def test_task_ids_are_those_of_followir() -> None:
    tables = task_tables("travel", num_queries=2)
    ids = ["301-og", "301-changed", "302-og", "302-changed"]
    assert [record["_id"] for record in tables["queries"]] == ids
    assert [record["query-id"] for record in tables["instruction"]] == ids
    assert [record["query-id"] for record in tables["top_ranked"]] == ids
    assert [record["query-id"] for record in tables["qrel_diff"]] == ["301", "302"]
    assert {record["score"] for record in tables["default"]} == {1.0}


# Tokenizer


def test_the_tokenizer_knows_every_word_of_the_world() -> None:
    tokenizer = build_tokenizer()
    texts = [text for row in training_rows(500) for text in (row["query"], *texts_of(row))]
    texts += [record["text"] for name in TASKS for record in task_tables(name)["corpus"]]
    tokens = {token for ids in tokenizer(texts)["input_ids"] for token in tokenizer.convert_ids_to_tokens(ids)}
    assert "[UNK]" not in tokens
    assert not any(token.startswith("##") for token in tokens)
    assert tokenizer.unk_token_id not in tokenizer("Zebras, quoted: 'x-ray #42' (50%)!")["input_ids"]


def test_the_tokenizer_of_the_quickstart_is_the_built_one() -> None:
    """Made by ``build_tokenizer().save_pretrained("configs/quickstart-tokenizer")``."""
    built, committed = build_tokenizer(), AutoTokenizer.from_pretrained(ROOT / "configs/quickstart-tokenizer")
    texts = [text for row in training_rows(50) for text in (row["query"], *texts_of(row))]
    assert committed(texts)["input_ids"] == built(texts)["input_ids"]
    assert committed.get_vocab() == built.get_vocab()
    assert committed.special_tokens_map == built.special_tokens_map
    assert committed.model_max_length == built.model_max_length == 512
    assert built("Lisbon")["input_ids"] == [
        built.cls_token_id,
        built.get_vocab()["lisbon"],
        built.sep_token_id,
    ]
    assert (built.pad_token_id, built.padding_side) == (0, committed.padding_side)


# The command


def test_synthesize_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize(str(tmp_path / "world"), num_rows=10, num_queries=1, num_candidates=30)
    said = capsys.readouterr().out
    row = next(row for row in training_rows(10) if row["has_instruction"])
    assert row["only_instruction"] in said
    assert row["new_negatives"][0]["text"] in said
    assert f"{tmp_path / 'world'}/train" in said
    synthesize(str(tmp_path / "a world"), num_rows=10, num_queries=1, num_candidates=30)
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[-1] == f"{tmp_path}/a world/train"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_rows": 0}, "num_rows is 0, allowed are 1 and more"),
        ({"num_queries": 0}, "num_queries is 0, allowed are 1 to 210"),
        ({"num_queries": 211}, "num_queries is 211, allowed are 1 to 210"),
        ({"num_candidates": 29}, "num_candidates is 29, allowed are 30 to 1000"),
    ],
)
def test_a_wrong_number_is_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(str(tmp_path / "world"), **wrong)
    assert not (tmp_path / "world").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder: name a new folder, or empty this one"):
        synthesize(str(tmp_path), num_rows=1)
    for output in ("notes.txt", "notes.txt/world"):
        with pytest.raises(InputError, match=r"--output .*: .*notes.txt is no folder to write in; allowed is one"):
            synthesize(str(tmp_path / output), num_rows=1)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="'sport' is not one of travel, food, health"):
        task_tables("sport")
