"""Mined negatives equal a slow loop over the whole pool, are continued bit for bit, and train."""

import json
import math
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small import Recorder, retriever, trainer
from tables import REAL_TABLES
from test_teacher_scores import rows_of, write

from ifir_lightning import durable, mining, search
from ifir_lightning.commands.mine import mine
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.formats import open_table
from ifir_lightning.data.pool import read_pool, table_pool
from ifir_lightning.data.sampling import GroupSampler
from ifir_lightning.data.synthetic import training_rows
from ifir_lightning.errors import InputError
from ifir_lightning.export import write_export
from ifir_lightning.mining import Choice, Miner
from ifir_lightning.models.pooling import MeanPooling, TokenProjection
from ifir_lightning.models.scoring import Cosine, MaxSim
from ifir_lightning.records import Embeddings, Passage, Row
from ifir_lightning.retriever import Retriever, load_retriever
from ifir_lightning.text_format import TextSettings

NUM_ROWS = 10
A, B, C, D, E = (Passage(letter, "", f"text {letter}") for letter in "abcde")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "PASSAGES_PER_SLICE", 32)
    monkeypatch.setattr(search, "QUERIES_PER_BLOCK", 4)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, modernbert: Path) -> dict[str, str]:
    """A bi-encoder and a late-interaction retriever as folders."""
    folder = tmp_path_factory.mktemp("heads")
    for name, pooling, scorer in (("bi", MeanPooling(), Cosine()), ("late", TokenProjection(dim=16), MaxSim())):
        write_export(load_retriever(str(modernbert), pooling, scorer), folder / name, card="")
    return {name: str(folder / name) for name in ("bi", "late")}


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write(tmp_path, list(training_rows(NUM_ROWS)))


def scores_of(model: Retriever, row: Row, passages: list[Passage]) -> list[float]:
    """One passage at a time; each is encoded alone, once."""
    queries = model.encode_queries([row.query], [row.instruction])
    return [model.score(queries, encoded(model, passage)).item() for passage in passages]


def encoded(model: Retriever, passage: Passage, known: dict[Any, Embeddings] = {}) -> Embeddings:  # noqa: B006
    key = id(model), passage
    if key not in known:
        known[key] = model.encode_passages([passage])
    return known[key]


@cache
def loaded(folder: str) -> Retriever:
    return load_retriever(folder)


def slow_negatives(model: Retriever, row: Row, pool: list[Passage], choice: Choice) -> list[str]:
    own = {p.id for p in (*row.positives, *row.instruction_negatives)}
    scores = scores_of(model, row, pool)
    ranking = sorted((-score, place) for place, score in enumerate(scores) if pool[place].id not in own)
    low = min(scores_of(model, row, list(row.positives)))
    kept = []
    for rank, (negative_score, place) in enumerate(ranking, start=1):
        score = -negative_score
        in_range = choice.rank_from <= rank <= choice.rank_to
        absolute = choice.absolute_margin is None or score < low - choice.absolute_margin
        relative = choice.relative_margin is None or score < low - choice.relative_margin * abs(low)
        if in_range and absolute and relative:
            kept.append(pool[place].id)
    return kept[: choice.num_negatives]


def pool_of(path: str) -> list[Passage]:
    """Positives and hard negatives, each text once."""
    passages = [p for row in rows_of(path) for p in (*row.positives, *row.hard_negatives)]
    return list({(p.title, p.text): p for p in reversed(passages)}.values())[::-1]


@pytest.mark.parametrize("name", ["bi", "late"])
@pytest.mark.parametrize(
    "choice",
    [
        Choice(3, 12, 30),
        Choice(1, 20, 4),
        Choice(1, 20, 30, absolute_margin=0.0),
        Choice(2, 15, 30, relative_margin=0.01),
    ],
    ids=str,
)
def test_mined_negatives_equal_a_slow_loop(
    name: str, choice: Choice, heads: dict[str, str], table: str, tmp_path: Path
) -> None:
    mine(heads[name], table, str(tmp_path / "mined"), choice=choice)
    model, pool = loaded(heads[name]), table_pool(open_table(table), table)
    assert len(pool) > 2 * 32  # more than two slices
    counts = set()
    for old, new in zip(rows_of(table), rows_of(str(tmp_path / "mined")), strict=True):
        found = [passage.id for passage in new.hard_negatives]
        assert found == slow_negatives(model, old, pool, choice)
        assert (new.query_id, new.query, new.instruction) == (old.query_id, old.query, old.instruction)
        assert (new.positives, new.instruction_negatives) == (old.positives, old.instruction_negatives)
        counts.add(len(found))
    assert counts != {0}


