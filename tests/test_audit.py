"""audit: what a query limit takes, counted by hand; p-MRR as the benchmark itself gives it under each limit."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from small import make_head, write_task
from test_benchmarks import write_beir

from ifir_lightning.commands import audit as command
from ifir_lightning.commands.audit import audit
from ifir_lightning.data.evalset import load_task
from ifir_lightning.errors import InputError
from ifir_lightning.export import write_export
from ifir_lightning.metrics import evaluate_run
from ifir_lightning.options import run
from ifir_lightning.query_limits import audit_limits
from ifir_lightning.reranking import Reranker
from ifir_lightning.retriever import Retriever, load_retriever
from ifir_lightning.text_format import TextSettings

# One letter is one token; [CLS] and [SEP] are two more.
TABLES = {
    "corpus": [{"_id": key, "title": "", "text": text} for key, text in {"p": "a b c d e f", "q": "g h"}.items()],
    "queries": [{"_id": f"{base}{end}", "text": "a b"} for base in "12" for end in ("-og", "-changed")],
    "instruction": [
        {"query-id": "1-og", "instruction": "c d"},
        {"query-id": "1-changed", "instruction": "c d e"},
        {"query-id": "2-og", "instruction": "x"},
        {"query-id": "2-changed", "instruction": "y z"},
    ],
    "default": [{"query-id": f"{base}-og", "corpus-id": "p", "score": 1} for base in "12"],
    "qrel_diff": [{"query-id": base, "corpus-ids": ["p"]} for base in "12"],
    "top_ranked": [
        {"query-id": f"{base}{end}", "corpus-ids": ["p", "q"]} for base in "12" for end in ("-og", "-changed")
    ],
}


@pytest.fixture
def letters(tmp_path: Path) -> str:
    for config, records in TABLES.items():
        (tmp_path / "letters" / config).mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / "letters" / config / "test.jsonl").write_text(lines)
    return str(tmp_path / "letters")


@pytest.fixture(scope="module")
def checkpoint(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    model = load_retriever(str(modernbert), *make_head("maxsim"), TextSettings(max_query_length=64))
    write_export(model, folder / "maxsim", card="")
    return str(folder / "maxsim")


def test_what_survives_by_hand(checkpoint: str, letters: str) -> None:
    """8 query tokens; 2 + 3 + 1 + 2 of instructions. At 6 tokens "c d e" loses its end, and with it the change."""
    retriever = load_retriever(checkpoint, text=TextSettings(max_passage_length=7))
    audits, passage_tokens = audit_limits(retriever, load_task(letters), [3, 4, 6, 7])
    assert [each.query_tokens for each in audits] == pytest.approx([50, 100, 100, 100])
    assert [each.instruction_tokens for each in audits] == pytest.approx([0, 0, 100 * 7 / 8, 100])
    assert [each.identical_pairs for each in audits] == [2, 2, 1, 0]
    assert [each.p_mrr for each in audits[:2]] == [0, 0]
    assert passage_tokens == pytest.approx(100 * (7 + 4) / (8 + 4))


def test_p_mrr_is_the_benchmarks_under_each_limit(checkpoint: str, tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path / "travel"))
    limits = [8, 12, 64]
    audits, _ = audit_limits(load_retriever(checkpoint), task, limits)
    for limit, found in zip(limits, audits, strict=True):
        retriever = load_retriever(checkpoint, text=TextSettings(max_query_length=limit))
        queries = {id_: (text, task.instructions[id_]) for id_, text in task.queries.items()}
        ranked, _ = Reranker(retriever)(queries, task.passages, task.candidates)
        metrics = evaluate_run(ranked, task.qrels, task.changed, task.name, task.metric)
        assert (found.limit, found.p_mrr, found.score_b) == (limit, metrics["p_mrr"], metrics["score_b"])
    assert len({each.p_mrr for each in audits}) > 1


def test_the_table_the_json_and_the_picture_say_the_same(
    checkpoint: str, letters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[float]] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args: (
            drawn.extend(
                [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"] for axes in self.axes
            ),
            save(self, *args),
        ),
    )
    monkeypatch.setenv("COLUMNS", "120")
    audit(letters, checkpoint, [7, 4, 6], output=str(tmp_path / "new" / "audit.png"))
    table = capsys.readouterr().out
    audit(letters, checkpoint, [7, 4, 6], json=True)
    record = json.loads(capsys.readouterr().out)
    assert [each["limit"] for each in record["limits"]] == [4, 6, 7]
    assert record["task"] == "letters"
    for each in record["limits"]:
        cells = (f"{each['instruction_tokens']:.1f}%", f"{each['p_mrr']:+.2f}", f"{each['score_b']:.2f}")
        assert all(cell in table for cell in cells)
    assert f"{record['passage_tokens']:.1f}% of the passage tokens" in " ".join(table.split())
    names = (("p_mrr", "score_b"), ("query_tokens", "instruction_tokens"))
    assert drawn == [[[each[name] for each in record["limits"]] for name in pair] for pair in names]
    assert (tmp_path / "new" / "audit.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_limits_are_those_of_the_checkpoints_in_circulation(
    checkpoint: str, letters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(letters, checkpoint, json=True)
    record = json.loads(capsys.readouterr().out)
    assert [each["limit"] for each in record["limits"]] == [32, 48, 64, 128, 256, 304]
    assert {each["instruction_tokens"] for each in record["limits"]} == {100.0}


def test_the_options_take_one_limit_and_a_checkpoints_own_code(
    checkpoint: str, letters: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted: list[bool] = []

    def load(name: str, trust_remote_code: bool, **options: Any) -> Retriever:
        trusted.append(trust_remote_code)
        return load_retriever(name, **options)

    monkeypatch.setattr(command, "load_retriever", load)
    run("audit", audit, [f"--task={letters}", f"--checkpoint={checkpoint}", "--max-query-length", "6", "--json"])
    assert [each["limit"] for each in json.loads(capsys.readouterr().out)["limits"]] == [6]
    run("audit", audit, [f"--task={letters}", f"--checkpoint={checkpoint}", "--trust-remote-code"])
    assert trusted == [False, True]


def test_limits_beyond_the_positions_and_another_format_are_refused(checkpoint: str, letters: str) -> None:
    with pytest.raises(InputError, match=r"--max-query-length \[600\]: allowed are limits up to the 512 positions"):
        audit(letters, checkpoint, [600])
    with pytest.raises(InputError, match=r"--output audit\.pdf: allowed is a file that ends in \.png: rename it"):
        audit(letters, checkpoint, output="audit.pdf")


@pytest.mark.parametrize("device", ["frog", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(checkpoint: str, letters: str, device: str) -> None:
    with pytest.raises(InputError, match=rf"--device {device}: torch cannot compute there; allowed are cpu and"):
        audit(letters, checkpoint, device=device)


def test_a_task_without_p_mrr_is_refused_as_such(checkpoint: str, tmp_path: Path) -> None:
    task = f"beir:{write_beir(tmp_path / 'data')}"
    with pytest.raises(InputError, match=r"\(beir\) has no p-MRR of FollowIR; allowed are tasks of FollowIR: name one"):
        audit(task, checkpoint)
