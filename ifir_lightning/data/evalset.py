"""Tasks in FollowIR's layout: queries asked with an original and a changed instruction, and their candidates.

Three layouts are in circulation. Each is read as tables (config name -> records) and becomes one ``Task``:

- v2 (``jhu-clsp/core17-instructions-mteb``): queries 310-og and 310-changed; configs corpus, queries,
  instruction, default (the qrels), qrel_diff, top_ranked;
- its re-upload (``mteb/Core17InstructionRetrieval``, for mteb >= 2.10.7): qrels in config default or qrels;
- v1 (``jhu-clsp/core17-instructions``): query 310 with instruction_og and instruction_changed; qrels_og and
  qrels_changed; top_ranked with one row per pair.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow.parquet as pq
from datasets import get_dataset_config_names, load_dataset

from ifir_lightning.data import synthetic
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import CHANGED, ORIGINAL, Metric, Qrels, base_ids
from ifir_lightning.records import Passage

T = TypeVar("T")
Records = list[dict[str, Any]]
Tables = dict[str, Records]

V2_CONFIGS = ("corpus", "queries", "instruction", "default", "qrels", "qrel_diff", "top_ranked")
V1_QRELS = {"qrels_og": ORIGINAL, "qrels_changed": CHANGED}
V1_CONFIGS = ("corpus", "queries", *V1_QRELS, "top_ranked")
CONFIGS = {*V2_CONFIGS, *V1_CONFIGS}
FOLDERS = {"data": "default"}  # push_to_hub puts the config "default" there
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
SYNTHETIC = "synthetic/"
READERS: dict[str, Callable[[Path], Records]] = {
    ".parquet": lambda file: pq.read_table(file, partitioning=None).to_pylist(),
    ".jsonl": lambda file: [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line],
}


@dataclass(frozen=True)
class Task:
    """One task. Every query id is a key of ``queries``, ``instructions``, ``candidates`` and ``qrels``.

    Attributes:
        passages: those that some candidate list names, by id.
        candidates: the passages to rank for each query.
        qrels: grades; empty for a query without judgements.
        changed: for EVERY base id the passages whose relevance the changed instruction changes, if any.
        metric: what the task's Score is.
    """

    name: str
    queries: dict[str, str]
    instructions: dict[str, str]
    passages: dict[str, Passage]
    candidates: dict[str, tuple[str, ...]]
    qrels: Qrels
    changed: dict[str, tuple[str, ...]]
    metric: Metric

    @property
    def base_ids(self) -> tuple[str, ...]:
        """The distinct base queries: 310 for 310-og and 310-changed."""
        return tuple(self.changed)


def load_task(path_or_id: str) -> Task:
    """Read a task from a folder (one folder of parquet or jsonl files per config), from the hub
    (``owner/name`` or ``owner/name@revision``) or from the built-in world (``synthetic/NAME``; a folder with
    that path is reached as ``./synthetic/NAME``).
    """
    return task_from_tables(task_name(path_or_id), read_tables(path_or_id))


def task_name(path_or_id: str) -> str:
    """A short name for metrics and files: core17, followir-mini-core17, synthetic-travel."""
    path = Path(path_or_id).expanduser()
    last = path.resolve().name if path.is_dir() else path_or_id.partition("@")[0].rstrip("/").rpartition("/")[2]
    if path_or_id.startswith(SYNTHETIC):
        last = path_or_id
    last = re.sub(r"(-instructions(-mteb)?|InstructionRetrieval)$", "", last)
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-") or "task"


def read_tables(path_or_id: str) -> Tables:
    """The records of each config that a task needs, wherever they lie."""
    folder = Path(path_or_id).expanduser()
    if path_or_id.startswith(SYNTHETIC):
        return synthetic.task_tables(path_or_id.removeprefix(SYNTHETIC))
    if path_or_id and folder.is_dir():
        return _read_folder(folder)
    beside_others = len(folder.parts) > 1 and folder.parent.is_dir()
    if HUB_ID.fullmatch(path_or_id) and not beside_others:
        hub_id, _, revision = path_or_id.partition("@")
        return _read_hub(hub_id, revision or None)
    raise InputError(
        f"task {path_or_id!r} is no folder; allowed are a folder, a hub id owner/name[@revision] and"
        " synthetic/NAME: check the path"
    )


def _read_folder(folder: Path) -> Tables:
    tables = {}
    for part in sorted(folder.iterdir()):
        config = FOLDERS.get(part.name, part.name)
        if config in CONFIGS and part.is_dir() and (splits := _files_by_split(part)):
            tables[config] = [record for file in _one_split(part, splits) for record in _read_file(file)]
    return tables


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for file in sorted(file for file in folder.iterdir() if file.suffix in READERS):
        splits.setdefault(re.split(r"[-.\d]", file.name)[0], []).append(file)
    return splits


def _read_file(file: Path) -> Records:
    try:
        return READERS[file.suffix](file)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file}: {reason}; allowed are {file.suffix} files: fetch it again") from error


def _read_hub(hub_id: str, revision: str | None) -> Tables:
    try:
        configs = CONFIGS.intersection(get_dataset_config_names(hub_id, revision=revision))
        loaded = {config: load_dataset(hub_id, config, revision=revision) for config in sorted(configs)}
    # The errors of datasets, of the hub's client, of its HTTP library and of arrow share no other base.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"task {hub_id!r} (revision {revision}) is no folder and the hub did not give it: {reason};"
            " allowed are folders and owner/name[@revision]: check the name, the network and HF_TOKEN"
        ) from error
    return {config: _one_split(f"{hub_id}/{config}", splits).to_list() for config, splits in loaded.items()}


def _one_split(where: object, splits: Mapping[str, T]) -> T:
    if len(splits) > 1 and "test" not in splits:
        raise InputError(f"{where} has splits {list(splits)}; allowed is one, or one called test: remove others")
    return splits["test"] if "test" in splits else next(iter(splits.values()))


@dataclass(frozen=True)
class _Source:
    """The tables of a task, read by column: its errors name the task, the config and what is wrong there."""

    task: str
    tables: Tables

    def error(self, config: str, fault: str) -> InputError:
        return InputError(f"task {self.task!r}, config {config!r}: {fault}")

    @property
    def is_v1(self) -> bool:
        return not V1_QRELS.keys().isdisjoint(self.tables)

    def records(self, config: str) -> Records:
        if not (records := self.tables.get(config)):
            needed = ", ".join(V1_CONFIGS if self.is_v1 else V2_CONFIGS)
            raise self.error(config, f"missing or empty, found {list(self.tables)}; needed are {needed}: add it")
        return records

    def column(self, config: str, name: str) -> list[Any]:
        records = self.records(config)
        try:
            key = "id" if name == "_id" and "_id" not in records[0] else name
            values = [record[key] for record in records]
        except (KeyError, TypeError) as error:
            raise self.error(config, f"column {name!r} is missing; every record needs it: add it") from error
        if None in values:
            raise self.error(config, f"column {name!r} holds null; every record needs a value: fill it in")
        return values

    def ids(self, config: str, name: str) -> list[str]:
        return [str(value) for value in self.column(config, name)]

    def mapping(self, config: str, key: str, value: str) -> dict[str, Any]:
        ids = self.ids(config, key)
        mapping = dict(zip(ids, self.column(config, value), strict=True))
        if len(mapping) < len(ids):
            (repeated, count), *_ = Counter(ids).most_common(1)
            raise self.error(config, f"{key} {repeated!r} has {count} records; allowed is 1: remove others")
        return mapping

    def lists(self, config: str) -> dict[str, tuple[str, ...]]:
        lists = self.mapping(config, "query-id", "corpus-ids")
        return {query_id: tuple(map(str, doc_ids)) for query_id, doc_ids in lists.items()}

    def qrels(self, config: str) -> Qrels:
        """Grades, whole numbers even where they are stored as floats."""
        qrels: Qrels = {}
        pairs = zip(self.ids(config, "query-id"), self.ids(config, "corpus-id"), strict=True)
        for (query_id, doc_id), grade in zip(pairs, self.column(config, "score"), strict=True):
            if not (isinstance(grade, int | float) and float(grade).is_integer()):
                raise self.error(config, f"score {grade!r}; allowed are whole grades 0, 1, 2: correct it")
            qrels.setdefault(query_id, {})[doc_id] = int(grade)
        return qrels


class _Parts(NamedTuple):
    """What a layout says about its queries, each asked with both instructions."""

    queries: dict[str, str]
    instructions: dict[str, str]
    candidates: dict[str, tuple[str, ...]]
    qrels: Qrels
    changed: dict[str, tuple[str, ...]]


def task_from_tables(name: str, tables: Tables) -> Task:
    """Check and join the tables of any layout; what they say of unknown queries is left out."""
    source = _Source(name, tables)
    parts = _from_v1(source) if source.is_v1 else _from_v2(source)
    _check_queries(name, parts)
    candidates = {query_id: tuple(dict.fromkeys(parts.candidates[query_id])) for query_id in parts.queries}
    return Task(
        name=name,
        queries=parts.queries,
        instructions={query_id: parts.instructions[query_id] for query_id in parts.queries},
        passages=_passages(source, candidates),
        candidates=candidates,
        qrels={query_id: parts.qrels.get(query_id, {}) for query_id in parts.queries},
        changed={base: parts.changed.get(base, ()) for base in base_ids(parts.queries)},
        metric="ndcg_5" if "news21" in name.lower() else "map_1000",
    )


def _from_v2(source: _Source) -> _Parts:
    qrels = "qrels" if "qrels" in source.tables and "default" not in source.tables else "default"
    return _Parts(
        queries=source.mapping("queries", "_id", "text"),
        instructions=source.mapping("instruction", "query-id", "instruction"),
        candidates=source.lists("top_ranked"),
        qrels=source.qrels(qrels),
        changed=source.lists("qrel_diff"),
    )


def _from_v1(source: _Source) -> _Parts:
    """One query becomes two; changed are the passages whose grade differs, as mteb 1.x finds them."""
    texts = source.mapping("queries", "_id", "text")
    listed: dict[str, list[str]] = {base: [] for base in texts}
    for base, doc_id in zip(source.ids("top_ranked", "qid"), source.ids("top_ranked", "pid"), strict=True):
        listed.setdefault(base, []).append(doc_id)
    parts = _Parts({}, {}, {}, {}, {})
    for config, end in V1_QRELS.items():
        instructions = source.mapping("queries", "_id", config.replace("qrels", "instruction"))
        qrels = source.qrels(config)
        for base, text in texts.items():
            parts.queries[base + end] = text
            parts.instructions[base + end] = instructions[base]
            parts.candidates[base + end] = tuple(listed[base])
            parts.qrels[base + end] = qrels.get(base, {})
    for base in texts:
        before, after = parts.qrels[base + ORIGINAL], parts.qrels[base + CHANGED]
        parts.changed[base] = tuple(doc_id for doc_id in before if before[doc_id] != after.get(doc_id, 0))
    return parts


def _check_queries(name: str, parts: _Parts) -> None:
    queries, bases = set(parts.queries), base_ids(parts.queries)
    pairs = {base + end for base in bases for end in (ORIGINAL, CHANGED)}
    both = f"allowed are pairs BASE{ORIGINAL} and BASE{CHANGED}"
    empty = {query_id for query_id, text in parts.queries.items() if not str(text).strip()}
    ranked = {query_id for query_id, doc_ids in parts.candidates.items() if doc_ids}
    for query_ids, fault in (
        (queries - pairs, f"has neither ending; {both}: rename it"),
        (pairs - queries, f"is missing, its other variant is there; {both}: add it"),
        (empty, "has an empty text; every query needs one: fill it in or remove both variants"),
        (queries - set(parts.instructions), "has no instruction; allowed is '': add a record to instruction"),
        (queries - ranked, "has no candidates; allowed are 1 or more: add them to top_ranked"),
        (set(parts.changed) - set(bases), f"of qrel_diff is unknown; allowed are {bases[:3]} ...: remove it"),
    ):
        if query_ids:
            raise InputError(f"task {name!r}, query {min(query_ids)!r} {fault}")


def _passages(source: _Source, candidates: Mapping[str, tuple[str, ...]]) -> dict[str, Passage]:
    texts = source.mapping("corpus", "_id", "text")
    titles = dict(zip(texts, (record.get("title") for record in source.records("corpus")), strict=True))
    listed = {doc_id: query_id for query_id, doc_ids in candidates.items() for doc_id in doc_ids}
    for doc_id, query_id in listed.items():
        if doc_id not in texts:
            fault = f"query {query_id!r} lists passage {doc_id!r}; allowed are the {len(texts)} ids of corpus"
            raise source.error("top_ranked", f"{fault}: add it there or unlist it")
    return {doc_id: Passage(doc_id, titles[doc_id] or "", texts[doc_id]) for doc_id in listed}
