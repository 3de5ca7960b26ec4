"""Batches are pure functions of (seed, epoch, number): the same for every number of ranks and workers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from ifir_lightning.data.collate import id_digest
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.sampling import GroupSampler
from ifir_lightning.data.synthetic import TRAIN_SCHEMA, training_rows
from ifir_lightning.records import Batch, Kind
from ifir_lightning.text import TextTokenizer
from ifir_lightning.text_format import TextFormat

NUM_ROWS, BATCH, GROUP = 30, 4, 5


@pytest.fixture
def table(tmp_path: Path) -> str:
    pq.write_table(pa.Table.from_pylist(list(training_rows(NUM_ROWS)), TRAIN_SCHEMA), tmp_path / "train.parquet")
    return str(tmp_path / "train.parquet")


def open_data(path: str, tokenizer: PreTrainedTokenizerBase, epoch: int = 0, **settings: Any) -> PromptrieverData:
    """A data module as a trainer sees it in an epoch."""
    data = PromptrieverData(path, BATCH, GroupSampler(group_size=GROUP), **settings)
    data.setup("fit")
    module = SimpleNamespace(retriever=SimpleNamespace(tokenizer=TextTokenizer(tokenizer, TextFormat())))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        current_epoch=epoch, overfit_batches=0, lightning_module=module, strategy=strategy
    )
    return data


def content(batch: Batch) -> list[Any]:
    """Each query with its group, in plain numbers."""
    groups = zip(
        batch.rows_Q.tolist(),
        (query.input_ids_T.tolist() for query in batch.queries.split(*[1] * len(batch.queries))),
        (group.input_ids_T.tolist() for group in batch.passages.split(*[batch.group_size] * len(batch.queries))),
        batch.passage_ids_P.view(-1, batch.group_size).tolist(),
        batch.kinds_P.view(-1, batch.group_size).tolist(),
        strict=True,
    )
    return list(groups)


def contents(data: PromptrieverData) -> list[list[Any]]:
    return [content(batch) for batch in data.train_dataloader()]


def test_an_epoch_has_every_row_once_in_whole_batches(table: str, tokenizer: PreTrainedTokenizerBase) -> None:
    data = open_data(table, tokenizer)
    batches = contents(data)
    rows = [row for batch in batches for row, *_ in batch]
    assert [len(batch) for batch in batches] == [BATCH] * 7 == [BATCH] * len(data.train_dataloader())
    assert len(set(rows)) == len(rows) == 28
    assert rows == data.epoch_rows(0)[:28].tolist()


def test_the_number_of_workers_changes_nothing(table: str, tokenizer: PreTrainedTokenizerBase) -> None:
    assert contents(open_data(table, tokenizer)) == contents(open_data(table, tokenizer, num_workers=2))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one(
    table: str, tokenizer: PreTrainedTokenizerBase, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(open_data(table, tokenizer))
    monkeypatch.setattr("ifir_lightning.distributed.world_size", lambda: world_size)
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr("ifir_lightning.distributed.rank", lambda rank=rank: rank)
        shares.append(contents(open_data(table, tokenizer)))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [group for place in zip(*parts, strict=True) for group in place] == batch


def test_epochs_differ_in_order_and_in_negatives(table: str, tokenizer: PreTrainedTokenizerBase) -> None:
    first, second, again = (contents(open_data(table, tokenizer, epoch)) for epoch in (0, 1, 1))
    assert second == again
    assert [[row for row, *_ in batch] for batch in first] != [[row for row, *_ in batch] for batch in second]
    negatives = [{row: ids[1:] for batch in epoch for row, _, _, ids, _ in batch} for epoch in (first, second)]
    assert any(negatives[0][row] != negatives[1][row] for row in negatives[0].keys() & negatives[1].keys())


def test_a_batch_is_group_major_with_the_positive_first(table: str, tokenizer: PreTrainedTokenizerBase) -> None:
    data = open_data(table, tokenizer)
    rows, texts = list(training_rows(NUM_ROWS)), TextTokenizer(tokenizer, TextFormat())
    batch = next(iter(data.train_dataloader()))
    assert batch.group_size == GROUP
    assert content(batch) == content(batch.to("cpu"))
    for row, query, passages, ids, kinds in content(batch):
        record = rows[row]
        (positive,) = record["positive_passages"]
        assert kinds[0] == Kind.POSITIVE
        assert kinds[1:] == sorted(kinds[1:])
        assert Kind.POSITIVE not in kinds[1:]
        assert ids[0] == id_digest(positive["docid"])
        assert query == texts.queries([(record["only_query"], record["only_instruction"])]).input_ids_T.tolist()
        first = tokenizer(positive["text"])["input_ids"]
        assert passages[: len(first)] == first
        new = {id_digest(passage["docid"]) for passage in record["new_negatives"]}
        assert {id_ for id_, kind in zip(ids, kinds, strict=True) if kind == Kind.INSTRUCTION_NEGATIVE} == new


def test_digests_are_frozen_64_bit_numbers() -> None:
    """The values of ``printf doc-17 | b2sum -l 64``, read as signed numbers."""
    assert id_digest("doc-17") == 3902777184567425211
    assert id_digest("") == -1970711489451281740
    assert len({id_digest(str(number)) for number in range(10_000)}) == 10_000
    assert torch.tensor([id_digest("doc-17")]).item() == id_digest("doc-17")


def test_the_loader_begins_at_the_restored_position_of_its_epoch(
    table: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    data = open_data(table, tokenizer, epoch=2)
    whole = contents(data)
    data._restored = {"epoch": 2, "batches_done": 5}
    assert contents(data) == whole[5:]
    assert len(data.train_dataloader()) == 7
    data._restored = {"epoch": 1, "batches_done": 5}
    assert contents(data) == whole


def test_epoch_and_position_are_read_at_the_first_batch(table: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Lightning makes the iterator before it restores the epoch."""
    data = open_data(table, tokenizer, epoch=0)
    batches = iter(data.train_dataloader())
    data.trainer.current_epoch = 1  # type: ignore[union-attr, misc]
    assert content(next(batches)) == contents(open_data(table, tokenizer, epoch=1))[0]


