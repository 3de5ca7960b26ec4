"""Published evaluation data read by column: ids, texts, lists and grades, each checked."""

import logging
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifir_lightning.data.record_files import Records
from ifir_lightning.data.tables import Tables
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Qrels
from ifir_lightning.records import Passage

_log = logging.getLogger(__name__)

MAX_GRADE = 1000
"""trec_eval counts the passages of each grade in memory."""


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
        except KeyError as error:
            raise self.error(config, f"column {name!r} is missing; every record needs it: add it") from error
        if None in values:
            raise self.error(config, f"column {name!r} holds null; every record needs a value: fill it in")
        return values

    def ids(self, config: str, name: str) -> list[str]:
        """A column of ids."""
        return self._ids(config, name, self.column(config, name))

    def texts(self, config: str, key: str, value: str) -> dict[str, str]:
        """A column of texts by one of distinct ids."""
        texts = self._mapping(config, key, value)
        for id_, text in texts.items():
            if not isinstance(text, str):
                raise self.error(config, f"{key} {id_!r} has {value} {text!r:.60}; allowed is text: correct it")
        return texts

    def lists(self, config: str) -> dict[str, tuple[str, ...]]:
        """query id -> ids of passages."""
        lists = self._mapping(config, "query-id", "corpus-ids")
        for query_id, doc_ids in lists.items():
            if not isinstance(doc_ids, list | tuple):
                fault = f"query-id {query_id!r} has corpus-ids {doc_ids!r:.60}; allowed is a list of ids: correct it"
                raise self.error(config, fault)
        return {query_id: tuple(self._ids(config, "corpus-ids", doc_ids)) for query_id, doc_ids in lists.items()}

    def _ids(self, config: str, name: str, values: Collection[object]) -> list[str]:
        """Ids, which may be stored as numbers; a run file could not hold any other."""
        ids = list(map(str, values))
        if not {*map(type, values)} <= {str, int} or " ".join(ids).split() != ids:
            wrong = next(v for v in values if type(v) not in (str, int) or str(v).split() != [str(v)])
            fault = f"{name} has {wrong!r:.60}; allowed are whole numbers and names without white space: rename it"
            raise self.error(config, fault)
        return ids

    def _mapping(self, config: str, key: str, value: str) -> dict[str, Any]:
        """One column by another, whose values are distinct ids."""
        ids = self.ids(config, key)
        mapping = dict(zip(ids, self.column(config, value), strict=True))
        if len(mapping) < len(ids):
            (repeated, count), *_ = Counter(ids).most_common(1)
            raise self.error(config, f"{key} {repeated!r} has {count} records; allowed is 1: remove others")
        return mapping

    def qrels(self, config: str, default_grade: int | None = None) -> Qrels:
        """Grades, whole numbers even where they are stored as floats; a pair may be repeated with the same grade.

        With ``default_grade`` the column score may be missing: every listed passage has that grade.
        """
        qrels: Qrels = {}
        pairs = list(zip(self.ids(config, "query-id"), self.ids(config, "corpus-id"), strict=True))
        without = default_grade is not None and "score" not in self.records(config)[0]
        grades = [default_grade] * len(pairs) if without else self.column(config, "score")
        for (query_id, doc_id), grade in zip(pairs, grades, strict=True):
            if not (isinstance(grade, int | float) and abs(grade) <= MAX_GRADE and grade == int(grade)):
                raise self.error(config, f"score {grade!r:.60}; allowed are whole grades 0, 1, 2: correct it")
            first = qrels.setdefault(query_id, {}).setdefault(doc_id, int(grade))
            if first != grade:
                both = f"query {query_id!r}, passage {doc_id!r} has the scores {first} and {int(grade)}"
                raise self.error(config, f"{both}; allowed is one: remove the other")
        if repeated := len(pairs) - sum(map(len, qrels.values())):
            _log.info("task %r, config %r: %d repeated judgements count once", self.task, config, repeated)
        return qrels

    def judged_texts(self, config: str, key: str, value: str, qrels: Qrels) -> dict[str, str]:
        """One column by another, for the queries of the qrels: each there and not empty."""
        texts = self.texts(config, key, value)
        if lacking := [query_id for query_id in qrels if not texts.get(query_id, "").strip()]:
            fault = f"query {lacking[0]!r} of the qrels has no {value}; every judged query needs one: add it"
            raise self.error(config, fault)
        return {query_id: texts[query_id] for query_id in qrels}

    def corpus(self) -> dict[str, Passage]:
        """Every passage of the config ``corpus``."""
        texts = self.texts("corpus", "_id", "text")
        titles = [record.get("title") for record in self.records("corpus")]
        for id_, title in zip(texts, titles, strict=True):
            if not isinstance(title, str | None):
                fault = f"_id {id_!r} has title {title!r:.60}; allowed are text and null: correct it"
                raise self.error("corpus", fault)
        return {id_: Passage(id_, title or "", text) for (id_, text), title in zip(texts.items(), titles, strict=True)}

    def listed_passages(
        self, candidates: Mapping[str, Iterable[str]], corpus: Mapping[str, Passage]
    ) -> dict[str, Passage]:
        """The passages that some candidate list of ``top_ranked`` names."""
        listed = {doc_id: query_id for query_id, doc_ids in candidates.items() for doc_id in doc_ids}
        for doc_id, query_id in listed.items():
            if doc_id not in corpus:
                fault = f"query {query_id!r} lists passage {doc_id!r}; allowed are the {len(corpus)} ids of corpus"
                raise self.error("top_ranked", f"{fault}: add it there or unlist it")
        return {doc_id: corpus[doc_id] for doc_id in listed}

    def qrels_config(self) -> str:
        """Where the one set of qrels lies: in ``default`` or, as mteb's re-uploads have it, in ``qrels``."""
        return "qrels" if "qrels" in self.tables and "default" not in self.tables else "default"

    def check_judged(self, qrels: Qrels, queries: Container[str], corpus: Container[str]) -> None:
        """Refuse qrels that can judge nothing: no query of theirs is known, or of none a relevant passage.

        Where it is some, they are counted. That other relevant passages are not in the corpus is usual: it was
        reduced to the candidates.
        """
        unknown = [query_id for query_id in qrels if query_id not in queries]
        self.refuse_or_count(unknown, len(qrels), "judged queries are not among the queries", "they are ignored")
        relevant = {id_: [doc_id for doc_id, grade in own.items() if grade > 0] for id_, own in qrels.items()}
        asked = {id_: own for id_, own in relevant.items() if own and id_ in queries}
        lost = [id_ for id_, own in asked.items() if not any(doc_id in corpus for doc_id in own)]
        self.refuse_or_count(lost, len(asked), "judged queries have no relevant passage in the corpus", "they count 0")

    def refuse_or_count(self, wrong: Sequence[str], total: int, fault: str, effect: str) -> None:
        """Where all are ``wrong`` the task is refused; where some are, a warning counts them and tells the effect."""
        if not wrong:
            return
        said = f"task {self.task!r}: {len(wrong)} of {total} {fault} (first {wrong[0]!r})"
        if len(wrong) == total:
            raise InputError(f"{said}; needed are the ids that queries and corpus have: correct them")
        _log.warning("%s: %s", said, effect)
