"""Published evaluation data as tables (config name -> records), from folders and the hub, and read by column."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from datasets import get_dataset_config_names, load_dataset

from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Qrels
from ifir_lightning.records import Passage

T = TypeVar("T")
Records = list[dict[str, Any]]
Tables = dict[str, Records]

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def _read_tsv(file: Path) -> Records:
    """BEIR's qrels: tab-separated, with a header."""
    with open(file, newline="", encoding="utf-8") as lines:
        return [record | {"score": float(record["score"])} for record in csv.DictReader(lines, delimiter="\t")]


READERS: dict[str, Callable[[Path], Records]] = {
    ".parquet": lambda file: pq.read_table(file, partitioning=None).to_pylist(),
    ".jsonl": lambda file: [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line],
    ".tsv": _read_tsv,
}


def task_name(path_or_id: str) -> str:
    """A short name for metrics and files: core17, followir-mini-core17, synthetic-travel."""
    path = Path(path_or_id).expanduser()
    last = path.resolve().name if path.is_dir() else path_or_id.partition("@")[0].rstrip("/").rpartition("/")[2]
    last = re.sub(r"(-instructions(-mteb)?|InstructionRetrieval)$", "", last)
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-") or "task"


def read_tables(path_or_id: str, configs: Collection[str]) -> Tables:
    """The records of those of ``configs`` that there are, from a folder or the hub (``owner/name[@revision]``).

    In a folder, a config is a folder of parquet, jsonl or tsv files, or one file ``CONFIG.jsonl`` (as in BEIR).
    """
    folder = Path(path_or_id).expanduser()
    if path_or_id and folder.is_dir():
        return _read_folder(folder, configs)
    beside_others = len(folder.parts) > 1 and folder.parent.is_dir()
    if HUB_ID.fullmatch(path_or_id) and not beside_others:
        hub_id, _, revision = path_or_id.partition("@")
        return _read_hub(hub_id, revision or None, configs)
    raise InputError(
        f"task {path_or_id!r} is no folder; allowed are a folder, a hub id owner/name[@revision] and"
        " synthetic/NAME: check the path"
    )


def _read_folder(folder: Path, configs: Collection[str]) -> Tables:
    tables = {}
    for part in sorted(folder.iterdir()):
        name = part.name if part.is_dir() else part.stem
        config = re.sub(r"^data(?=$|-)", "default", name)  # push_to_hub puts the config "default" there
        if config not in configs:
            continue
        if part.is_dir() and (splits := _files_by_split(part)):
            tables[config] = [record for file in _one_split(part, splits) for record in _read_file(file)]
        elif part.suffix in READERS:
            tables[config] = _read_file(part)
    return tables


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for file in sorted(file for file in folder.iterdir() if file.suffix in READERS):
        splits.setdefault(re.split(r"[-.\d]", file.name)[0], []).append(file)
    return splits


def _read_file(file: Path) -> Records:
    try:
        return READERS[file.suffix](file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file}: {reason}; allowed are {file.suffix} files: fetch it again") from error


def _read_hub(hub_id: str, revision: str | None, configs: Collection[str]) -> Tables:
    try:
        present = set(configs).intersection(get_dataset_config_names(hub_id, revision=revision))
        loaded = {config: load_dataset(hub_id, config, revision=revision) for config in sorted(present)}
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
class Source:
    """The tables of a task, read by column: its errors name the task, the config and what is wrong there.

    ``needed`` are the configs that its layout consists of.
    """

    task: str
    tables: Tables
    needed: tuple[str, ...]

    def error(self, config: str, fault: str) -> InputError:
        """What is wrong with a config."""
        return InputError(f"task {self.task!r}, config {config!r}: {fault}")

    def records(self, config: str) -> Records:
        """The records of a config, one or more."""
        if not (records := self.tables.get(config)):
            needed = ", ".join(self.needed)
            raise self.error(config, f"missing or empty, found {list(self.tables)}; needed are {needed}: add it")
        return records

    def column(self, config: str, name: str) -> list[Any]:
        """The values of a column, none of them null; ``_id`` may be called ``id``."""
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
        """A column of ids, which may be stored as numbers."""
        return [str(value) for value in self.column(config, name)]

    def mapping(self, config: str, key: str, value: str) -> dict[str, Any]:
        """One column by another, whose values are distinct ids."""
        ids = self.ids(config, key)
        mapping = dict(zip(ids, self.column(config, value), strict=True))
        if len(mapping) < len(ids):
            (repeated, count), *_ = Counter(ids).most_common(1)
            raise self.error(config, f"{key} {repeated!r} has {count} records; allowed is 1: remove others")
        return mapping

    def lists(self, config: str) -> dict[str, tuple[str, ...]]:
        """query id -> ids of passages."""
        lists = self.mapping(config, "query-id", "corpus-ids")
        return {query_id: tuple(map(str, doc_ids)) for query_id, doc_ids in lists.items()}

    def qrels(self, config: str, default_grade: int | None = None) -> Qrels:
        """Grades, whole numbers even where they are stored as floats.

        With ``default_grade`` the column score may be missing: every listed passage has that grade.
        """
        qrels: Qrels = {}
        pairs = list(zip(self.ids(config, "query-id"), self.ids(config, "corpus-id"), strict=True))
        without = default_grade is not None and "score" not in self.records(config)[0]
        grades = [default_grade] * len(pairs) if without else self.column(config, "score")
        for (query_id, doc_id), grade in zip(pairs, grades, strict=True):
            if not (isinstance(grade, int | float) and float(grade).is_integer()):
                raise self.error(config, f"score {grade!r}; allowed are whole grades 0, 1, 2: correct it")
            qrels.setdefault(query_id, {})[doc_id] = int(grade)
        return qrels

    def judged_texts(self, config: str, key: str, value: str, qrels: Qrels) -> dict[str, str]:
        """One column by another, for the queries of the qrels: each there and not empty."""
        texts = self.mapping(config, key, value)
        if lacking := [query_id for query_id in qrels if not str(texts.get(query_id, "")).strip()]:
            fault = f"query {lacking[0]!r} of the qrels has no {value}; every judged query needs one: add it"
            raise self.error(config, fault)
        return {query_id: texts[query_id] for query_id in qrels}

    def corpus(self) -> dict[str, Passage]:
        """Every passage of the config ``corpus``."""
        texts = self.mapping("corpus", "_id", "text")
        titles = (record.get("title") for record in self.records("corpus"))
        return {id_: Passage(id_, title or "", text) for (id_, text), title in zip(texts.items(), titles, strict=True)}

    def listed_passages(self, candidates: Mapping[str, Iterable[str]]) -> dict[str, Passage]:
        """The passages that some candidate list of ``top_ranked`` names."""
        corpus = self.corpus()
        listed = {doc_id: query_id for query_id, doc_ids in candidates.items() for doc_id in doc_ids}
        for doc_id, query_id in listed.items():
            if doc_id not in corpus:
                fault = f"query {query_id!r} lists passage {doc_id!r}; allowed are the {len(corpus)} ids of corpus"
                raise self.error("top_ranked", f"{fault}: add it there or unlist it")
        return {doc_id: corpus[doc_id] for doc_id in listed}

    def qrels_config(self) -> str:
        """Where the one set of qrels lies: in ``default`` or, as mteb's re-uploads have it, in ``qrels``."""
        return "qrels" if "qrels" in self.tables and "default" not in self.tables else "default"
