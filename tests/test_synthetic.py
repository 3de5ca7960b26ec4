"""The instruction world: pure in its seed, right in its labels, held out where it says so, laid out as published."""

import re
from itertools import islice
from pathlib import Path

import pytest

from ifir_lightning.data import lexicon
from ifir_lightning.data.synthetic import TASKS, task_tables, training_rows
from ifir_lightning.data.world import DOMAINS, aspects, topics

ROOT = Path(__file__).parents[1]


# The labels are read back from the words alone, so that the generator cannot vouch for itself.

TOPIC_OF = {
    phrasing: (domain, topic)
    for domain in DOMAINS
    for topic, phrasings in topics(domain).items()
    for phrasing in phrasings
}
SENTENCE_OF = {
    (domain, sentence.lower().replace("{n}", "#")): (aspect, sentence)
    for domain in DOMAINS
    for aspect, (_, sentences) in aspects(domain).items()
    for sentence in sentences
}
NAME_OF = {
    (domain, name): aspect for domain in DOMAINS for aspect, (names, _) in aspects(domain).items() for name in names
}


def read_topic(text: str) -> tuple[str, str]:
    """The topic of the longest phrasing in the text: "the Lisbon trip" also holds "Lisbon"."""
    return TOPIC_OF[max((phrasing for phrasing in TOPIC_OF if phrasing in text), key=len)]


def read_passage(text: str) -> tuple[str, str, dict[str, str]]:
    """Domain, topic, and aspect -> the sentence that mentions it."""
    domain, topic = read_topic(text)
    plain = re.sub(rf"\b({'|'.join(lexicon.NUMBERS)})\b", "#", text.lower())
    said = [SENTENCE_OF[domain, sentence] for _, sentence in SENTENCE_OF if _ == domain and sentence in plain]
    return domain, topic, dict(said)


def read_instruction(domain: str, instruction: str) -> tuple[str | None, str | None]:
    """The included and the excluded aspect."""

    def named(templates: tuple[str, ...]) -> str | None:
        patterns = [re.escape(template).replace(r"\{aspect\}", "(.+?)") for template in templates]
        found = [match[1] for pattern in patterns if (match := re.search(pattern, instruction))]
        return NAME_OF[domain, found[0]] if found else None

    return named(lexicon.INCLUDE), named(lexicon.EXCLUDE)


def is_relevant(query: str, instruction: str, text: str) -> bool:
    domain, topic, said = read_passage(text)
    include, exclude = read_instruction(read_topic(query)[0], instruction)
    fits = (domain, topic) == read_topic(query) and (include is None or include in said)
    return fits and exclude not in said


def texts_of(row: dict) -> list[str]:
    passages = row["positive_passages"] + row["negative_passages"] + row["new_negatives"]
    return [passage["text"] for passage in passages]


def joined(tables: dict[str, list[dict]]) -> list[tuple[str, str, str]]:
    instructions = {record["query-id"]: record["instruction"] for record in tables["instruction"]}
    return [(record["_id"], record["text"], instructions[record["_id"]]) for record in tables["queries"]]


# Purity


def test_a_row_depends_on_its_number_and_the_seed_only() -> None:
    rows = list(training_rows(40))
    assert list(training_rows(7)) == rows[:7]
    assert list(islice(training_rows(10**9), 40)) == rows
    assert list(training_rows(40, seed=1)) != rows


def test_a_task_depends_on_its_arguments_only() -> None:
    tables = task_tables("food")
    assert task_tables("food") == tables
    assert task_tables("food", seed=1)["queries"] != tables["queries"]
    fewer = task_tables("food", num_queries=3)
    assert fewer["qrel_diff"] == tables["qrel_diff"][:3]
    assert fewer["top_ranked"] == tables["top_ranked"][:6]


def test_the_world_of_seed_0_stays_as_it_is() -> None:
    """A change of a word or of the order of draws changes every figure in docs/log.md: make it knowingly."""
    row = next(row for row in training_rows(20) if read_instruction_parts(row) == 2)
    assert row["query"] == (
        "tell me more about cold potatoes in dressing "
        "The text has to mention storage. Do not return texts about how risky it is."
    )


def read_instruction_parts(row: dict) -> int:
    domain, _ = read_topic(row["only_query"])
    return sum(aspect is not None for aspect in read_instruction(domain, row["only_instruction"]))


# Labels


