"""p-MRR, MAP and nDCG against numbers worked by hand, slow loops and what mteb computed."""

import json
import math
import random
from pathlib import Path

import pytest

from ifir_lightning.data.evalset import load_task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import (
    base_ids,
    evaluate_run,
    p_mrr,
    query_values,
    rank_change,
    ranks,
)
from ifir_lightning.trec import read_run

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
KEYS = "task p_mrr map_1000_a map_1000_b map_1000_c ndcg_5_a ndcg_5_b ndcg_5_c score_a score_b score_c"
KEYS += " num_queries num_changed_passages skipped_queries"


def ranking(*doc_ids):
    """Scores that put the passages in this order; half of them negative."""
    return {doc_id: len(doc_ids) / 2 - place for place, doc_id in enumerate(doc_ids)}


@pytest.mark.parametrize(
    ("original", "changed", "expected"),
    [
        (1, 2, 0.5),
        (2, 1, -0.5),
        (1, 1000, 0.999),
        (99, 100, 0.01),
        (100, 99, -0.01),
        (7, 7, 0.0),
        (1, 1, 0.0),
    ],
)
def test_rank_change_by_hand(original, changed, expected):
    assert rank_change(original, changed) == pytest.approx(expected, abs=1e-12)


def test_equal_scores_rank_by_descending_id():
    assert ranks({"a": 1.0, "c": 1.0, "b": 1.0, "d": -2.0, "e": 3.0}) == {
        "e": 1,
        "c": 2,
        "b": 3,
        "a": 4,
        "d": 5,
    }
    assert ranks({"10": 0.0, "9": 0.0}) == {"9": 1, "10": 2}, "ids are compared as text"


def test_p_mrr_is_the_mean_over_queries_of_the_means_over_passages():
    run = {
        "1-og": ranking("a", "b", "c"),
        "1-changed": ranking("b", "a", "c"),  # a: 1 -> 2 = +0.5; b: 2 -> 1 = -0.5; c: 0
        "2-og": ranking("x", "y", "z", "w"),
        "2-changed": ranking("y", "z", "w", "x"),  # x: 1 -> 4 = +0.75
    }
    result = p_mrr(run, {"1": ["a", "b", "c"], "2": ["x"]})
    assert result.per_query == {"1": 0.0, "2": 0.75}
    assert result.mean == 0.375
    assert p_mrr(run, {"1": ["a"], "2": ["x"]}).mean == 0.625


def test_ties_move_passages():
    run = {"1-og": {"a": 0.5, "b": 0.5}, "1-changed": {"a": 0.5, "b": 0.4}}
    assert p_mrr(run, {"1": ["a"]}).per_query == {"1": -0.5}  # a: 2 (tied with b) -> 1


def test_missing_passage_ranks_after_the_last():
    run = {"1-og": ranking("a", "b"), "1-changed": ranking("b", "c", "d")}
    assert p_mrr(run, {"1": ["a"]}).mean == 0.75  # 1 -> 4
    assert p_mrr(run, {"1": ["d"]}).mean == 0.0  # 3 -> 3
    assert p_mrr(run, {"1": ["e"]}).mean == 0.25  # 3 -> 4, in neither


def test_queries_missing_from_the_run_are_skipped_and_counted():
    run = {"1-og": ranking("a", "b"), "1-changed": ranking("b", "a"), "2-og": ranking("a")}
    result = p_mrr(run, {"1": ["a"], "2": ["a"], "3": ["a"]})
    assert result.per_query == {"1": 0.5}
    assert result.skipped == ("2", "3")


def test_query_without_changed_passages_drops_out():
    run = {f"{base}-{end}": ranking("a", "b") for base in "12" for end in ("og", "changed")}
    result = p_mrr(run | {"1-changed": ranking("b", "a")}, {"1": ["a"], "2": []})
    assert (result.per_query, result.skipped) == ({"1": 0.5}, ())


def test_no_usable_query_names_the_ids():
    with pytest.raises(InputError, match=r"lacks 2 of 2 .* '301', .* '7-og': check that the run") as caught:
        p_mrr({"301": {"a": 1.0}}, {"7": ["a"], "8": ["a"]})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no changed passage"):
        p_mrr({"1-og": {"a": 1.0}, "1-changed": {"a": 1.0}}, {"1": []})
    with pytest.raises(InputError, match="its first query id is 'none'"):
        p_mrr({}, {"1": ["a"]})


def test_nan_score_names_query_and_passage():
    run = {"1-og": {"a": 1.0, "b": math.nan}, "1-changed": {"a": 1.0}}
    for use in (lambda: p_mrr(run, {"1": ["a"]}), lambda: query_values(run, {}, ["1"], "b")):
        with pytest.raises(InputError, match=r"query '1-og', passage 'b': the score is nan; .*look for"):
            use()


def test_base_ids_are_distinct_and_in_order():
    assert base_ids(["2-og", "1-og", "2-changed", "x-og-changed", "7"]) == ["2", "1", "x-og"]


def test_scales_map_runs_to_qrels():
    run = {"1-og": ranking("a", "b"), "1-changed": ranking("b", "a")}
    qrels = {"1-og": {"a": 1, "b": 1}, "1-changed": {"b": 1}}  # changed run, original qrels: 1.0
    maps = {scale: query_values(run, qrels, ["1"], scale)["map_1000"]["1"] for scale in ("a", "b", "c")}
    assert maps == {"a": 0.5, "b": 1.0, "c": 1.0}


