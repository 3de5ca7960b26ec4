"""Which span a token belongs to: against the words of real texts, whatever stands around them."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ifir_lightning.data.evalset import load_task
from ifir_lightning.records import Passage
from ifir_lightning.spans import Span, query_spans, special_tokens
from ifir_lightning.text import TextTokenizer
from ifir_lightning.text_format import TextFormat

Q, I, M, E = Span.QUERY, Span.INSTRUCTION, Span.MARKERS, Span.EXPANSION


def spans(text: TextTokenizer, query: str, instruction: str) -> list[Span]:
    return [Span(span) for span in query_spans(text, [(query, instruction)]).tolist()]


def test_query_instruction_and_special_tokens_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    """One letter is one token."""
    text = TextTokenizer(tokenizer, TextFormat())
    assert spans(text, "a b c", "d e") == [M, Q, Q, Q, I, I, M]
    assert spans(text, "a b c", "") == [M, Q, Q, Q, M]
    assert spans(text, "  a b ", " d e ") == [M, Q, Q, I, I, M]


def test_prefix_marker_limit_and_expansion_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    assert spans(TextTokenizer(tokenizer, TextFormat(query_prefix="x: ")), "a b", "d") == [M, M, M, Q, Q, I, M]
    assert spans(TextTokenizer(tokenizer, TextFormat(query_prefix=" x: ")), "a b", "d") == [M, M, M, Q, Q, I, M]
    marked = TextTokenizer(tokenizer, TextFormat(query_marker="z", max_query_length=6))
    assert spans(marked, "a b", "d e f") == [M, M, Q, Q, I, M]
    filled = TextTokenizer(tokenizer, TextFormat(query_expansion="attended", max_query_length=8))
    assert spans(filled, "a b", "d") == [M, Q, Q, I, M, E, E, E]
    assert spans(filled, "a b", "d e f g h") == [M, Q, Q, I, I, I, I, M]


def test_a_special_token_within_a_text_is_its_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert spans(TextTokenizer(tokenizer, TextFormat()), "a [SEP]", "[MASK] b") == [M, Q, Q, I, I, M]


def test_a_token_that_holds_the_space_before_a_word_belongs_to_the_word() -> None:
    """As byte-level tokenizers have it (ModernBERT, GPT)."""
    rust = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["?", "a", "b", " d", "e"])}, "?"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex(" ?."), "isolated")
    text = TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=rust, pad_token="?"), TextFormat())
    assert spans(text, "ab", "de") == [Q, Q, I, I]


@pytest.fixture(params=["quickstart", "minilm"])
def real(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if request.param == "quickstart":
        return tokenizer
    try:
        return AutoTokenizer.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    except OSError:
        return pytest.skip("no MiniLM tokenizer in the cache of the hub")


@pytest.mark.parametrize("limit", [20, 512])
@pytest.mark.parametrize("task", ["synthetic/travel", "followir-mini-core17"])
def test_real_queries_fall_apart_into_query_and_instruction(
    real: PreTrainedTokenizerBase, task: str, limit: int, request: pytest.FixtureRequest
) -> None:
    """Query and instruction tokenised apart, which no word of theirs joins, are the tokens of the spans."""
    name = task if task.startswith("synthetic") else str(request.getfixturevalue("shared_data") / task)
    loaded = load_task(name)
    text = TextTokenizer(real, TextFormat(max_query_length=limit))
    pairs = [(query, loaded.instructions[id_]) for id_, query in loaded.queries.items()]
    tokens = text.queries(pairs)
    spans_T = query_spans(text, pairs)
    assert len(spans_T) == len(tokens.input_ids_T)
    for (query, instruction), ids_T, span_T in zip(
        pairs,
        tokens.input_ids_T.split(tokens.lengths_B.tolist()),
        spans_T.split(tokens.lengths_B.tolist()),
        strict=True,
    ):
        apart = [real(part, add_special_tokens=False)["input_ids"] for part in (query, instruction)]
        room = limit - 2
        assert ids_T[span_T == Q].tolist() == apart[0][:room]
        assert ids_T[span_T == I].tolist() == apart[1][: max(0, room - len(apart[0]))]
        assert ids_T[span_T == M].tolist() == [real.cls_token_id, real.sep_token_id]


def test_special_tokens_of_passages(tokenizer: PreTrainedTokenizerBase) -> None:
    """The unknown word (the Chinese sign) is text."""
    text = TextTokenizer(tokenizer, TextFormat(passage_marker="z"))
    tokens = text.passages([Passage("p", "", "a \u4e00"), Passage("q", "", "b")])
    assert special_tokens(text, tokens).int().tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 1]
    plain = TextTokenizer(tokenizer, TextFormat())
    tokens = plain.passages([Passage("p", "", "a \u4e00")])
    assert torch.equal(special_tokens(plain, tokens), torch.tensor([True, False, False, True]))
