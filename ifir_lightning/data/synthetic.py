"""The quickstart's data: the instruction world in the published layouts, with its tokenizer.

Everything is a pure function of the seed and a number: training row 17 is the same in a table of 18 rows and
in one of a million, and so is the third query of a task, however many queries it has.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ifir_lightning.data import lexicon
from ifir_lightning.data.world import DOMAINS, Need, Subject, Writer, askable, aspects, digest, topics
from ifir_lightning.errors import InputError

TASKS: tuple[str, ...] = DOMAINS
SHARE_WITHOUT_INSTRUCTION = 0.35
NUM_HARD_NEGATIVES = 8
MIN_CANDIDATES, MAX_CANDIDATES = 30, 1000
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_TEXT = pa.string()
_SCORED = [("docid", _TEXT), ("explanation", _TEXT), ("followir_score", pa.float64())]
_SCORED += [("joint_id", _TEXT), ("text", _TEXT), ("title", _TEXT)]
_PLAIN = [("docid", _TEXT), ("text", _TEXT), ("title", _TEXT)]
TRAIN_SCHEMA = pa.schema(
    [
        ("query_id", _TEXT),
        ("query", _TEXT),
        ("positive_passages", pa.list_(pa.struct(_SCORED))),
        ("negative_passages", pa.list_(pa.struct(_PLAIN))),
        ("only_instruction", _TEXT),
        ("only_query", _TEXT),
        ("has_instruction", pa.bool_()),
        ("new_negatives", pa.list_(pa.struct(_SCORED))),
    ]
)

TASK_SPLITS = {  # config of the published layout -> its split
    "corpus": "corpus",
    "queries": "queries",
    "instruction": "instruction",
    "default": "test",
    "qrel_diff": "qrel_diff",
    "top_ranked": "top_ranked",
}


# Training rows ------------------------------------------------------------------------------------


def training_rows(num_rows: int, seed: int = 0) -> Iterator[dict]:
    """Rows in the layout of samaya-ai/msmarco-w-instructions, a third of them without an instruction."""
    return (training_row(index, seed) for index in range(num_rows))


def training_row(index: int, seed: int = 0) -> dict:
    """Row ``index`` of the table, whatever the table's length."""
    writer = Writer(f"{seed}/train/{index}", held_out=False)
    need = _need(writer)
    query, sentences = writer.query(need), [writer.include(need), writer.exclude(need)]
    writer.rng.shuffle(sentences)
    instruction = " ".join(filter(None, sentences))
    positive = writer.subject(need.domain, need.topic, _given(need.include), _given(need.exclude))
    return {
        "query_id": f"{index}-instruct" if instruction else str(index),
        "query": f"{query} {instruction}".strip(),
        "positive_passages": [_scored(writer, positive, "", 1.0)],
        "negative_passages": [_plain(writer.passage(subject)) for subject in _hard_negatives(writer, need)],
        "only_instruction": instruction,
        "only_query": query,
        "has_instruction": bool(instruction),
        "new_negatives": [_scored(writer, *pair, 0.0) for pair in _instruction_negatives(writer, need, positive)],
    }


def _need(writer: Writer) -> Need:
    """No instruction, or one that includes and excludes (5 in 10), includes (4) or excludes (1).

    Were asking and forbidding equally common, the name of an aspect alone would say nothing about a passage,
    and a model that does not yet tell the two apart would have nothing to start from.
    """
    rng = writer.rng
    domain = rng.choice(DOMAINS)
    topic = rng.choice(list(topics(domain)))
    if rng.random() < SHARE_WITHOUT_INSTRUCTION:
        return Need(domain, topic)
    include = rng.choice(askable(domain, topic, held_out=False))
    exclude = rng.choice([aspect for aspect in aspects(domain) if aspect != include])
    both = Need(domain, topic, include, exclude)
    return rng.choices((both, Need(domain, topic, include), Need(domain, topic, "", exclude)), (7, 10, 3))[0]


