"""Texts become the token ids that the tokenizer itself would make of them, cut as it would cut them."""

import pickle
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ifir_lightning.errors import InputError
from ifir_lightning.records import Passage, Tokens
from ifir_lightning.text import TextTokenizer
from ifir_lightning.text_format import TextFormat

LONG = "the price of the camera is high, but the battery of the phone lasts two days: buy it (or not)!"


def ids(tokens: Tokens) -> list[list[int]]:
    return [part.input_ids_T.tolist() for part in tokens.split(*[1] * len(tokens))]


def one_query(text: TextTokenizer, query: str, instruction: str = "") -> list[int]:
    return ids(text.queries([(query, instruction)]))[0]


def one_passage(text: TextTokenizer, title: str, body: str) -> list[int]:
    return ids(text.passages([Passage("p", title, body)]))[0]


def word_tokenizer(template: str | None = None, unknown: str | None = "?") -> PreTrainedTokenizerBase:
    """Three words and perhaps some specials: ``template`` puts them around a text."""
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "?", "<s>", "</s>", "<e>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        specials = [(token, vocabulary[token]) for token in ("<s>", "</s>", "<e>")]
        tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)


@pytest.mark.parametrize(("query", "instruction"), [("which camera", "not the price"), ("which camera", "")])
def test_a_query_is_query_space_instruction(tokenizer: PreTrainedTokenizerBase, query: str, instruction: str) -> None:
    expected = tokenizer(f"{query} {instruction}".strip())["input_ids"]
    assert one_query(TextTokenizer(tokenizer, TextFormat()), query, instruction) == expected


@pytest.mark.parametrize("title", ["Cameras", ""])
def test_a_passage_is_title_space_text(tokenizer: PreTrainedTokenizerBase, title: str) -> None:
    expected = tokenizer(f"{title} {LONG}".strip())["input_ids"]
    assert one_passage(TextTokenizer(tokenizer, TextFormat()), title, LONG) == expected


def test_a_text_without_title_or_instruction_has_no_stray_space() -> None:
    """Told by a tokenizer that knows spaces: one token per character."""
    letters = Tokenizer(models.WordLevel({"a": 0, " ": 1, ">": 2, "?": 3}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    text = TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=letters), TextFormat("> ", ">"))
    assert one_query(text, "a", "") == [2, 1, 0]
    assert one_query(text, "a", "a") == [2, 1, 0, 1, 0]
    assert one_passage(text, "", "a") == [2, 0]
    assert one_passage(text, "a", "") == [2, 0]


