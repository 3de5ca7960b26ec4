"""A task of two base queries in FollowIR's layouts, as tables and on disk."""

import copy
import json

import pyarrow as pa
import pyarrow.parquet as pq

GRADES = {"1-og": {"a": 2, "b": 1}, "1-changed": {"a": 2, "b": 0}, "2-og": {"c": 1}, "2-changed": {"c": 1}}
LISTS = {"1": ["b", "a"], "2": ["a", "c"]}

V2 = {
    "corpus": [{"_id": key, "title": f"T{key}", "text": f"text {key}"} for key in "abcd"],
    "queries": [{"_id": query_id, "text": f"query {query_id[0]}"} for query_id in GRADES],
    "instruction": [{"query-id": query_id, "instruction": f"do {query_id}"} for query_id in GRADES],
    "default": [
        {"query-id": query_id, "corpus-id": doc_id, "score": float(grade)}
        for query_id, grades in GRADES.items()
        for doc_id, grade in grades.items()
    ],
    "qrel_diff": [{"query-id": "1", "corpus-ids": ["b"]}, {"query-id": "2", "corpus-ids": []}],
    "top_ranked": [{"query-id": query_id, "corpus-ids": LISTS[query_id[0]]} for query_id in GRADES],
}
V1 = {
    "corpus": V2["corpus"],
    "queries": [
        {
            "_id": base,
            "text": f"query {base}",
            "instruction_og": f"do {base}-og",
            "instruction_changed": f"do {base}-changed",
        }
        for base in "12"
    ],
    "top_ranked": [{"qid": base, "pid": doc_id} for base, doc_ids in LISTS.items() for doc_id in doc_ids],
} | {
    f"qrels_{variant}": [
        record | {"query-id": record["query-id"][0]} for record in V2["default"] if record["query-id"].endswith(variant)
    ]
    for variant in ("og", "changed")
}
MTEB = {("qrels" if config == "default" else config): records for config, records in V2.items()}


def v2(**changes):
    """The tables with some configs replaced, or left out by None."""
    tables = copy.deepcopy(V2) | changes
    return {config: records for config, records in tables.items() if records is not None}


def without(config, name):
    return [{key: value for key, value in record.items() if key != name} for record in V2[config]]


def write(folder, tables, split="", kind="parquet"):
    for config, records in tables.items():
        file = folder / config / f"{split or config}-00000-of-00001.{kind}"
        file.parent.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(records), file)
        else:
            file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return str(folder)


def swapped(config, *records):
    """The tables with the first record of a config replaced by these."""
    return v2(**{config: [*records, *V2[config][1:]]})
