"""Models that read a query and a passage together: cross-encoders, and language models that answer true or false."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.transformer import load_tokenizer, split_revision
from ifir_lightning.text import special_tokens

PairKind = Literal["cross-encoder", "causal"]
PROMPT = (
    "Is the passage relevant to the query and to everything that the query asks for? Answer true or false.\n\n"
    "Query: {query}\nPassage: {passage}\nAnswer: "
)
_SPARE = 8
"""Positions kept free, since a text that was cut may have a token or two more when it stands beside another."""


@dataclass(frozen=True)
class PairSettings:
    """How a query and a passage are read together.

    Args:
        label: Of a cross-encoder with several labels, the index of the one that means relevant.
        prompt: What a causal model continues: text with {query} and {passage}. The query includes the instruction.
        true_token: The continuation that means relevant: a token as the vocabulary writes it, or a text of one token.
        false_token: The one that means not relevant.
        max_query_length: Limit of query and instruction, in tokens; by default 304, or what the positions allow.
        max_passage_length: Limit of title and passage; by default 512, or what the positions leave.
        dtype: Of the weights.
    """

    label: int | None = None
    prompt: str = PROMPT
    true_token: str = "true"
    false_token: str = "false"
    max_query_length: int | None = None
    max_passage_length: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for part in ("{query}", "{passage}"):
            if (count := self.prompt.count(part)) != 1:
                raise InputError(
                    f"pairs.prompt {self.prompt!r} has {part} {count} times; allowed is once: correct the prompt"
                )


class PairModel(ABC):
    """A model and its tokenizer; scores are log-odds of relevance (a logit), which no sigmoid has saturated."""

    padding: ClassVar[Literal["left", "right"]]
    """Where batches are padded."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.model: Any = model
        self.tokenizer, self.name = tokenizer, name
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id

    @abstractmethod
    def encode(self, queries: list[str], passages: list[str]) -> dict[str, list[list[int]]]:
        """What the tokenizer makes of pairs, by the names of the model's arguments."""

    @abstractmethod
    def score(self, padded: BatchEncoding) -> Tensor:
        """scores_B, float32."""


@final
class CrossEncoder(PairModel):
    """A sequence classifier: the logit of its one label, or the log-odds of one of several.

    Raises:
        InputError: Several labels and none chosen, or a label that there is not.
    """

    padding: ClassVar[Literal["left", "right"]] = "right"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, settings: PairSettings
    ) -> None:
        super().__init__(model, tokenizer, name)
        count = int(model.config.num_labels or 0)
        label = 0 if settings.label is None and count == 1 else settings.label
        if label is None or not 0 <= label < count:
            names = model.config.id2label
            raise InputError(
                f"teacher {name!r} has {count} labels {names}, pairs.label is {settings.label}; allowed is the index "
                f"of the label that means relevant, 0 to {count - 1}{', or none' if count == 1 else ''}: set "
                "--pairs.label, or choose another teacher"
            )
        self.label = label

    def encode(self, queries: list[str], passages: list[str]) -> dict[str, list[list[int]]]:
        return dict(self.tokenizer(queries, passages, verbose=False))

    def score(self, padded: BatchEncoding) -> Tensor:
        logits_BC = self.model(**padded).logits.float()
        if logits_BC.shape[1] == 1:
            return logits_BC[:, 0]
        others = [label for label in range(logits_BC.shape[1]) if label != self.label]
        return logits_BC[:, self.label] - logits_BC[:, others].logsumexp(1)