def test_training_labels_follow_from_the_words() -> None:
    for row in training_rows(1500):
        query, instruction = row["only_query"], row["only_instruction"]
        assert [is_relevant(query, instruction, text) for text in texts_of(row)] == [True] + [False] * (
            len(texts_of(row)) - 1
        )
        assert all(read_topic(x["text"]) == read_topic(query) for x in row["new_negatives"])


def test_training_rows_hold_what_they_promise() -> None:
    rows = list(training_rows(3000))
    plain = [row for row in rows if not row["has_instruction"]]
    assert 0.32 < len(plain) / len(rows) < 0.38
    assert all(row["new_negatives"] == [] and row["query"] == row["only_query"] for row in plain)
    told = [row for row in rows if row["has_instruction"]]
    assert {len(row["new_negatives"]) for row in told} == {1, 2, 3}
    assert all(row["query"] == f"{row['only_query']} {row['only_instruction']}" for row in told)
    kinds = {read_instruction(read_topic(row["only_query"])[0], row["only_instruction"]) for row in told}
    assert {(include is None, exclude is None) for include, exclude in kinds} == {
        (False, False),
        (False, True),
        (True, False),
    }


def test_one_id_is_one_text() -> None:
    passages = [
        passage
        for row in training_rows(2000)
        for passage in row["positive_passages"] + row["negative_passages"] + row["new_negatives"]
    ]
    pairs = {(passage["docid"], passage["text"]) for passage in passages}
    assert len(pairs) == len({doc_id for doc_id, _ in pairs}) == len({text for _, text in pairs})


@pytest.mark.parametrize("name", TASKS)
def test_task_labels_follow_from_the_words(name: str) -> None:
    tables = task_tables(name)
    texts = {record["_id"]: record["text"] for record in tables["corpus"]}
    qrels = {(record["query-id"], record["corpus-id"]) for record in tables["default"]}
    ranked = {record["query-id"]: record["corpus-ids"] for record in tables["top_ranked"]}
    for query_id, query, instruction in joined(tables):
        judged = {doc_id for doc_id in ranked[query_id] if is_relevant(query, instruction, texts[doc_id])}
        assert {doc_id for found, doc_id in qrels if found == query_id} == judged


@pytest.mark.parametrize("name", TASKS)
def test_the_changed_instruction_takes_relevance_away(name: str) -> None:
    tables = task_tables(name)
    relevant: dict[str, set[str]] = {}
    for record in tables["default"]:
        relevant.setdefault(record["query-id"], set()).add(record["corpus-id"])
    ranked = {record["query-id"]: record["corpus-ids"] for record in tables["top_ranked"]}
    instructions = {record["query-id"]: record["instruction"] for record in tables["instruction"]}
    for record in tables["qrel_diff"]:
        original, changed = f"{record['query-id']}-og", f"{record['query-id']}-changed"
        assert set(record["corpus-ids"]) == relevant[original] - relevant[changed]
        assert relevant[changed] < relevant[original]
        assert ranked[original] == ranked[changed]
        assert len(set(ranked[original])) == 60
        assert instructions[changed].startswith(instructions[original] + " ")
        assert 8 <= len(relevant[original]) <= 12
        assert 3 <= len(record["corpus-ids"]) <= len(relevant[original]) / 2


# Held out


def test_what_the_tasks_use_never_occurs_in_training() -> None:
    asked, written, texts = set(), set(), set()
    for row in training_rows(20_000):
        domain, topic = read_topic(row["only_query"])
        asked.add((topic, read_instruction(domain, row["only_instruction"])[0]))
        texts.update(texts_of(row))
    for text in islice(texts, 40_000):
        _, topic, said = read_passage(text)
        written |= {(topic, sentence) for sentence in said.values()}
    for name in TASKS:
        tables = task_tables(name, num_queries=30)
        for _, query, instruction in joined(tables):
            domain, topic = read_topic(query)
            assert (topic, read_instruction(domain, instruction)[0]) not in asked
        for record in tables["corpus"]:
            _, topic, said = read_passage(record["text"])
            assert record["text"] not in texts
            assert not {(topic, sentence) for sentence in said.values()} & written


def test_no_phrase_is_ambiguous() -> None:
    """A name means one aspect of its domain, a sentence is said of one aspect, a phrasing of one topic."""
    for domain in DOMAINS:
        names = [name for named, _ in aspects(domain).values() for name in named]
        sentences = [sentence for _, said in aspects(domain).values() for sentence in said]
        assert len(set(names)) == len(names)
        assert len(set(sentences)) == len(sentences)
    phrasings = [phrasing for domain in DOMAINS for topic in topics(domain).values() for phrasing in topic]
    assert len(set(phrasings)) == len(phrasings)