def test_ranks_by_hand() -> None:
    ranked = [(A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6), (E, 0.5)]
    assert Choice(2, 4, 30)(ranked, 0.1) == [B, C, D]
    assert Choice(2, 4, 2)(ranked, 0.1) == [B, C]
    assert Choice(4, 100, 30)(ranked, 0.1) == [D, E]
    assert Choice(1, 5, 30, absolute_margin=0.25)(ranked, 0.9) == [D, E]  # below 0.65
    assert Choice(1, 5, 30, absolute_margin=0.0)(ranked, 0.7) == [D, E]  # a tie with the positive is too near
    assert Choice(1, 5, 30, relative_margin=0.2)(ranked, 0.9) == [C, D, E]  # below 0.72
    assert Choice(1, 5, 30, absolute_margin=0.1, relative_margin=0.2)(ranked, 0.9) == [C, D, E]


def test_a_relative_margin_lowers_the_bound_of_a_negative_score_too() -> None:
    """Of -1.0 less 20 % is -1.2."""
    assert Choice(1, 3, 30, relative_margin=0.2)([(A, -1.0), (B, -1.1), (C, -1.3)], -1.0) == [C]


def test_own_passages_are_left_out_by_id_and_by_text(heads: dict[str, str], tmp_path: Path) -> None:
    """The pool holds the positive under another id, and an instruction negative."""
    record = next(r for r in training_rows(NUM_ROWS) if r["has_instruction"])
    path = write(tmp_path, [record])
    (row,) = rows_of(path)
    twin = Passage("twin", row.positives[0].title, row.positives[0].text)
    pool = [twin, row.instruction_negatives[0], *row.hard_negatives]
    corpus = write_corpus(tmp_path / "corpus.jsonl", pool)
    mine(heads["bi"], path, str(tmp_path / "mined"), corpus, Choice(1, len(row.hard_negatives), 30))
    (mined,) = rows_of(str(tmp_path / "mined"))
    assert {p.id for p in mined.hard_negatives} == {p.id for p in row.hard_negatives}


def test_positives_of_rows_that_ask_the_same_are_left_out(heads: dict[str, str], tmp_path: Path) -> None:
    """A query with one positive a row; under an instruction of its own the query asks something else."""
    record = next(r for r in training_rows(NUM_ROWS) if r["has_instruction"])
    again = {**record, "positive_passages": [record["negative_passages"][0]], "negative_passages": []}
    other = {**record, "only_instruction": "near the sea", "query": f"{record['only_query']} near the sea"}
    path = write(tmp_path, [record, again, other])
    rows = rows_of(path)
    pool = [*rows[0].hard_negatives, *rows[0].positives]
    corpus = write_corpus(tmp_path / "corpus.jsonl", pool)
    mine(heads["bi"], path, str(tmp_path / "mined"), corpus, Choice(1, len(pool), 30))
    positives = [rows[0].positives[0].id, rows[1].positives[0].id]
    first, second, third = ({p.id for p in row.hard_negatives} for row in rows_of(str(tmp_path / "mined")))
    assert first == second == {p.id for p in pool} - set(positives)
    assert third == {p.id for p in pool} - {positives[0]}