@pytest.mark.parametrize(("rows", "flag"), [("with_instruction", True), ("without_instruction", False)])
def test_rows_filter(table: str, tokenizer: PreTrainedTokenizerBase, rows: Any, flag: bool) -> None:
    flags = [record["has_instruction"] for record in training_rows(NUM_ROWS)]
    data = open_data(table, tokenizer, rows=rows)
    assert sorted(data.epoch_rows(0)) == [row for row, has in enumerate(flags) if has is flag]
    assert {flags[row] for batch in contents(data) for row, *_ in batch} == {flag}


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_instruction_fraction(table: str, tokenizer: PreTrainedTokenizerBase, fraction: float) -> None:
    flags = [record["has_instruction"] for record in training_rows(NUM_ROWS)]
    epoch_rows = open_data(table, tokenizer, instruction_fraction=fraction).epoch_rows(1)
    assert sum(flags[row] for row in epoch_rows) == fraction * len(epoch_rows)
    assert len(epoch_rows) == len(set(epoch_rows)) >= 8


def test_a_filter_and_a_fraction_name_rows_of_the_whole_table(table: str, tokenizer: PreTrainedTokenizerBase) -> None:
    data = open_data(table, tokenizer, rows="with_instruction", instruction_fraction=1.0)
    flags = [record["has_instruction"] for record in training_rows(NUM_ROWS)]
    assert sorted(data.epoch_rows(0)) == [row for row, has in enumerate(flags) if has]


def test_only_training_reads_the_table() -> None:
    data = PromptrieverData("no/such/table.parquet")
    for stage in ("validate", "test", "predict"):
        data.setup(stage)
    assert [list(loader()) for loader in (data.val_dataloader, data.test_dataloader, data.predict_dataloader)] == [
        [0]
    ] * 3