def _hard_negatives(writer: Writer, need: Need) -> list[Subject]:
    """The same topic without the included aspect (or with the excluded one), other topics with it, any other.

    Without an instruction every passage about the topic is relevant, so all are about other topics.
    """
    asked = _given(need.include)
    same_topic = []
    if need.include or need.exclude:
        mention = () if need.include else (need.exclude,)
        same_topic = [writer.subject(need.domain, need.topic, mention, asked) for _ in range(3)]
    same_aspect = [writer.elsewhere(need.domain, need.topic, asked) for _ in range(3)]
    rest = range(NUM_HARD_NEGATIVES - len(same_topic) - len(same_aspect))
    return same_topic + same_aspect + [writer.elsewhere(writer.rng.choice(DOMAINS), need.topic) for _ in rest]


def _instruction_negatives(writer: Writer, need: Need, positive: Subject) -> Iterator[tuple[Subject, str]]:
    """One to three subjects that fit the query and break the instruction, each with the reason.

    Each says what the positive says but for one aspect, so that nothing else tells the two apart.
    """
    if not (need.include or need.exclude):
        return
    fillers = sorted(positive.aspects - {need.include})
    others = sorted(set(aspects(need.domain)) - positive.aspects - {need.exclude})
    for _ in range(writer.rng.randint(1, 3)):
        if need.exclude and (not need.include or writer.rng.random() < 0.75):
            yield positive.swap(writer.rng.choice(fillers), need.exclude), f"It mentions {need.exclude}."
        else:
            yield positive.swap(need.include, writer.rng.choice(others)), f"It does not mention {need.include}."


def _given(aspect: str) -> tuple[str, ...]:
    return (aspect,) if aspect else ()


def _plain(text: str) -> dict:
    return {"docid": digest(text), "text": text, "title": ""}


def _scored(writer: Writer, subject: Subject, explanation: str, score: float) -> dict:
    """``followir_score`` is the label itself here; in the published table a model judged it."""
    extra = {"explanation": explanation, "followir_score": score, "joint_id": ""}
    return {**_plain(writer.passage(subject)), **extra}


# Tasks --------------------------------------------------------------------------------------------


def task_tables(name: str, seed: int = 0, num_queries: int = 20, num_candidates: int = 60) -> dict[str, list[dict]]:
    """The FollowIR task of one domain: config -> records (see `write_world` for the splits).

    The original instruction includes an aspect; the changed one adds an exclusion, which makes a third to a
    half of the 8 to 12 relevant passages irrelevant.
    """
    _check_task(name, num_queries, num_candidates)
    tables: dict[str, list[dict]] = {config: [] for config in TASK_SPLITS}
    corpus: dict[str, str] = {}
    for number, need in enumerate(_task_needs(name, seed)[:num_queries]):
        writer = Writer(f"{seed}/{name}/{number}", held_out=True)
        query, include, exclude = writer.query(need), writer.include(need), writer.exclude(need)
        passages = _candidates(writer, need, num_candidates)
        corpus |= {digest(text): text for text in passages}
        base, original = str(301 + number), Need(need.domain, need.topic, need.include)
        for variant, wanted, instruction in (
            (f"{base}-og", original, include),
            (f"{base}-changed", need, f"{include} {exclude}"),
        ):
            _add_variant(tables, variant, query, instruction, passages, wanted)
        changed = [digest(text) for text, said in passages.items() if original.fits(said) and not need.fits(said)]
        tables["qrel_diff"].append({"query-id": base, "corpus-ids": changed})
    tables["corpus"] = [{"_id": doc_id, "title": "", "text": text} for doc_id, text in sorted(corpus.items())]
    return tables


def _check_task(name: str, num_queries: int, num_candidates: int) -> None:
    if name not in TASKS:
        raise InputError(f"task {name!r} is not one of {', '.join(TASKS)}: name one of these")
    most = len(_task_needs(name, 0))
    if not 1 <= num_queries <= most:
        raise InputError(f"num_queries is {num_queries}, allowed are 1 to {most} per task: choose a number between")
    if not MIN_CANDIDATES <= num_candidates <= MAX_CANDIDATES:
        allowed = f"{MIN_CANDIDATES} to {MAX_CANDIDATES}"
        raise InputError(f"num_candidates is {num_candidates}, allowed are {allowed}: choose a number between")


def _task_needs(name: str, seed: int) -> list[Need]:
    """Every held-out need of the domain in an order of the seed, no topic twice in a round."""
    rng = Writer(f"{seed}/{name}", held_out=True).rng
    rounds: dict[str, list[Need]] = {}
    for topic in topics(name):
        asked = askable(name, topic, held_out=True)
        needs = [Need(name, topic, a, b) for a in asked for b in aspects(name) if a != b]
        rounds[topic] = rng.sample(needs, len(needs))
    order = rng.sample(sorted(rounds), len(rounds))
    return [rounds[topic][number] for number in range(min(map(len, rounds.values()))) for topic in order]


