"""Whose scores others learn: a retriever, a cross-encoder, or a language model that answers true or false."""

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from ifir_lightning.errors import InputError
from ifir_lightning.models.description import describe, phrase
from ifir_lightning.models.pairs import PairModel, PairSettings, cut, load_pair_model, pair_limits
from ifir_lightning.records import Row, row_passages
from ifir_lightning.reranking import Reranker
from ifir_lightning.retriever import Retriever, load_retriever
from ifir_lightning.text import joined
from ifir_lightning.text_format import TextSettings

_log = logging.getLogger(__name__)

TeacherKind = Literal["retriever", "cross-encoder", "causal"]
_SAMPLES = 64
"""Numbers of each weight that ``weights_digest`` looks at."""


class Teacher(ABC):
    """Scores of rows, and what tells one teacher from another.

    Attributes:
        num_cut: How many queries and passages limits have cut so far.
    """

    def __init__(self) -> None:
        self.num_cut = {"queries": 0, "passages": 0}

    @abstractmethod
    def __call__(self, rows: Sequence[Row]) -> list[list[float]]:
        """For each row the scores of its ``row_passages``; they do not depend on what was asked before."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain data that differ where scores would."""


@final
class RetrieverTeacher(Teacher):
    """Scores of a retriever, at its own limits; every distinct passage of the rows is encoded once."""

    def __init__(self, retriever: Retriever, name: str, max_tokens: int = 16384) -> None:
        super().__init__()
        self.retriever, self.name, self.max_tokens = retriever, name, max_tokens

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "retriever"} | retriever_identity(self.retriever)

    def __call__(self, rows: Sequence[Row]) -> list[list[float]]:
        distinct = dict.fromkeys(passage for row in rows for passage in row_passages(row))
        ids = {passage: str(number) for number, passage in enumerate(distinct)}
        listed = {str(number): [ids[passage] for passage in row_passages(row)] for number, row in enumerate(rows)}
        queries = {str(number): (row.query, row.instruction) for number, row in enumerate(rows)}
        candidates = {query: list(dict.fromkeys(own)) for query, own in listed.items()}
        passages = {id_: passage for passage, id_ in ids.items()}
        cut_queries = self.retriever.tokenizer.queries(queries.values()).cut_B
        cut_passages: list[Tensor] = []  # on the device, and counted when it is done
        run, _ = Reranker(self.retriever, self.max_tokens)(
            queries, passages, candidates, observe=lambda encoded: cut_passages.append(encoded.tokens.cut_B)
        )
        self.num_cut["queries"] += int(cut_queries.count_nonzero())
        self.num_cut["passages"] += int(torch.cat(cut_passages).count_nonzero())
        return [[run[query][id_] for id_ in own] for query, own in listed.items()]


@final
class PairTeacher(Teacher):
    """Scores of a model that reads query and passage together, in batches of similar length."""

    def __init__(self, pair: PairModel, settings: PairSettings, max_tokens: int = 16384) -> None:
        super().__init__()
        self.pair, self.settings, self.max_tokens = pair, settings, max_tokens
        self.max_query_length, self.max_passage_length = pair_limits(pair, settings)

    @property
    def identity(self) -> dict[str, Any]:
        limits = {"max_query_length": self.max_query_length, "max_passage_length": self.max_passage_length}
        same = {"name": self.pair.name, "kind": type(self.pair).__name__, "weights": weights_digest(self.pair.model)}
        return same | asdict(self.settings) | limits

    def __call__(self, rows: Sequence[Row]) -> list[list[float]]:
        queries = self._cut("queries", [joined("", row.query, row.instruction) for row in rows], self.max_query_length)
        listed = [row_passages(row) for row in rows]
        texts = [joined("", passage.title, passage.text) for own in listed for passage in own]
        repeated = [query for query, own in zip(queries, listed, strict=True) for _ in own]
        scores = iter(self._score(repeated, self._cut("passages", texts, self.max_passage_length)))
        return [[next(scores) for _ in own] for own in listed]

    @torch.inference_mode()
    def _score(self, queries: list[str], passages: list[str]) -> list[float]:
        encoded = self.pair.encode(queries, passages)
        scores = [0.0] * len(queries)
        for chunk in _padded_chunks([len(ids) for ids in encoded["input_ids"]], self.max_tokens):
            part = BatchEncoding({name: [values[place] for place in chunk] for name, values in encoded.items()})
            padded = self.pair.tokenizer.pad(part, padding_side=self.pair.padding, return_tensors="pt")
            for place, score in zip(chunk, self.pair.score(padded.to(self.pair.model.device)).tolist(), strict=True):
                scores[place] = score
        return scores

    def _cut(self, what: str, texts: list[str], limit: int) -> list[str]:
        kept = cut(self.pair.tokenizer, texts, limit)
        self.num_cut[what] += sum(whole != text for whole, text in zip(texts, kept, strict=True))
        return kept