def slow_map(scores, grades):
    ordered = sorted(scores, key=lambda doc_id: (scores[doc_id], doc_id), reverse=True)[:1000]
    found, total = 0, 0.0
    for place, doc_id in enumerate(ordered, start=1):
        if grades.get(doc_id, 0) >= 1:
            found += 1
            total += found / place
    relevant = sum(grade >= 1 for grade in grades.values())
    return total / relevant if relevant else 0.0


def slow_ndcg(scores, grades):
    ordered = sorted(scores, key=lambda doc_id: (scores[doc_id], doc_id), reverse=True)
    gains = [grades.get(doc_id, 0) for doc_id in ordered]
    best = sorted(grades.values(), reverse=True)
    discounted = [sum(gain / math.log2(i + 2) for i, gain in enumerate(row[:5])) for row in (gains, best)]
    return discounted[0] / discounted[1] if discounted[1] else 0.0


def random_query(rng, num_passages):
    """Scores with ties and negatives (exact in float32); grades, also of passages that are not ranked."""
    ids = [str(number) for number in rng.sample(range(10**6), num_passages)]
    scores = {doc_id: rng.randint(-40, 8) / 8 for doc_id in ids}
    judged = [*rng.sample(ids, num_passages // 3), "unranked"]
    return scores, {doc_id: rng.randint(0, 2) for doc_id in judged}


@pytest.mark.parametrize("num_passages", [3, 40, 1200])
def test_map_and_ndcg_equal_slow_loops(num_passages):
    rng = random.Random(num_passages)
    queries = {str(base): random_query(rng, num_passages) for base in range(12)}
    run = {f"{base}-changed": scores for base, (scores, _) in queries.items()}
    qrels = {f"{base}-changed": grades for base, (_, grades) in queries.items()}
    values = query_values(run, qrels, list(queries), "c")
    for base, (scores, grades) in queries.items():
        assert values["map_1000"][base] == pytest.approx(slow_map(scores, grades), abs=1e-9)
        assert values["ndcg_5"][base] == pytest.approx(slow_ndcg(scores, grades), abs=1e-9)


def test_passages_with_scores_of_zero_and_less_are_kept():
    values = query_values({"1-og": {"a": 0.0, "b": -1.0}}, {"1-og": {"b": 1}}, ["1"], "b")
    assert values["map_1000"]["1"] == 0.5


def test_queries_without_positives_and_missing_queries_count_zero():
    run = {"1-og": {"a": 1.0}, "2-og": {"a": 1.0}, "3-og": {"a": 1.0}}
    qrels = {"1-og": {"a": 1}, "2-og": {"a": 0}, "3-og": {}, "4-og": {"a": 1}}
    expected = {"1": 1.0, "2": 0.0, "3": 0.0, "4": 0.0}
    assert query_values(run, qrels, ["1", "2", "3", "4"], "b") == {"map_1000": expected, "ndcg_5": expected}
    assert query_values({}, qrels, ["1"], "b")["ndcg_5"] == {"1": 0.0}


def evaluated(metric="map_1000"):
    run = {"1-og": ranking("a", "b"), "1-changed": ranking("b", "a"), "2-og": ranking("b", "a")}
    qrels = {"1-og": {"a": 1, "b": 1}, "1-changed": {"b": 1}, "2-og": {"a": 1}, "2-changed": {}}
    return evaluate_run(run, qrels, {"1": ("a",), "2": ()}, "tiny", metric)


def test_evaluate_run_has_exactly_the_documented_keys_and_is_x100():
    metrics = evaluated()
    assert list(metrics) == KEYS.split()
    assert metrics["task"] == "tiny"
    assert (metrics["p_mrr"], metrics["map_1000_b"], metrics["map_1000_c"]) == (50.0, 75.0, 50.0)
    assert (metrics["num_queries"], metrics["num_changed_passages"], metrics["skipped_queries"]) == (2, 1, 1)


@pytest.mark.parametrize("metric", ["map_1000", "ndcg_5"])
def test_score_is_the_metric_of_the_task(metric):
    metrics = evaluated(metric)
    assert metrics["ndcg_5_b"] != metrics["map_1000_b"]
    assert [metrics[f"score_{scale}"] for scale in "abc"] == [metrics[f"{metric}_{scale}"] for scale in "abc"]


def rounded(run):
    return {query_id: {doc_id: round(score, 1) for doc_id, score in scores.items()} for query_id, scores in run.items()}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the small real data are not at {DATA}")
@pytest.mark.parametrize("name", ["core17", "news21", "robust04"])
@pytest.mark.parametrize("variant", ["minilm", "minilm_ties"])
def test_equal_to_mteb(name, variant):
    folder = DATA / f"followir-mini-{name}"
    expected = json.loads((folder / "expected.json").read_text())[variant]
    task, run = load_task(str(folder)), read_run(folder / "run-minilm.trec")
    run = rounded(run) if variant == "minilm_ties" else run
    metrics = evaluate_run(run, task.qrels, task.changed, task.name, task.metric)
    assert metrics["p_mrr"] / 100 == pytest.approx(expected["p-MRR"], abs=1e-9)
    for key, measure in (("map_1000", "map_at_1000"), ("ndcg_5", "ndcg_at_5")):
        for label, value in expected[measure].items():
            assert metrics[f"{key}_{label[0].lower()}"] / 100 == pytest.approx(value, abs=1e-5), (key, label)
