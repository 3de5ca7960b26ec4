"""Token ids, embeddings and scores of the suite's texts by one library: score.py LIBRARY FOLDER OUTPUT.npz ...

LIBRARY is pylate, sentence-transformers, multi-vector (of sentence-transformers 6), or ours. The variable TEXTS may
name a JSON file {"queries": [[query, instruction], ...], "passages": [...]} to take instead of the suite's texts.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import texts
import torch

_CHOSEN = json.loads(Path(os.environ["TEXTS"]).read_text()) if "TEXTS" in os.environ else {}
QUERIES = [tuple(pair) for pair in _CHOSEN.get("queries", texts.QUERIES)]
PASSAGES = _CHOSEN.get("passages", texts.PASSAGES)
JOINED = [" ".join(part for part in pair if part) for pair in QUERIES]


def pylate(folder: str) -> dict[str, Any]:
    from pylate import models, scores

    model = models.ColBERT(folder, device="cpu")
    queries = model.encode(JOINED, is_query=True, convert_to_tensor=True)
    passages = model.encode(list(PASSAGES), is_query=False, convert_to_tensor=True)
    found = [[scores.colbert_scores(q[None], p[None]).item() for p in passages] for q in queries]
    query_ids = _ids(model.tokenize(JOINED, is_query=True), keep_all=model.do_query_expansion)
    passage_ids = _ids(model.tokenize(list(PASSAGES), is_query=False))
    return _record(query_ids, passage_ids, queries, passages, found)


def sentence_transformers(folder: str) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    if version("sentence-transformers") < "6":
        queries = model.encode_query(JOINED, convert_to_tensor=True)
        passages = model.encode_document(list(PASSAGES), convert_to_tensor=True)
    else:  # it no longer strips texts; PyLate, 5.3 and we do
        queries = model.encode_query(_whole(model, "query", JOINED), prompt="", convert_to_tensor=True)
        passages = model.encode_document(_whole(model, "document", PASSAGES), prompt="", convert_to_tensor=True)
    ids = [_ids(model.tokenize(_whole(model, *each))) for each in (("query", JOINED), ("document", PASSAGES))]
    rows = [list(each[:, None]) for each in (queries, passages)]
    return _record(*ids, *rows, model.similarity(queries, passages).tolist())


def multi_vector(folder: str) -> dict[str, Any]:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(folder, device="cpu")
    queries = model.encode_query([text.strip() for text in JOINED])
    passages = model.encode_document([text.strip() for text in PASSAGES])
    return _record([], [], queries, passages, model.similarity(queries, passages).tolist())


def ours(folder: str) -> dict[str, Any]:
    from ifir_lightning import load_retriever
    from ifir_lightning.records import Passage

    retriever = load_retriever(folder)
    queries = retriever.encode_queries(*(list(each) for each in zip(*QUERIES, strict=True)))
    passages = retriever.encode_passages(PASSAGES)
    tokens = (
        retriever.tokenizer.queries(QUERIES),
        retriever.tokenizer.passages(Passage("", "", text) for text in PASSAGES),
    )
    ids = [[part.input_ids_T.tolist() for part in each.split(*[1] * len(each))] for each in tokens]
    return _record(*ids, queries.unpack(), passages.unpack(), retriever.score(queries, passages).tolist())


def _whole(model: Any, name: str, texts: Sequence[str]) -> list[str]:
    """Texts behind their prompt, without white space around them."""
    return [(model.prompts.get(name, "") + text).strip() for text in texts]


def _ids(features: dict[str, torch.Tensor], keep_all: bool = False) -> list[list[int]]:
    masks = torch.ones_like(features["input_ids"]) if keep_all else features["attention_mask"]
    return [ids[mask.bool()].tolist() for ids, mask in zip(features["input_ids"], masks, strict=True)]


def _record(query_ids: list, passage_ids: list, queries: list, passages: list, scores: list) -> dict[str, Any]:
    return {
        "query_ids": np.array([i for ids in query_ids for i in ids], dtype=np.int16),
        "query_id_counts": np.array([len(ids) for ids in query_ids], dtype=np.int16),
        "passage_ids": np.array([i for ids in passage_ids for i in ids], dtype=np.int16),
        "passage_id_counts": np.array([len(ids) for ids in passage_ids], dtype=np.int16),
        "queries": torch.cat(list(queries)).float().numpy(),
        "query_rows": np.array([len(rows) for rows in queries], dtype=np.int16),
        "passages": torch.cat(list(passages)).float().numpy(),
        "passage_rows": np.array([len(rows) for rows in passages], dtype=np.int16),
        "scores": np.array(scores, dtype=np.float32),
    }


LIBRARIES: dict[str, Callable[[str], dict[str, Any]]] = {
    "pylate": pylate,
    "sentence-transformers": sentence_transformers,
    "multi-vector": multi_vector,
    "ours": ours,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    library, *pairs = sys.argv[1:]
    for folder, output in zip(pairs[::2], pairs[1::2], strict=True):
        np.savez_compressed(output, **LIBRARIES[library](folder))
