"""The columns of a training table: which there must be, of which types, and what they must hold.

Everything is looked at in Arrow, batch by batch. Of passages offsets and validity are read, no text, so that a million
rows are checked in seconds.
"""

import logging
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ifir_lightning.errors import InputError

_log = logging.getLogger(__name__)
PASSAGE_COLUMNS = ("positive_passages", "negative_passages", "new_negatives")
REQUIRED_COLUMNS = ("query_id", "only_instruction", "has_instruction", *PASSAGE_COLUMNS)
_TEXT_COLUMNS = ("query", "only_query", "only_instruction")


def check_columns(table: pa.Table, path: str) -> None:
    """See that all columns, and all fields of passages, are there and have types that the reader understands.

    Raises:
        InputError: They do not.
    """
    if missing := _missing_columns(table):
        raise InputError(
            f"{path} lacks {', '.join(missing)}: a training table has {', '.join(REQUIRED_COLUMNS)}, and "
            "only_query or query, none of them all null: add what is missing, empty where there is nothing"
        )
    if wrong := _wrong_types(table.schema):
        raise InputError(
            f"{path}: {', '.join(wrong)}; allowed are text (or whole numbers in query_id and docid), true and false "
            "(or 1 and 0) in has_instruction, and lists of passages with docid, text and title: convert them"
        )


def check_rows(table: pa.Table, path: str) -> None:
    """See that every row can be trained on; what is only odd is counted and told.

    Raises:
        InputError: Rows without an id, a query or positives, passages without a docid, flags that are neither true nor
            false; only empty instructions, or only empty passages in a column.
    """
    nameless = table.column("query_id").is_null().to_numpy()
    _refuse(table, path, nameless, "has no query_id", "needs one")
    bare = list_lengths(table, "positive_passages") == 0
    _refuse(table, path, bare, "has no positives", "needs a passage in positive_passages")
    empty = np.concatenate([_empty_queries(batch) for batch in table.to_batches()])
    _refuse(table, path, empty, "has an empty query", "needs text in only_query or query")
    for name in PASSAGE_COLUMNS:
        lacking = _count_passages(table, name, _without_docid) > 0
        _refuse(table, path, lacking, f"has a passage without docid in {name}", "needs a docid for each passage")
        _check_texts(table, path, name)
    _check_instructions(table, path)


def list_lengths(table: pa.Table, name: str) -> np.ndarray:
    """Items per row, from the offsets alone: no text is read. Chunk by chunk: pyarrow keeps what it once took."""
    return np.concatenate([_filled(pc.list_value_length(chunk), 0) for chunk in table.column(name).chunks])


def flags(table: pa.Table) -> np.ndarray:
    """The has_instruction column [num_rows] as booleans; null counts as False."""
    return _filled(table.column("has_instruction").cast(pa.bool_()), False)


def _missing_columns(table: pa.Table) -> list[str]:
    """Names of columns, and of fields of passages, that the reader needs and the table lacks."""
    present = {name for name in table.column_names if table.column(name).null_count < table.num_rows}
    missing = [name for name in REQUIRED_COLUMNS if name not in present]
    if not present & {"only_query", "query"}:
        missing.append("only_query")
    for name in PASSAGE_COLUMNS:
        item = _item_type(table.schema.field(name).type) if name in present else None
        if item is not None and pa.types.is_struct(item):
            column = table.column(name)
            missing += [f"{name}[].{field}" for field in ("docid", "text") if not _is_present(column, field)]
    return missing


def _item_type(column: pa.DataType) -> pa.DataType | None:
    is_list = pa.types.is_list(column) or pa.types.is_large_list(column)
    return column.value_type if is_list else None


def _is_present(column: pa.ChunkedArray, field: str) -> bool:
    """Whether some passages have a value in the field, or there is no passage."""
    parts = [_field(chunk.flatten(), field) for chunk in column.chunks]
    return any(part.null_count < len(part) for part in parts) or not any(map(len, parts))


def _field(passages: pa.StructArray | pa.NullArray, name: str) -> pa.Array:
    """A field of passages, null where a passage is null itself and where there is no such field."""
    if pa.types.is_null(passages.type) or passages.type.get_field_index(name) < 0:
        return pa.nulls(len(passages))
    return pc.struct_field(passages, name)


def _wrong_types(schema: pa.Schema) -> list[str]:
    """What the columns hold that the reader does not understand, e.g. "only_query is int64"."""
    kinds = {field.name: field.type for field in schema}
    wrong = [name for name in _TEXT_COLUMNS if name in kinds and not _is_text(kinds[name])]
    if not _is_id(kinds["query_id"]):
        wrong.append("query_id")
    for name in PASSAGE_COLUMNS:
        item = _item_type(kinds[name])
        if item is None or not (pa.types.is_struct(item) or pa.types.is_null(item)):
            wrong.append(name)
        elif pa.types.is_struct(item):
            kinds |= {f"{name}[].{field.name}": field.type for field in item}
            wrong += [
                key
                for field, is_right in (("docid", _is_id), ("text", _is_text), ("title", _is_text))
                if (key := f"{name}[].{field}") in kinds and not is_right(kinds[key])
            ]
    flag = kinds["has_instruction"]
    if not (pa.types.is_boolean(flag) or pa.types.is_integer(flag) or pa.types.is_floating(flag)):
        wrong.append("has_instruction")
    return [f"{name} is {kinds[name]}" for name in wrong]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(getattr(pa.types, f"is_{name}")(kind) for name in ("string", "large_string", "string_view", "null"))


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _filled(values: pa.Array | pa.ChunkedArray, null: object) -> np.ndarray:
    return np.asarray(pc.fill_null(values, null))


