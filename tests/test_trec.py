"""Runs as text: what is written is read back exactly, what is wrong is named with its line."""

import math
import random

import pytest

from ifir_lightning import durable
from ifir_lightning.errors import InputError
from ifir_lightning.trec import read_run, write_run


def test_reads_the_published_form(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("1-og Q0 a 1 0.5 tag\n1-og\tQ0\tb\t7\t-1e-3 tag\n\n2-og Q0 a 1 3 tag")
    assert read_run(path) == {"1-og": {"a": 0.5, "b": -0.001}, "2-og": {"a": 3.0}}


def test_what_is_written_is_read_back_exactly(tmp_path):
    rng = random.Random(0)
    run = {f"{q}-og": {f"d{d}": rng.gauss(0, 10.0**-q) for d in range(50)} for q in range(9)}
    write_run(tmp_path / "deep" / "run.trec", run, "tiny")
    assert read_run(tmp_path / "deep" / "run.trec") == run


def test_lines_stand_by_rank_with_ties_by_descending_id(tmp_path):
    write_run(tmp_path / "run.trec", {"q": {"a": 1.0, "b": 1.0, "c": 2}}, "tag")
    lines = ["q Q0 c 1 2.0 tag", "q Q0 b 2 1.0 tag", "q Q0 a 3 1.0 tag"]
    assert (tmp_path / "run.trec").read_text().splitlines() == lines


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.trec"
    write_run(path, {"q": {"a": 1.0}}, "old")
    before = path.read_text()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_run(path, {"q": {"a": 2.0}}, "new")
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.trec"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q Q0 b 2 0.5", r"'q Q0 b 2 0.5' has 5 fields; allowed is 'qid Q0 docid rank score tag': correct"),
        ("q Q0 b 2 0.5 my tag", "has 7 fields; allowed is 'qid Q0"),
        ("q Q0 b 2 high tag", "score 'high'; allowed is a number, not nan: correct"),
        ("q Q0 b 2 nan tag", "score 'nan'; allowed is a number, not nan: correct"),
        (
            "q Q0 a 2 0.5 tag",
            "query 'q', passage 'a' for the second time; allowed is one line per pair: remove",
        ),
    ],
)
def test_wrong_line_is_named(tmp_path, line, says):
    path = tmp_path / "run.trec"
    path.write_text(f"q Q0 a 1 0.5 tag\n\n{line}\n")
    with pytest.raises(InputError, match=f"run.trec:3: .*{says}") as caught:
        read_run(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path):
    (tmp_path / "run.trec").write_text("\ufeffq Q0 a 1 0.5 tag\n", encoding="utf-8")
    assert read_run(tmp_path / "run.trec") == {"q": {"a": 0.5}}


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file_is_an_error(tmp_path, content):
    (tmp_path / "run.trec").write_text(content)
    with pytest.raises(InputError, match=r"run.trec: holds 0 lines; allowed are .*: check what wrote"):
        read_run(tmp_path / "run.trec")


def test_unreadable_path_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"missing.trec: No such file .*; allowed is a TREC text .*: check the path"):
        read_run(tmp_path / "missing.trec")
    with pytest.raises(InputError, match="Is a directory"):
        read_run(tmp_path)
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(InputError, match=r"packed: not UTF-8; .*: unpack"):
        read_run(tmp_path / "packed")


@pytest.mark.parametrize(
    ("run", "tag", "says"),
    [
        ({"q 1": {"a": 1.0}}, "tag", "'q 1'; allowed are names without spaces"),
        ({"q": {"": 1.0}}, "tag", "''; allowed are names without spaces, not empty: rename"),
        ({"q": {"a": 1.0}}, "my tag", "'my tag'"),
        ({"q": {"a": math.nan}}, "tag", "query 'q', passage 'a': the score is nan"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, run, tag, says):
    with pytest.raises(InputError, match=says):
        write_run(tmp_path / "run.trec", run, tag)
    assert not list(tmp_path.iterdir())
