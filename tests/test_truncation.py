"""What a query limit takes from instructions is counted, named and told."""

import pytest
from transformers import PreTrainedTokenizerBase

from ifir_lightning.text import TextTokenizer
from ifir_lightning.text_format import TextFormat
from ifir_lightning.truncation import QueryCuts, audit_queries

# One letter is one token; [CLS] and [SEP] are two more.
QUERIES = {"1-og": "a b c", "1-changed": "a b c", "2-og": "x y", "2-changed": "x y"}
INSTRUCTIONS = {"1-og": "d e f", "1-changed": "d e f g h", "2-og": "z", "2-changed": "w"}


@pytest.fixture
def audit(tokenizer: PreTrainedTokenizerBase):
    def run(limit: int, queries: dict[str, str] = QUERIES, instructions: dict[str, str] = INSTRUCTIONS) -> QueryCuts:
        return audit_queries(TextTokenizer(tokenizer, TextFormat(max_query_length=limit)), queries, instructions)

    return run


def test_a_limit_that_fits_cuts_nothing(audit) -> None:
    assert audit(10) == QueryCuts(limit=10, share=0.0, cut=(), identical=())
    assert audit(10).warning("task") is None


def test_cut_instructions_are_named_and_counted_by_token(audit) -> None:
    """At 9 tokens only "1-changed" (10 tokens) loses one, of 8 + 10 + 5 + 5 in all."""
    cuts = audit(9)
    assert (cuts.cut, cuts.identical) == (("1-changed",), ())
    assert cuts.share == pytest.approx(1 / 28, abs=1e-12)


def test_pairs_that_read_the_same_after_the_cut_are_named(audit) -> None:
    """At 8 tokens the change of query 1 lies behind the cut; that of query 2 is still seen."""
    cuts = audit(8)
    assert (cuts.cut, cuts.identical) == (("1-changed",), ("1",))
    assert cuts.share == pytest.approx(2 / 28, abs=1e-12)


def test_instructions_cut_away_whole_make_every_pair_identical(audit) -> None:
    cuts = audit(4)
    assert cuts.cut == ("1-og", "1-changed", "2-og", "2-changed")
    assert cuts.identical == ("1", "2")
    assert cuts.share == pytest.approx((4 + 6 + 1 + 1) / 28, abs=1e-12)


def test_the_same_instruction_twice_is_no_lost_pair(audit) -> None:
    same = dict.fromkeys(QUERIES, "d e f g h i")
    assert audit(6, instructions=same).identical == ()


@pytest.mark.parametrize("lacking", ["1-og", "1-changed"])
def test_one_of_a_pair_alone_is_no_lost_pair(audit, lacking: str) -> None:
    queries = {id_: text for id_, text in QUERIES.items() if id_ != lacking}
    assert audit(4, queries=queries).identical == ("2",)


def test_a_query_that_never_had_an_instruction_loses_tokens_but_no_instruction(audit) -> None:
    cuts = audit(4, instructions=dict.fromkeys(QUERIES, ""))
    assert cuts.cut == ()
    assert cuts.share == pytest.approx(2 / 18, abs=1e-12)
    assert cuts.warning("task") is None


def test_the_warning_names_task_limit_example_share_and_remedy(audit) -> None:
    assert audit(8).warning("core17") == (
        "core17: the limit of 8 query tokens cuts 1 instructions, e.g. that of '1-changed', 1 pairs of original and "
        "changed became identical; 7.1% of the query tokens are lost: raise model.text.max_query_length"
    )


def test_the_warning_speaks_of_identical_pairs_only_where_there_are_some(audit) -> None:
    assert "identical" not in audit(9).warning("core17")


def test_pairs_that_only_unknown_words_tell_apart_are_warned_of(tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = TextTokenizer(tokenizer, TextFormat())
    instructions = {"1-og": "\u4e00", "1-changed": "\u4e01"}
    cuts = audit_queries(unknown, {"1-og": "price", "1-changed": "price"}, instructions)
    assert (cuts.cut, cuts.identical) == ((), ("1",))
    assert "identical" in (cuts.warning("task") or "")


def test_expansion_is_no_token_of_the_query(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TextTokenizer(tokenizer, TextFormat(max_query_length=9, query_expansion="attended"))
    plain = TextTokenizer(tokenizer, TextFormat(max_query_length=9))
    assert audit_queries(text, QUERIES, INSTRUCTIONS) == audit_queries(plain, QUERIES, INSTRUCTIONS)