def load_teacher(
    name: str,
    kind: TeacherKind = "retriever",
    pairs: PairSettings = PairSettings(),  # noqa: B008  (frozen)
    text: TextSettings = TextSettings(),  # noqa: B008
    max_tokens: int = 16384,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Teacher:
    """A teacher of one of three kinds.

    Args:
        name: Folder or hub id; for a retriever also a run folder or .ckpt file.
        kind: What it is.
        pairs: Of cross-encoders and causal models.
        text: Of retrievers: what differs from the checkpoint's format of texts.
        max_tokens: Tokens computed at a time; padding, where there is any, counts.
        device: Where it computes.
        trust_remote_code: Allow the checkpoint to run code of its own.

    Raises:
        InputError: It cannot be read, is of another kind, or the settings do not fit it.
    """
    if kind not in get_args(TeacherKind):
        raise InputError(f"kind {kind!r} is unknown; allowed are {', '.join(get_args(TeacherKind))}: choose one")
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; allowed is 1 or more: raise it")
    others, are_set = ("pairs", pairs != PairSettings()) if kind == "retriever" else ("text", text != TextSettings())
    if are_set:
        _log.warning("%s: a teacher of kind %s ignores these settings", others, kind)
    if kind != "retriever":
        pair = load_pair_model(name, kind, pairs, trust_remote_code)
        pair.model.to(device)
        return PairTeacher(pair, pairs, max_tokens)
    retriever = load_retriever(name, text=text, device=device, trust_remote_code=trust_remote_code)
    return RetrieverTeacher(retriever, name, max_tokens)


def check_finite(rows: Sequence[Row], scores: Sequence[Sequence[float]]) -> None:
    """InputError for scores of rows that are no numbers to learn from; a model with broken weights has such."""
    for row, own in zip(rows, scores, strict=True):
        if not all(map(math.isfinite, own)):
            broken = next(score for score in own if not math.isfinite(score))
            raise InputError(
                f"a score of query {row.query_id!r} is {broken}; allowed are finite scores: look at the model's "
                "weights, then run the command again, which continues"
            )


def retriever_identity(retriever: Retriever) -> dict[str, str]:
    """Plain data that differ where a retriever's scores would, wherever it lies."""
    return {
        "weights": weights_digest(retriever),
        "pooling": phrase(describe(retriever.pooling)),
        "scorer": phrase(describe(retriever.scorer)),
        **{name: str(value) for name, value in asdict(retriever.tokenizer.format).items()},
    }


def weights_digest(model: nn.Module) -> str:
    """A digest of names, shapes and some numbers of every weight: other weights have another, wherever they lie."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        places = torch.from_numpy(np.linspace(0, max(0, len(flat) - 1), min(_SAMPLES, len(flat))).astype(np.int64))
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(flat[places.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _padded_chunks(lengths: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Places of texts, the longest first, whose rectangles hold at most ``max_tokens``; at least one text."""
    chunk: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if chunk and (len(chunk) + 1) * lengths[chunk[0]] > max_tokens:
            yield chunk
            chunk = []
        chunk.append(place)
    if chunk:
        yield chunk