def test_queries_and_passages_that_limits_cut_are_counted(
    heads: dict[str, str], table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    limits = TextSettings(max_query_length=7, max_passage_length=11)
    mine(heads["bi"], table, str(tmp_path / "mined"), choice=Choice(2, 12), text=limits)
    model, pool = load_retriever(heads["bi"], text=limits), table_pool(open_table(table), table)
    queries = sum(len(model.tokenizer.tokenizer(f"{r.query} {r.instruction}")["input_ids"]) > 7 for r in rows_of(table))
    assert queries > 0
    assert (
        f"the limit of 7 tokens cuts {queries} of {NUM_ROWS} queries, whose instruction stands at their" in caplog.text
    )
    first = pool[:32]
    passages = sum(len(model.tokenizer.tokenizer(f"{p.title} {p.text}")["input_ids"]) > 11 for p in first)
    assert passages > 0
    assert f"searched 32 of {len(pool)} passages; of the last 32 the limit of 11 tokens cut {passages}" in caplog.text


def test_what_comes_next_can_be_copied(
    heads: dict[str, str], table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine(heads["bi"], table, str(tmp_path / "a table"), choice=Choice(2, 12))
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[-1] == f"{tmp_path}/a table"


def test_a_model_with_broken_weights_is_refused(heads: dict[str, str], table: str, tmp_path: Path) -> None:
    model = load_retriever(heads["bi"])
    for parameter in model.parameters():
        parameter.data.mul_(1e36)
    write_export(model, tmp_path / "broken", card="")
    with pytest.raises(InputError, match=r"a score of query '.*' is nan; allowed are finite scores"):
        mine(str(tmp_path / "broken"), table, str(tmp_path / "mined"), choice=Choice(2, 12))


def write_corpus(file: Path, passages: list[Passage]) -> str:
    records = [{"_id": p.id, "title": p.title, "text": p.text} for p in passages]
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
    else:
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_pool_of_its_own(suffix: str, tmp_path: Path) -> None:
    """A text again under another id is left out."""
    path = write_corpus(tmp_path / f"corpus{suffix}", [A, B, Passage("f", "", A.text), C])
    assert read_pool(path) == [A, B, C] == read_pool(str(tmp_path))


def test_the_pool_of_a_table_has_no_instruction_negatives(table: str) -> None:
    pool = table_pool(open_table(table), table)
    broken = {p.id for row in rows_of(table) for p in row.instruction_negatives}
    assert broken
    assert not broken & {p.id for p in pool}
    assert {p.text for p in pool} == {p.text for p in pool_of(table)}


def test_the_negatives_that_are_replaced_are_not_held(
    heads: dict[str, str], table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Row] = []
    monkeypatch.setattr(Miner, "__call__", lambda self, rows, folder: given.extend(rows) or [[] for _ in rows])
    mine(heads["bi"], table, str(tmp_path / "mined"), choice=Choice(3, 20))
    assert given == [replace(row, hard_negatives=()) for row in rows_of(table)]


def test_the_table_is_on_the_disk_before_it_has_its_name(
    heads: dict[str, str], table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: dict[str, bytes] = {}
    monkeypatch.setattr(durable, "flush", lambda path: path.is_dir() or flushed.update({path.name: path.read_bytes()}))
    mine(heads["bi"], table, str(tmp_path / "mined"), choice=Choice(3, 20))
    name = durable.partial_of(tmp_path / "mined" / "train.parquet").name
    assert flushed[name] == (tmp_path / "mined" / "train.parquet").read_bytes()


def test_interrupted_and_continued_gives_the_same_bytes(
    heads: dict[str, str], table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine(heads["late"], table, str(tmp_path / "whole"), choice=Choice(3, 20))
    searched: list[int] = []
    search_slice = mining.Miner._search_slice

    def stop(miner: mining.Miner, blocks: Any, best: Any, places: range, depth: int) -> Any:
        searched.append(places.start)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return search_slice(miner, blocks, best, places, depth)

    monkeypatch.setattr(mining.Miner, "_search_slice", stop)
    with pytest.raises(KeyboardInterrupt):
        mine(heads["late"], table, str(tmp_path / "mined"), choice=Choice(3, 20))
    with pytest.raises(InputError, match=r"neither a .parquet or .jsonl file nor a folder"):
        open_table(str(tmp_path / "mined"))
    mine(heads["late"], table, str(tmp_path / "mined"), choice=Choice(3, 20))
    assert searched[:4] == [0, 32, 64, 64]  # a slice that was searched is not searched again
    assert files(tmp_path / "mined") == files(tmp_path / "whole")
    before = len(searched)
    mine(heads["late"], table, str(tmp_path / "mined"), choice=Choice(3, 20))
    assert len(searched) == before  # nor is a finished table mined again
    assert set(files(tmp_path / "mined")) == {"mining.json", "train.parquet"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_mined_table_trains(heads: dict[str, str], modernbert: Path, table: str, tmp_path: Path) -> None:
    mine(heads["bi"], table, str(tmp_path / "mined"), choice=Choice(2, 12))
    recorder = Recorder()
    data = PromptrieverData(str(tmp_path / "mined"), 5, GroupSampler(group_size=6))
    trainer(tmp_path, recorder, max_steps=4).fit(retriever(modernbert), data)
    assert all(math.isfinite(metrics["train/loss"]) for metrics in recorder.metrics)


def test_teacher_scores_of_the_old_negatives_are_dropped(heads: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path)
    mine(heads["bi"], path, str(tmp_path / "mined"), choice=Choice(2, 12))
    assert "teacher_scores" in open_table(path).column_names
    assert "teacher_scores" not in open_table(str(tmp_path / "mined")).column_names


def test_rows_without_negatives_left_are_a_warning(
    heads: dict[str, str], table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine(heads["bi"], table, str(tmp_path / "mined"), choice=Choice(1, 5, absolute_margin=5.0))
    assert f"{NUM_ROWS} of {NUM_ROWS} rows have no hard negative left" in caplog.text
    assert {len(row.hard_negatives) for row in rows_of(str(tmp_path / "mined"))} == {0}


def test_input_that_is_refused(heads: dict[str, str], table: str, tmp_path: Path) -> None:
    output = str(tmp_path / "mined")
    empty, other = tmp_path / "empty.jsonl", tmp_path / "other.jsonl"
    empty.write_text("")
    other.write_text('{"name": "a", "text": "b"}\n')
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    for pool, message in (
        (empty, "has no passage; allowed is one or more"),
        (other, "has the columns name, text; needed are text, a string, and one of docid, _id, id"),
        (broken, "allowed are intact .parquet files"),
        (tmp_path / "nothing", "is no .jsonl or .parquet file and holds none"),
    ):
        with pytest.raises(InputError, match=message):
            mine(heads["bi"], table, output, str(pool), Choice(1, 1))
    small = write_corpus(tmp_path / "small.jsonl", [A, B, C])
    with pytest.raises(InputError, match=r"the pool has 3 passages, choice.rank_to is 100; allowed is 1 to 3: lower"):
        mine(heads["bi"], table, output, small)
    with pytest.raises(InputError, match="max_tokens is 0; allowed is 1 or more"):
        mine(heads["bi"], table, output, max_tokens=0)
    with pytest.raises(InputError, match="--device nonsense"):
        mine(heads["bi"], table, output, device="nonsense")
    assert not Path(output).exists()
    with pytest.raises(InputError, match=r"small.jsonl is no folder to write in"):
        mine(heads["bi"], table, f"{small}/mined")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_from": 0}, "rank_from is 0"),
        ({"rank_from": 7, "rank_to": 6}, "rank_from is 7 and rank_to 6"),
        ({"num_negatives": 0}, "num_negatives is 0"),
    ],
)
def test_ranks_that_cannot_be(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Choice(**settings)  # type: ignore[arg-type]


def test_a_folder_of_something_else_is_refused(heads: dict[str, str], table: str, tmp_path: Path) -> None:
    output = tmp_path / "mined"
    mine(heads["bi"], table, str(output), choice=Choice(2, 12))
    with pytest.raises(InputError, match="was mined with rank_to 12, now it is 13"):
        mine(heads["bi"], table, str(output), choice=Choice(2, 13))
    with pytest.raises(InputError, match="was mined with checkpoint"):
        mine(heads["late"], table, str(output), choice=Choice(2, 12))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        mine(heads["bi"], table, str(tmp_path / "notes"), choice=Choice(2, 12))


def test_a_damaged_state_is_refused(heads: dict[str, str], table: str, tmp_path: Path) -> None:
    output = tmp_path / "mined"
    mine(heads["bi"], table, str(output), choice=Choice(2, 12))
    (output / "train.parquet").unlink()
    (output / mining.STATE).write_bytes(b"half")
    with pytest.raises(InputError, match=r"cannot be read .* remove the folder"):
        mine(heads["bi"], table, str(output), choice=Choice(2, 12))


@pytest.mark.skipif(not REAL_TABLES.is_dir(), reason=f"no real data at {REAL_TABLES}")
def test_the_real_table_mined_trains(heads: dict[str, str], modernbert: Path, tmp_path: Path) -> None:
    """60 rows of real text; the layout stays, column for column."""
    whole = open_table(str(REAL_TABLES / "train-msmarco-instructions"))
    pq.write_table(whole.data.table.slice(0, 60), tmp_path / "train.parquet")
    path = str(tmp_path / "train.parquet")
    mine(heads["bi"], path, str(tmp_path / "mined"), choice=Choice(5, 40, 10))
    mined = open_table(str(tmp_path / "mined"))
    assert mined.column_names == open_table(path).column_names
    torch.set_num_threads(1)
    recorder = Recorder()
    trainer(tmp_path, recorder, max_steps=2).fit(
        retriever(modernbert), PromptrieverData(str(tmp_path / "mined"), 4, GroupSampler(group_size=6))
    )
    assert len(recorder.metrics) == 2
