"""A teacher's scores of a training table, in a folder of parquet parts that can be continued.

``manifest.json`` says of which table and by which teacher; ``part-NNNNN.parquet`` holds the scores of so many rows of
the table, in its order: query_id, passage_ids and scores (of positives, instruction negatives, hard negatives). A part
is there whole or not at all.
"""

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError

from ifir_lightning import durable
from ifir_lightning.data.teacher_scores import COLUMN, SCORED_COLUMNS
from ifir_lightning.errors import InputError
from ifir_lightning.records import Row, row_passages

MANIFEST = "manifest.json"
ROWS_PER_PART = 256
_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_ids", pa.list_(pa.string())), (COLUMN, pa.list_(pa.float32()))]
)


class TeacherCache:
    """The folder, for one table.

    Args:
        folder: Of the cache.
        table: The training table, whole.
        path: Its name, for messages.
    """

    def __init__(self, folder: str, table: datasets.Dataset, path: str) -> None:
        self.folder, self.table, self.path = Path(folder), table, path

    def begin(self, teacher: dict[str, Any]) -> None:
        """Write the manifest, or see that the one which is there says the same.

        Raises:
            InputError: The folder holds something else: scores of other data or another teacher, or no cache.
        """
        manifest = {
            "table": fingerprint(self.table),
            "num_rows": len(self.table),
            "rows_per_part": ROWS_PER_PART,
            "teacher": teacher,
        }
        is_new = durable.is_new(self.folder)
        if not is_new:
            self._check_same(self._manifest(), manifest)
        durable.clear(self.folder)
        if is_new:
            durable.write_text(self.folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")

    def missing(self) -> Iterator[range]:
        """Rows of the table that no part holds, part by part."""
        for number, start in enumerate(range(0, len(self.table), ROWS_PER_PART)):
            if not self._part(number).exists():
                yield range(start, min(start + ROWS_PER_PART, len(self.table)))

    def write(self, numbers: range, rows: Sequence[Row], scores: Sequence[Sequence[float]]) -> None:
        """The part of these rows."""
        ids = [[passage.id for passage in row_passages(row)] for row in rows]
        part = pa.table([[row.query_id for row in rows], ids, list(scores)], schema=_SCHEMA)
        buffer = pa.BufferOutputStream()
        pq.write_table(part, buffer)
        durable.write_bytes(self._part(numbers.start // ROWS_PER_PART), buffer.getvalue())

    def read(self) -> datasets.Dataset:
        """The table with the scores as its column ``teacher_scores``, memory-mapped like it.

        Raises:
            InputError: No cache, of other data, or not complete.
        """
        manifest = self._manifest()
        if manifest.get("table") != fingerprint(self.table):
            raise InputError(
                f"data.teacher_scores {self.folder} holds scores of other data than {self.path}; allowed is a cache of "
                f"these data, whose ids and texts have not changed since: write one with the command teach"
            )
        parts = [self._part(number) for number in range(-(-len(self.table) // manifest["rows_per_part"]))]
        if absent := [part.name for part in parts if not part.exists()]:
            raise InputError(
                f"data.teacher_scores {self.folder} lacks {len(absent)} of {len(parts)} parts, first {absent[0]}; "
                "allowed is a complete cache: run teach again, which continues it"
            )
        names = [glob.escape(str(part)) for part in parts]
        try:
            scores = datasets.load_dataset("parquet", data_files=names, split="train")
        except (DatasetsError, OSError, ValueError) as error:
            raise InputError(
                f"data.teacher_scores {self.folder}: a part cannot be read ({' '.join(str(error).split())}); allowed "
                "are parts as teach wrote them: remove those that are damaged and run teach again"
            ) from error
        self._check_ids(scores)
        bare = self.table.remove_columns([COLUMN]) if COLUMN in self.table.column_names else self.table
        return datasets.concatenate_datasets([bare, scores.select_columns([COLUMN])], axis=1)

    def _check_ids(self, scores: datasets.Dataset) -> None:
        asked = self.table.data.column("query_id").cast(pa.string())
        if len(scores) != len(self.table) or not scores.data.column("query_id").equals(asked):
            raise InputError(
                f"data.teacher_scores {self.folder} holds other queries than its manifest says; allowed is a cache as "
                "teach wrote it: remove the folder and write it again"
            )

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.parquet"

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            if not (isinstance(manifest, dict) and isinstance(manifest.get("rows_per_part"), int)):
                raise ValueError("it says nothing of rows_per_part")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.folder} is no cache of teacher scores (no readable {MANIFEST}); allowed is a folder that teach "
                "wrote, or for teach a new or empty one: name another"
            ) from error
        return manifest

    def _check_same(self, written: dict[str, Any], manifest: dict[str, Any]) -> None:
        flat = [record | record.get("teacher", {}) for record in (written, manifest)]
        for name, value in flat[1].items():
            if name != "teacher" and flat[0].get(name) != value:
                what = "data" if name in ("table", "num_rows") else "a teacher"
                raise InputError(
                    f"{self.folder} holds scores of {what} whose {name} is {flat[0].get(name)!r}, now it is {value!r}; "
                    "allowed is to continue the same: name another --output, or remove the folder"
                )


def fingerprint(table: datasets.Dataset) -> str:
    """A digest of ids, queries, instructions, and of passages' ids and the lengths of their titles and texts.

    Lengths, because to read the texts of a million rows takes minutes: a text that changes at equal length is not seen.
    Field by field through all chunks, so that it is the same however the table lies in row groups and files.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in ("query_id", "only_query", "query", "only_instruction", "has_instruction"):
        if name in table.column_names:
            for chunk in table.data.column(name).chunks:
                digest.update(_lines(chunk))
    for name in SCORED_COLUMNS:
        chunks = table.data.column(name).chunks
        for chunk in chunks:
            digest.update(_numbers(pc.list_value_length(chunk)))
        for field in ("docid", "title", "text"):
            for chunk in chunks:
                passages = chunk.flatten()
                if len(passages) and passages.type.get_field_index(field) >= 0:
                    texts = pc.struct_field(passages, field)
                    digest.update(_lines(texts) if field == "docid" else _lengths(texts))
    return digest.hexdigest()


def _lengths(texts: pa.Array) -> bytes:
    return _numbers(pc.binary_length(texts.cast(pa.string())))


def _numbers(counts: pa.Array) -> bytes:
    return pc.fill_null(counts, 0).cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes()


def _lines(texts: pa.Array) -> bytes:
    return "".join(f"{text}\n" for text in texts.cast(pa.string()).to_pylist()).encode()
