"""Tasks that are not what they should be: each fault is named in one line, before anything is encoded."""

import pytest
from tasks import GRADES, MTEB, V1, V2, swapped, v2, without, write

from ifir_lightning.data.evalset import load_task, task_from_tables
from ifir_lightning.errors import InputError

FAULTS = [
    (
        v2(top_ranked=None),
        r"config 'top_ranked': missing or empty, found \['corpus', .*; needed are .*: add it",
    ),
    (v2(default=None), "config 'default': missing"),
    (v2(queries=[]), "config 'queries': missing or empty"),
    ({}, r"config 'queries': missing or empty, found \[\]"),
    ({**V1, "qrels_changed": []}, "config 'qrels_changed': .* needed are corpus, queries, qrels_og, qrels_"),
    (v2(queries=without("queries", "text")), "config 'queries': column 'text' is missing; .*: add it"),
    (v2(corpus=without("corpus", "_id")), "config 'corpus': column '_id' is missing; .*: add it"),
    (
        v2(top_ranked=without("top_ranked", "corpus-ids")),
        "config 'top_ranked': column 'corpus-ids' is missing",
    ),
    (swapped("corpus", {"_id": "a", "text": None}), "config 'corpus': column 'text' holds null; .*: fill it"),
    (
        swapped("top_ranked", {"query-id": "1-og", "corpus-ids": ["a", "zz"]}),
        "config 'top_ranked': query '1-og' lists passage 'zz'; allowed are the 4 ids of corpus: add it",
    ),
    (swapped("top_ranked"), "query '1-og' has no candidates; allowed are 1 or more: add them"),
    (swapped("top_ranked", {"query-id": "1-og", "corpus-ids": []}), "query '1-og' has no candidates"),
    (swapped("queries", {"_id": "1-og", "text": " "}), "query '1-og' has an empty text; .*: fill it in"),
    (swapped("instruction"), "query '1-og' has no instruction; allowed is '': add a record"),
    (swapped("queries"), "query '1-og' is missing, .*; allowed are pairs BASE-og and BASE-changed: add it"),
    (v2(queries=V2["queries"][:1]), "query '1-changed' is missing, its other variant is there"),
    (swapped("queries", {"_id": "1", "text": "x"}), "query '1' has neither ending; allowed .*: rename it"),
    (
        swapped("qrel_diff", {"query-id": "7", "corpus-ids": ["a"]}),
        r"query '7' of qrel_diff is unknown; allowed are \['1', '2'\] \.\.\.: remove it",
    ),
    (v2(corpus=V2["corpus"] * 2), "config 'corpus': _id 'a' has 2 records; allowed is 1: remove"),
    (v2(queries=V2["queries"] * 2), "config 'queries': _id '1-og' has 2 records; allowed is 1"),
    (v2(top_ranked=V2["top_ranked"] * 2), "config 'top_ranked': query-id '1-og' has 2 records; allowed is 1"),
    (
        swapped("default", {"query-id": "1-og", "corpus-id": "a", "score": 0.5}),
        "config 'default': score 0.5; allowed are whole grades 0, 1, 2: correct it",
    ),
    *(
        (swapped("corpus", {"_id": "a", "text": "x", "title": title}), "config 'corpus': _id 'a' has title .*: correct")
        for title in (7, float("nan"))
    ),
    (swapped("corpus", {"_id": "a", "text": 2020}), "config 'corpus': _id 'a' has text 2020; allowed is text: correct"),
    (swapped("queries", {"_id": "1-og", "text": 5}), "config 'queries': _id '1-og' has text 5; allowed is text"),
    (
        swapped("instruction", {"query-id": "1-og", "instruction": ["a"]}),
        r"config 'instruction': query-id '1-og' has instruction \['a'\]; allowed is text: correct it",
    ),
    *(
        (
            swapped("qrel_diff", {"query-id": "1", "corpus-ids": ids}),
            f"config 'qrel_diff': query-id '1' has corpus-ids '?{ids}'?; allowed is a list of ids: correct it",
        )
        for ids in ("b", 5)
    ),
    *(
        (swapped("corpus", {"_id": id_, "text": "x"}), f"config 'corpus': _id has '{id_}'; .* white space: rename it")
        for id_ in ("a 0", " a", "")
    ),
    (
        swapped("top_ranked", {"query-id": "1-og", "corpus-ids": ["a", None]}),
        "config 'top_ranked': corpus-ids has None; allowed are whole numbers and names",
    ),
    *(
        (
            swapped("default", {"query-id": "1-og", "corpus-id": "a", "score": grade}),
            "config 'default': score .*; allowed are whole grades 0, 1, 2: correct it",
        )
        for grade in (1e300, 10**400, -1e6, float("inf"), float("nan"))
    ),
    (
        v2(default=[*V2["default"], {"query-id": "1-og", "corpus-id": "a", "score": 0}]),
        "config 'default': query '1-og', passage 'a' has the scores 2 and 0; allowed is one: remove the other",
    ),
    *(
        (
            tables | {config: [r | {"query-id": f"x{r['query-id']}"} for r in tables[config]] for config in qrels},
            r"4 of 4 judged queries are not among the queries \(first 'x1-og'\); needed are the ids .*: correct them",
        )
        for tables, qrels in ((V2, ["default"]), (MTEB, ["qrels"]), (V1, ["qrels_og", "qrels_changed"]))
    ),
    (
        v2(default=[r | {"corpus-id": f"x{r['corpus-id']}"} for r in V2["default"]]),
        r"4 of 4 judged queries have no relevant passage in the corpus \(first '1-og'\); needed are the ids",
    ),
    (
        swapped("qrel_diff", {"query-id": "1", "corpus-ids": ["c"]}),
        r"1 of 1 changed passages are not among the candidates of their query \(first 'c'\); needed are the ids",
    ),
]