@final
class TrueFalseModel(PairModel):
    """A causal language model: logit of the true token less that of the false one, behind the prompt.

    The sigmoid of it is the probability that FollowIR-7B's authors rank by, the softmax over the two tokens.

    Raises:
        InputError: A true or false token that is none.
    """

    padding: ClassVar[Literal["left", "right"]] = "left"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, settings: PairSettings
    ) -> None:
        super().__init__(model, tokenizer, name)
        self.prompt = settings.prompt
        self._true, self._false = (
            self._token(setting, getattr(settings, setting)) for setting in ("true_token", "false_token")
        )
        _, self._num_behind = special_tokens(tokenizer)

    def encode(self, queries: list[str], passages: list[str]) -> dict[str, list[list[int]]]:
        prompts = [_filled(self.prompt, *pair) for pair in zip(queries, passages, strict=True)]
        encoded = self.tokenizer(prompts, verbose=False)["input_ids"]
        ids = [each[: len(each) - self._num_behind] for each in encoded]  # a special token would end the prompt
        return {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids]}

    def score(self, padded: BatchEncoding) -> Tensor:
        position_ids = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits_BV = self.model(**padded, position_ids=position_ids, logits_to_keep=1).logits[:, -1].float()
        return logits_BV[:, self._true] - logits_BV[:, self._false]

    def _token(self, setting: str, text: str) -> int:
        vocabulary = self.tokenizer.get_vocab()
        ids = [vocabulary[text]] if text in vocabulary else self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise InputError(
                f"pairs.{setting} {text!r} is not one token of teacher {self.name!r}; allowed are tokens of its "
                "vocabulary: choose another"
            )
        return ids[0]


def load_pair_model(name: str, kind: PairKind, settings: PairSettings, trust_remote_code: bool = False) -> PairModel:
    """A cross-encoder or a causal language model of a folder or hub id (``owner/name[@revision]``).

    Raises:
        InputError: It cannot be read, lacks the weights of its kind, or the settings do not fit it.
    """
    source, revision = split_revision(name)
    tokenizer = load_tokenizer(source, name, trust_remote_code, revision)
    loader: Any = AutoModelForSequenceClassification if kind == "cross-encoder" else AutoModelForCausalLM
    try:
        model, report = loader.from_pretrained(
            source,
            revision=revision or "main",
            dtype=getattr(torch, settings.dtype),
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            weights_only=True,
        )
    except Exception as error:  # what transformers and the hub raise has no common base
        raise InputError(
            f"teacher {name!r} cannot be read as a {kind} model ({reason(error)}); allowed is a folder of "
            "transformers files or a hub id of such a model: check the name and --kind"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"teacher {name!r} lacks {len(missing)} weights of a {kind} model, e.g. {missing[0]}, which would be "
            "random; allowed is a model trained as one: choose another, or another --kind"
        )
    if not tokenizer.is_fast:
        raise InputError(f"teacher {name!r} has a tokenizer without offsets; allowed are fast tokenizers: convert it")
    return (CrossEncoder if kind == "cross-encoder" else TrueFalseModel)(model.eval(), tokenizer, name, settings)


def pair_limits(pair: PairModel, settings: PairSettings) -> tuple[int, int]:
    """Limits of query and passage, in tokens, that the model's positions allow.

    Raises:
        InputError: Limits of the settings that they do not.
    """
    positions = min(
        getattr(pair.model.config, "max_position_embeddings", None) or 2**31, pair.tokenizer.model_max_length
    )
    free = positions - len(pair.encode([""], [""])["input_ids"][0]) - _SPARE
    query, passage = settings.max_query_length, settings.max_passage_length
    query = min(304, max(1, free // 2)) if query is None else query
    passage = min(512, free - query) if passage is None else passage
    if min(query, passage) < 1 or query + passage > free:
        raise InputError(
            f"pairs.max_query_length and max_passage_length are {settings.max_query_length} and "
            f"{settings.max_passage_length}, but {free} of the {positions} positions of teacher {pair.name!r} are "
            f"free; allowed are limits from 1 whose sum is at most {free}: lower them, or shorten the prompt"
        )
    return query, passage


def cut(tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int) -> list[str]:
    """Texts without what lies behind their first ``limit`` tokens."""
    offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    ends = [each[limit - 1][1] if len(each) > limit else None for each in offsets]
    return [text[:end] for text, end in zip(texts, ends, strict=True)]


def _filled(prompt: str, query: str, passage: str) -> str:
    """Both placeholders at once, so that a text may hold one."""
    texts = {"{query}": query, "{passage}": passage}
    return re.sub(r"\{query\}|\{passage\}", lambda found: texts[found[0]], prompt)