def _candidates(writer: Writer, need: Need, num_candidates: int) -> dict[str, Subject]:
    """The texts to rank with what they say: the relevant ones, then three kinds of others in equal parts."""
    rng, (domain, topic) = writer.rng, (need.domain, need.topic)
    num_relevant = rng.randint(8, 12)
    num_changed = rng.randint(-(-num_relevant // 3), num_relevant // 2)
    kinds = [lambda: writer.subject(domain, topic, (need.include, need.exclude))] * num_changed
    kinds += [lambda: writer.subject(domain, topic, (need.include,), (need.exclude,))] * (num_relevant - num_changed)
    others = [
        lambda: writer.subject(domain, topic, (), (need.include,)),
        lambda: writer.elsewhere(domain, topic, (need.include,)),
        lambda: writer.elsewhere(rng.choice(DOMAINS), topic),
    ]
    texts: dict[str, Subject] = {}
    while len(texts) < num_candidates:
        number = len(texts)  # a text that is already there leaves it as it was: the kind is tried again
        said = (kinds[number] if number < num_relevant else others[number % 3])()
        texts.setdefault(writer.passage(said), said)
    return texts


def _add_variant(
    tables: dict[str, list[dict]],
    query_id: str,
    query: str,
    instruction: str,
    passages: dict[str, Subject],
    need: Need,
) -> None:
    """One query with one instruction: its records in every config."""
    tables["queries"].append({"_id": query_id, "text": query})
    tables["instruction"].append({"query-id": query_id, "instruction": instruction})
    relevant = [digest(text) for text, said in passages.items() if need.fits(said)]
    tables["default"] += [{"query-id": query_id, "corpus-id": doc_id, "score": 1.0} for doc_id in relevant]
    ranked = sorted(digest(text) for text in passages)
    tables["top_ranked"].append({"query-id": query_id, "corpus-ids": ranked})


# Files --------------------------------------------------------------------------------------------


def write_world(
    output: Path,
    num_rows: int,
    seed: int = 0,
    num_queries: int = 20,
    num_candidates: int = 60,
    rows_per_file: int = 100_000,
) -> None:
    """Write ``train/``, ``tasks/<name>/`` and ``tokenizer/`` into a new folder; memory stays flat."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output {str(output)!r} is not an empty folder: name a new folder, or empty this one")
    if num_rows < 1:
        raise InputError(f"num_rows is {num_rows}, allowed are 1 and more: ask for at least one row")
    for name in TASKS:
        for config, records in task_tables(name, seed, num_queries, num_candidates).items():
            path = output / "tasks" / name / config / f"{TASK_SPLITS[config]}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(records), path)
    _write_rows(output / "train", num_rows, seed, rows_per_file)
    build_tokenizer().save_pretrained(output / "tokenizer")


def _write_rows(folder: Path, num_rows: int, seed: int, rows_per_file: int, batch_size: int = 1000) -> None:
    folder.mkdir(parents=True)
    rows, num_files = training_rows(num_rows, seed), -(-num_rows // rows_per_file)
    for number in range(num_files):
        in_file = islice(rows, rows_per_file)
        with pq.ParquetWriter(folder / f"train-{number:05}-of-{num_files:05}.parquet", TRAIN_SCHEMA) as file:
            while batch := list(islice(in_file, batch_size)):
                file.write_table(pa.Table.from_pylist(batch, TRAIN_SCHEMA))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over the words of the world, built and not trained; letters and digits spell any other."""
    texts = [*lexicon.NUMBERS, *lexicon.QUERIES, *lexicon.INCLUDE, *lexicon.EXCLUDE]
    texts += [*lexicon.OPENINGS, *lexicon.CLOSINGS, *lexicon.TOPICS.values()]
    texts += [lexicon.SHARED_ASPECTS, *lexicon.ASPECTS.values()]
    words = set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", " ".join(texts)).lower()))
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [f"##{character}" for character in characters if character.isalnum()]
    tokens = [*SPECIAL_TOKENS, *characters, *pieces, *sorted(words - set(characters))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)