@pytest.mark.parametrize(("tables", "says"), FAULTS)
def test_faults_are_named(tables, says):
    with pytest.raises(InputError, match=f"task 'tiny'[,:] {says}") as caught:
        task_from_tables("tiny", tables)
    assert "\n" not in str(caught.value)


def test_a_judgement_repeated_with_the_same_grade_counts_once(caplog):
    with caplog.at_level("INFO"):
        assert task_from_tables("tiny", v2(default=V2["default"] + V2["default"][:2])).qrels == GRADES
    assert caplog.messages == ["task 'tiny', config 'default': 2 repeated judgements count once"]


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            v2(default=[*V2["default"], {"query-id": "9-og", "corpus-id": "a", "score": 1}]),
            "1 of 5 judged queries are not among the queries (first '9-og'): they are ignored",
        ),
        (
            v2(default=[*V2["default"][:-1], {"query-id": "2-changed", "corpus-id": "x", "score": 1}]),
            "1 of 4 judged queries have no relevant passage in the corpus (first '2-changed'): they count 0",
        ),
        (
            swapped("qrel_diff", {"query-id": "1", "corpus-ids": ["b", "x"]}),
            "1 of 2 changed passages are not among the candidates of their query (first 'x'): they count 0 in p-MRR",
        ),
    ],
)
def test_what_does_not_fit_is_counted_where_the_rest_does(tables, says, caplog):
    task_from_tables("tiny", tables)
    assert caplog.messages == [f"task 'tiny': {says}"]


def test_relevant_passages_outside_the_corpus_are_usual(caplog):
    task_from_tables("tiny", v2(default=[*V2["default"], {"query-id": "1-og", "corpus-id": "x", "score": 1}]))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("first", "second"), [("default.jsonl", "default/test.jsonl"), ("data/a.jsonl", "default/a.jsonl")]
)
def test_two_sources_of_one_config_are_refused(tmp_path, first, second):
    write(tmp_path, v2(default=None))
    for name in (first, second):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"query-id": "1-og", "corpus-id": "a", "score": 1}')
    one, other = sorted(name.split("/")[0] for name in (first, second))
    with pytest.raises(
        InputError, match=f"has config 'default' in ({one} and in {other}|{other} and in {one}); allowed"
    ):
        load_task(str(tmp_path))
