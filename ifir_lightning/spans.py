"""Which part of a text each of its tokens belongs to."""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from ifir_lightning.errors import InputError
from ifir_lightning.records import Tokens
from ifir_lightning.text import TextTokenizer, joined


class Span(IntEnum):
    """Part of a query."""

    QUERY = 0
    INSTRUCTION = 1
    MARKERS = 2  # special tokens, the marker, the prefix: what every query has
    EXPANSION = 3


SPAN_NAMES = {span: span.name.lower() for span in Span}


def query_spans(tokenizer: TextTokenizer, texts: Sequence[tuple[str, str]]) -> Tensor:
    """spans_T: the ``Span`` of every token of ``tokenizer.queries(texts)``.

    A token belongs where its last character stands, so one that holds the space before a word belongs to the word.

    Raises:
        InputError: A tokenizer that does not say where in the text a token stands.
    """
    if not tokenizer.tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {type(tokenizer.tokenizer).__name__} does not say where its tokens stand in the text; "
            "allowed here are those of the tokenizers library (tokenizer.json): leave FollowIRDiagnostics out"
        )
    prefix = tokenizer.format.query_prefix
    encoded = tokenizer.tokenizer(
        [joined(prefix, *pair) for pair in texts],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    spans_T: list[int] = []
    for (query, _), offsets, special in zip(
        texts, encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
    ):
        begin = len((prefix + query).lstrip()) - len(query)
        ends = [0 if is_special else end for (_, end), is_special in zip(offsets, special, strict=True)]
        spans: list[int] = [_span(end, begin, begin + len(query)) for end in ends]
        spans_T += tokenizer.lay_out_query(spans, Span.MARKERS, Span.EXPANSION)
    return torch.tensor(spans_T, dtype=torch.int8)


def _span(end: int, begin: int, stop: int) -> Span:
    """Of the token whose last character stands before ``end``; the query stands in ``begin`` to ``stop``."""
    if end <= max(begin, 0):
        return Span.MARKERS
    return Span.QUERY if end <= stop else Span.INSTRUCTION


def special_tokens(tokenizer: TextTokenizer, tokens: Tokens) -> Tensor:
    """special_T: tokens of passages that are no text: special tokens and the marker. Unknown words are text."""
    words = [*tokenizer.tokenizer.all_special_tokens, tokenizer.format.passage_marker]
    ids = {tokenizer.tokenizer.convert_tokens_to_ids(word) for word in words if word}
    ids.discard(tokenizer.tokenizer.unk_token_id)
    return torch.isin(tokens.input_ids_T, torch.tensor(sorted(ids), device=tokens.input_ids_T.device))
