"""The instruction world: pure in its seed, right in its labels, held out where it says so, laid out as published."""

import re
from itertools import islice
from pathlib import Path

import pytest
from datasets import Value, load_dataset
from transformers import AutoTokenizer

from ifir_lightning.commands.synthesize import synthesize
from ifir_lightning.data import lexicon
from ifir_lightning.data.synthetic import TASKS, build_tokenizer, task_tables, training_rows, write_world
from ifir_lightning.data.world import DOMAINS, aspects, topics
from ifir_lightning.errors import InputError

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
    with pytest.raises(InputError, match="is not an empty folder"):
        synthesize(str(tmp_path / "notes.txt"), num_rows=1)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="'sport' is not one of travel, food, health"):
        task_tables("sport")