def test_each_side_has_its_own_prefix(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TextTokenizer(tokenizer, TextFormat(query_prefix="query: ", passage_prefix="text: "))
    assert one_query(text, "which camera", "cheap") == tokenizer("query: which camera cheap")["input_ids"]
    assert one_passage(text, "Cameras", "cheap") == tokenizer("text: Cameras cheap")["input_ids"]


@pytest.mark.parametrize("limit", [3, 4, 10, 21, 22, 23, 24, 25, 300])
def test_the_cut_is_the_tokenizers_own(tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    full = tokenizer(LONG)["input_ids"]
    expected = tokenizer(LONG, truncation=True, max_length=limit)["input_ids"]
    assert expected[-1] == tokenizer.sep_token_id
    text = TextTokenizer(tokenizer, TextFormat(max_query_length=limit, max_passage_length=limit))
    for tokens in (text.queries([(LONG, "")]), text.passages([Passage("p", "", LONG)])):
        assert ids(tokens) == [expected]
        assert tokens.cut_B.tolist() == [len(full) - len(expected)]


@pytest.mark.parametrize("template", ["<s> $A", "$A </s>", "<s> $A </s> <e>", None], ids=str)
def test_special_tokens_survive_wherever_the_tokenizer_puts_them(template: str | None) -> None:
    tokenizer = word_tokenizer(template)
    expected = tokenizer("a b c a b c", truncation=True, max_length=5)["input_ids"]
    assert one_query(TextTokenizer(tokenizer, TextFormat(max_query_length=5)), "a b c", "a b c") == expected


def test_queries_and_passages_have_limits_of_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TextTokenizer(tokenizer, TextFormat(max_query_length=5, max_passage_length=9))
    assert len(one_query(text, LONG)) == 5
    assert len(one_passage(text, "", LONG)) == 9


def test_cuts_are_counted_text_by_text(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = TextTokenizer(tokenizer, TextFormat(max_query_length=6)).queries(
        [("a b", ""), ("a b c d", ""), ("a b", "c d e f g")]
    )
    assert tokens.cut_B.tolist() == [0, 0, 3]
    assert tokens.lengths_B.tolist() == [4, 6, 6]


def test_truncation_and_padding_stored_in_the_tokenizer_are_not_used(tokenizer: PreTrainedTokenizerBase) -> None:
    stored = pickle.loads(pickle.dumps(tokenizer))
    stored.backend_tokenizer.enable_truncation(4)
    stored.backend_tokenizer.enable_padding(length=30)
    tokens = TextTokenizer(stored, TextFormat()).queries([(LONG, ""), ("a", "")])
    assert ids(tokens) == [tokenizer(LONG)["input_ids"], tokenizer("a")["input_ids"]]


class Whispering(PreTrainedTokenizerFast):
    """Does something to its texts before the tokenizers library sees them, as some classes of transformers do."""

    def _encode_plus(self, text: list[str] | str, *args: Any, **settings: Any) -> Any:
        quiet = text.lower() if isinstance(text, str) else [each.lower() for each in text]
        return super()._encode_plus(quiet, *args, **settings)


def letters(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer of letters or bytes, of each kind that backbones have."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate(["?", "[MASK]", "▁", *signs])}
    if kind == "unigram":
        model: models.Model = models.Unigram([(sign, -1.0) for sign in vocabulary], unk_id=0)
    else:
        model = models.WordLevel(vocabulary, unk_token="?") if kind == "word" else models.BPE(vocabulary, [])
    rust = Tokenizer(model)
    splits = {"bpe": pre_tokenizers.ByteLevel(), "unigram": pre_tokenizers.Metaspace()}
    rust.pre_tokenizer = splits.get(kind, pre_tokenizers.Split("", "isolated"))
    return (Whispering if kind == "word" else PreTrainedTokenizerFast)(
        tokenizer_object=rust, mask_token="[MASK]", pad_token="?"
    )


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "word"])
def test_ids_are_those_of_the_tokenizer_called(tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    """The short cut past its call makes no difference, whatever its class and however it was called before."""
    called = tokenizer if kind == "wordpiece" else letters(kind)
    texts = ["WHO wrote it", "a [MASK] b", "  two  spaces\n", "café ﬁ ​日本 🙂", "x", LONG]
    expected = [called(each)["input_ids"] for each in texts]
    assert len({len(ids) for ids in expected}) > 3
    text = TextTokenizer(called, TextFormat())
    called(["a b c", "d"], truncation=True, max_length=3, padding="max_length", split_special_tokens=True)
    assert text._encode(texts) == expected


def test_an_empty_text_is_its_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TextTokenizer(tokenizer, TextFormat())
    assert one_query(text, "") == one_passage(text, "", "") == [tokenizer.cls_token_id, tokenizer.sep_token_id]


def test_an_empty_text_without_special_tokens_is_refused() -> None:
    text = TextTokenizer(word_tokenizer(), TextFormat())
    with pytest.raises(InputError, match=r"text '' has no tokens; allowed are .*: remove the empty text"):
        text.passages([Passage("p", "", "a b"), Passage("q", "", "")])


def test_the_skiplist_marks_passages_only(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TextTokenizer(tokenizer, TextFormat(passage_skiplist=(",", ":", "(", ")", "!")))
    tokens = text.passages([Passage("p", "", LONG)])
    words = tokenizer.convert_ids_to_tokens(tokens.input_ids_T.tolist())
    skipped = [word for word, keep in zip(words, tokens.keep_T.tolist(), strict=True) if not keep]
    assert skipped == [",", ":", "(", ")", "!"]
    assert text.queries([(LONG, "")]).keep_T.all()


def test_without_a_skiplist_every_token_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    assert TextTokenizer(tokenizer, TextFormat()).passages([Passage("p", "", LONG)]).keep_T.all()


def test_a_skiplist_word_outside_the_vocabulary_skips_unknown_tokens_as_in_pylate() -> None:
    text = TextTokenizer(word_tokenizer(), TextFormat(passage_skiplist=("zebra",)))
    assert text.passages([Passage("p", "", "a giraffe b")]).keep_T.tolist() == [True, False, True]


def test_a_skiplist_word_that_no_token_stands_for_is_refused() -> None:
    with pytest.raises(InputError, match=r"'zebra', which is no token .*; allowed are .*: remove the word"):
        TextTokenizer(word_tokenizer(unknown=None), TextFormat(passage_skiplist=("a", "zebra")))


@pytest.mark.parametrize("name", ["max_query_length", "max_passage_length"])
@pytest.mark.parametrize("limit", [-1, 0, 1, 2])
def test_a_limit_without_room_for_text_is_refused(tokenizer: PreTrainedTokenizerBase, name: str, limit: int) -> None:
    message = f"model.text.{name} is {limit}, .*2 special tokens.*; allowed is 3 or more: raise model.text.{name}"
    with pytest.raises(InputError, match=message):
        TextTokenizer(tokenizer, TextFormat(**{name: limit}))


def test_a_limit_of_one_word_is_allowed(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(one_query(TextTokenizer(tokenizer, TextFormat(max_query_length=3)), LONG)) == 3


def test_a_copy_in_another_process_writes_the_same_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TextTokenizer(
        tokenizer, TextFormat("q ", "p ", max_query_length=9, max_passage_length=12, passage_skiplist=(",",))
    )
    copy = pickle.loads(pickle.dumps(text))
    assert one_query(copy, LONG, "cheap") == one_query(text, LONG, "cheap")
    ours, theirs = (each.passages([Passage("p", "t", LONG)]) for each in (text, copy))
    assert theirs.input_ids_T.equal(ours.input_ids_T)
    assert theirs.keep_T.equal(ours.keep_T)


def test_a_marker_stands_behind_the_first_special_token_and_counts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Any token may be one: the tokenizer's [MASK] for queries, a letter for passages."""
    mark, letter = tokenizer.convert_tokens_to_ids(["[MASK]", "z"])
    text_format = TextFormat(
        query_prefix="a ", query_marker="[MASK]", passage_marker="z", max_query_length=9, max_passage_length=7
    )
    text = TextTokenizer(tokenizer, text_format)
    queries = text.queries([("quiet", ""), (LONG, "")])
    plain, whole = tokenizer("a quiet")["input_ids"], tokenizer("a " + LONG)["input_ids"]
    assert ids(queries)[0] == [plain[0], mark, *plain[1:]]
    assert ids(queries)[1] == [whole[0], mark, *whole[1:7], whole[-1]]
    assert queries.cut_B.tolist() == [0, len(whole) - 8]
    assert one_passage(text, "", "quiet") == [plain[0], letter, *tokenizer("quiet")["input_ids"][1:]]
    assert len(one_passage(text, "", LONG)) == 7


def test_a_limit_without_room_beside_the_marker_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    TextTokenizer(tokenizer, TextFormat(query_marker="[MASK]", max_query_length=4))
    with pytest.raises(InputError, match=r"max_query_length is 3, but 3 special tokens .*; allowed is 4 or more"):
        TextTokenizer(tokenizer, TextFormat(query_marker="[MASK]", max_query_length=3))


@pytest.mark.parametrize("expansion", ["attended", "unattended"])
def test_expansion_fills_queries_with_mask_tokens(tokenizer: PreTrainedTokenizerBase, expansion: str) -> None:
    text = TextTokenizer(tokenizer, TextFormat(max_query_length=8, query_expansion=expansion))  # type: ignore[arg-type]
    tokens = text.queries([("a hotel", ""), (LONG, "")])
    short, mask = tokenizer("a hotel")["input_ids"], tokenizer.mask_token_id
    assert tokens.lengths_B.tolist() == [8, 8]
    assert ids(tokens)[0] == short + [mask] * (8 - len(short))
    assert mask not in ids(tokens)[1]
    assert tokens.keep_T.all()
    seen = [1] * len(short) + [0] * (8 - len(short)) + [1] * 8
    assert (None if tokens.attend_T is None else tokens.attend_T.int().tolist()) == (
        seen if expansion == "unattended" else None
    )
    passages = text.passages([Passage("p", "", "a hotel")])
    assert ids(passages) == [short]
    Tokens.concat([tokens, passages])  # as a training step does


def test_expansion_without_a_mask_token(tokenizer: PreTrainedTokenizerBase) -> None:
    words = word_tokenizer()
    with pytest.raises(InputError, match=r"query_expansion is attended, but this tokenizer has neither a mask"):
        TextTokenizer(words, TextFormat(query_expansion="attended"))
    words.eos_token = "<e>"
    tokens = TextTokenizer(words, TextFormat(query_expansion="attended", max_query_length=4)).queries([("a", "b")])
    assert tokens.input_ids_T.tolist() == [0, 1, words.eos_token_id, words.eos_token_id]