def _empty_queries(batch: pa.RecordBatch) -> np.ndarray:
    """True where neither only_query nor query has text; ``query`` is read only where it is needed."""
    empty = np.ones(len(batch), dtype=bool)
    for name in ("only_query", "query"):
        if name in batch.schema.names and empty.any():
            empty &= _is_blank(batch.column(name))
    return empty


def _is_blank(texts: pa.Array) -> np.ndarray:
    """True for null, for "", and where there is nothing but space."""
    return (_text_lengths(texts) == 0) | _filled(pc.utf8_is_space(_plain(texts)), False)


def _text_lengths(texts: pa.Array) -> np.ndarray:
    """Bytes of each text, from the offsets alone."""
    return _filled(pc.binary_length(_plain(texts)), 0)


def _plain(texts: pa.Array) -> pa.Array:
    """Texts of any Arrow type as one that Arrow computes with."""
    is_plain = pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)
    return texts if is_plain else texts.cast(pa.large_string())


def _count_passages(
    table: pa.Table, name: str, is_faulty: Callable[[pa.StructArray | pa.NullArray], np.ndarray]
) -> np.ndarray:
    """How many passages of each row are faulty [num_rows]."""
    counts = []
    for chunk in table.column(name).chunks:
        rows_of_passages = pc.list_parent_indices(chunk).to_numpy()
        counts.append(np.bincount(rows_of_passages[is_faulty(chunk.flatten())], minlength=len(chunk)))
    return np.concatenate(counts)


def _without_docid(passages: pa.StructArray | pa.NullArray) -> np.ndarray:
    return np.asarray(_field(passages, "docid").is_null())


def _without_text(passages: pa.StructArray | pa.NullArray) -> np.ndarray:
    """True where text and title are null or ""."""
    text, title = (_text_lengths(_field(passages, name)) for name in ("text", "title"))
    return (text == 0) & (title == 0)


def _check_texts(table: pa.Table, path: str, name: str) -> None:
    counts = _count_passages(table, name, _without_text)
    num_empty, num_passages = counts.sum(), list_lengths(table, name).sum()
    if not num_empty:
        return
    if num_empty == num_passages:
        raise InputError(f"{path}: all passages in {name} are empty; allowed are passages with a text: fill them in")
    _log.warning(
        "%s: %d of %d passages in %s are empty, the first in row %d: they are trained on like others",
        path,
        num_empty,
        num_passages,
        name,
        (counts > 0).argmax(),
    )


def _check_instructions(table: pa.Table, path: str) -> None:
    values = table.column("has_instruction").unique().to_pylist()
    if wrong := [value for value in values if value not in (0, 1, None)]:
        raise InputError(
            f"{path}: has_instruction is {wrong[0]!r} in some row; allowed are true and false, or 1 and 0: convert it"
        )
    if unknown := table.column("has_instruction").null_count:
        first = table.column("has_instruction").is_null().to_numpy().argmax()
        _log.warning(
            "%s: %d of %d rows have no has_instruction, the first is row %d: they count as rows without an instruction",
            path,
            unknown,
            table.num_rows,
            first,
        )
    flagged = flags(table)
    blank = np.concatenate([_is_blank(chunk) for chunk in table.column("only_instruction").chunks])
    if num_unread := int((~flagged & ~blank).sum()):
        _log.warning(
            "%s: %d rows have an only_instruction but not has_instruction, the first is row %d: they are trained on "
            "without it",
            path,
            num_unread,
            (~flagged & ~blank).argmax(),
        )
    lacking = np.flatnonzero(flagged & blank)
    if not len(lacking):
        return
    if len(lacking) == flagged.sum():
        raise InputError(
            f"{path}: no row with has_instruction has text in only_instruction; allowed are rows that have both: fill "
            "it in, or set has_instruction to false"
        )
    _log.warning(
        "%s: %d of %d rows with has_instruction have an empty only_instruction, the first is row %d: they are trained "
        "on without one",
        path,
        len(lacking),
        flagged.sum(),
        lacking[0],
    )


def _refuse(table: pa.Table, path: str, is_faulty: np.ndarray, fault: str, rule: str) -> None:
    """InputError that names the first of the rows and how many there are, unless there are none."""
    rows = np.flatnonzero(is_faulty)
    if len(rows):
        query_id = table.column("query_id")[int(rows[0])].as_py()
        raise InputError(
            f"{path}: row {rows[0]} (query_id {query_id!r}) {fault} ({len(rows)} of {table.num_rows} rows): "
            f"every row {rule}: add it or remove such rows"
        )
