"""Checkpoints that PyLate and sentence-transformers wrote: we compute what they computed, and they what we export.

The second direction was run by tools/record_parity.py, whose record holds for as long as we export the same files.
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifir_lightning import load_retriever
from ifir_lightning.commands.export import export
from ifir_lightning.records import Embeddings, Passage, Tokens

ROOT = Path(__file__).parents[1]
CASES = sorted(path.stem for path in (ROOT / "tests" / "parity").glob("*.zip"))
RECORD: dict[str, Any] = json.loads((ROOT / "tests" / "parity" / "exports.json").read_text())
KNOWN_DIFFERENCE = ("pylate-unknown-skipped", "sentence-transformers 6, MultiVectorEncoder")
"""A skiplist word that is no token: PyLate drops every unknown token for it, sentence-transformers 6 none."""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), str(ROOT / "tools" / "parity"), *sys.path])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    with zipfile.ZipFile(ROOT / "tests" / "parity" / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    return request.param, tmp_path


def test_there_are_cases() -> None:
    sys.stdout.write(f"{len(CASES)} recorded cases\n")
    assert len(CASES) >= 20
    assert set(CASES) == set(RECORD["cases"])
    assert sum(path.stat().st_size for path in (ROOT / "tests" / "parity").iterdir()) < 2e6


def test_what_we_load_computes_what_they_computed(case: tuple[str, Path], tools: None) -> None:
    from texts import PASSAGES, QUERIES

    _, folder = case
    retriever, expected = load_retriever(str(folder / "model")), np.load(folder / "expected.npz")
    query_tokens = retriever.tokenizer.queries(QUERIES)
    passage_tokens = retriever.tokenizer.passages(Passage("", "", text) for text in PASSAGES)
    if len(expected["query_ids"]):  # sentence-transformers 6 shows no ids of token vectors
        check_ids(query_tokens, expected["query_ids"], expected["query_id_counts"])
        check_ids(passage_tokens, expected["passage_ids"], expected["passage_id_counts"])
    queries = retriever.encode_queries(*(list(texts) for texts in zip(*QUERIES, strict=True)))
    passages = retriever.encode_passages(PASSAGES)
    check_embeddings(queries, expected["queries"], expected["query_rows"])
    check_embeddings(passages, expected["passages"], expected["passage_rows"])
    scores_QP = retriever.score(queries, passages).numpy()
    np.testing.assert_allclose(scores_QP, expected["scores"], atol=1e-4, rtol=0)


def check_ids(tokens: Tokens, ids: np.ndarray, counts: np.ndarray) -> None:
    assert tokens.input_ids_T.tolist() == ids.tolist()
    assert tokens.lengths_B.tolist() == counts.tolist()


def check_embeddings(embeddings: Embeddings, values: np.ndarray, rows: np.ndarray) -> None:
    assert embeddings.lengths_B.tolist() == rows.tolist()
    np.testing.assert_allclose(embeddings.values_ND.numpy(), values, atol=1e-5, rtol=0)


def test_what_we_export_is_what_they_were_seen_to_load(case: tuple[str, Path], tools: None) -> None:
    from record_parity import digest

    name, folder = case
    export(str(folder / "model"), str(folder / "exported"))
    assert digest(folder / "exported") == RECORD["cases"][name]["digest"], "exports changed: record_parity.py again"
    readers = {reader: found for reader, found in RECORD["cases"][name].items() if reader not in ("read", "digest")}
    assert len(readers) == 2
    for reader, found in readers.items():
        if (name, reader) == KNOWN_DIFFERENCE:
            assert found["differs"].startswith("passage_rows")
        else:
            assert found["embeddings"] <= 1e-5
            assert found["scores"] <= 1e-4


def test_what_we_export_we_read_back(case: tuple[str, Path]) -> None:
    _, folder = case
    export(str(folder / "model"), str(folder / "exported"))
    first, second = (load_retriever(str(folder / part)) for part in ("model", "exported"))
    assert second.tokenizer.format == first.tokenizer.format
    texts = (["a quiet hotel", "walks"], ["the garden, of no cost!", ""])
    np.testing.assert_array_equal(first.score(*texts).numpy(), second.score(*texts).numpy())
