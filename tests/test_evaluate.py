"""The command evaluate: the table for people, JSON for programs, one line about what does not fit."""

import json
from pathlib import Path

import pytest

from ifir_lightning.commands.evaluate import evaluate
from ifir_lightning.errors import InputError

KEYS = "task p_mrr map_1000_a map_1000_b map_1000_c ndcg_5_a ndcg_5_b ndcg_5_c score_a score_b score_c"
KEYS += " num_queries num_changed_passages skipped_queries"
QUERIES = ["1-og", "1-changed", "2-og", "2-changed"]
TABLES = {
    "corpus": [{"_id": key, "title": "", "text": f"text {key}"} for key in "ab"],
    "queries": [{"_id": query_id, "text": "query"} for query_id in QUERIES],
    "instruction": [{"query-id": query_id, "instruction": "do"} for query_id in QUERIES],
    "default": [{"query-id": query_id, "corpus-id": "b", "score": 1} for query_id in QUERIES]
    + [{"query-id": query_id, "corpus-id": "a", "score": 1} for query_id in QUERIES[::2]],
    "qrel_diff": [{"query-id": base, "corpus-ids": ["a"]} for base in "12"],
    "top_ranked": [{"query-id": query_id, "corpus-ids": ["a", "b"]} for query_id in QUERIES],
}


@pytest.fixture
def task(tmp_path):
    for config, records in TABLES.items():
        (tmp_path / "tiny" / config).mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / "tiny" / config / "test.jsonl").write_text(lines)
    return str(tmp_path / "tiny")


def write_run(tmp_path, query_ids, passages="ab"):
    """Every query ranks a, then b; the changed ones the other way round: p-MRR +0.5."""
    scores = {query_id: (1, 2) if query_id.endswith("changed") else (2, 1) for query_id in query_ids}
    lines = [
        f"{q} Q0 {key} 0 {score} tag\n" for q, pair in scores.items() for key, score in zip(passages, pair, strict=True)
    ]
    (tmp_path / "run.trec").write_text("".join(lines))
    return str(tmp_path / "run.trec")


def test_json_is_one_object_with_exactly_the_keys(tmp_path, task, capsys):
    evaluate(task, write_run(tmp_path, QUERIES), json=True)
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)
    assert list(metrics) == KEYS.split()
    assert (metrics["task"], metrics["p_mrr"], metrics["score_a"], metrics["score_b"]) == (
        "tiny",
        50.0,
        50.0,
        100.0,
    )
    assert (metrics["num_queries"], metrics["num_changed_passages"], metrics["skipped_queries"]) == (2, 2, 0)
    assert printed.err == ""


def test_table_shows_p_mrr_with_score_b(tmp_path, task, capsys):
    evaluate(task, write_run(tmp_path, QUERIES))
    printed = capsys.readouterr()
    assert "tiny: p-MRR +50.00, Score B 100.00" in printed.out
    for part in ("MAP@1000", "nDCG@5", "Score = MAP@1000", "2 queries (0 skipped), 2 changed passages"):
        assert part in printed.out
    assert printed.err == ""


def test_missing_and_unknown_queries_are_said_in_one_line(tmp_path, task, capsys):
    evaluate(task, write_run(tmp_path, [*QUERIES[:3], "9-og"]), json=True)
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)
    assert (metrics["p_mrr"], metrics["score_c"], metrics["skipped_queries"]) == (50.0, 50.0, 1)
    assert printed.err.count("\n") == 1
    for part in (
        "run.trec: lacks 1 of 4 queries of tiny (first '2-changed')",
        "measures of change skip 1 base",
        "'9-og'): ignored",
    ):
        assert part in printed.err


def test_passages_that_the_task_does_not_know_are_counted(tmp_path, task, capsys):
    evaluate(task, write_run(tmp_path, QUERIES, passages=["a", "0b"]), json=True)
    assert capsys.readouterr().err == (
        f"{tmp_path}/run.trec: ranks 1 passages that tiny does not know (first '0b'): they take ranks, and none is "
        "relevant; lacks 4 of 8 candidates (first 'b' of query '1-og'): they take the rank behind its last, and count "
        "0 in MAP and nDCG\n"
    )


def test_candidates_that_the_run_lacks_are_counted(tmp_path, task, capsys):
    path = Path(write_run(tmp_path, QUERIES))
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("2-og Q0 b"))
    )
    evaluate(task, str(path), json=True)
    assert "run.trec: lacks 1 of 8 candidates (first 'b' of query '2-og')" in capsys.readouterr().err


def test_a_run_with_other_passage_ids_is_refused(tmp_path, task):
    says = r"run\.trec: tiny knows none of its 2 passages \(first '0a'\); allowed are ids like 'a': check"
    with pytest.raises(InputError, match=says):
        evaluate(task, write_run(tmp_path, QUERIES, passages=["0a", "0b"]))


def test_run_of_another_task_is_refused(tmp_path, task):
    with pytest.raises(InputError, match=r"lacks 2 of 2 base queries.*'301-og', allowed are ids like '1-og'"):
        evaluate(task, write_run(tmp_path, ["301-og"]))


def test_missing_run_and_task_are_named(tmp_path, task):
    with pytest.raises(InputError, match=r"none.trec: No such file"):
        evaluate(task, str(tmp_path / "none.trec"))
    with pytest.raises(InputError, match="none' is no folder"):
        evaluate(f"{tmp_path}/none", write_run(tmp_path, QUERIES))
