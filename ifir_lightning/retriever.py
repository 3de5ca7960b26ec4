"""Retriever: texts -> embeddings -> scores, the same object in training, validation, prediction and a notebook."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ifir_lightning.compatibility import check_parts, check_text
from ifir_lightning.errors import InputError
from ifir_lightning.models.backbone import Backbone, BackboneSettings
from ifir_lightning.models.checkpoints import read_checkpoint
from ifir_lightning.models.description import describe, phrase, rebuild
from ifir_lightning.models.layouts import Checkpoint
from ifir_lightning.models.pooling import Pooling
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.models.snapshot import snapshot
from ifir_lightning.models.transformer import build_transformer, load_tokenizer, split_revision
from ifir_lightning.records import Embeddings, Passage, Tokens, token_chunks
from ifir_lightning.text import TextTokenizer, listed
from ifir_lightning.text_format import TextFormat, TextSettings

_log = logging.getLogger(__name__)
Part = TypeVar("Part", Pooling, Scorer)

CPU_TOKENS = 2048
"""Tokens that a CPU encodes at a time: their activations stay in its cache, and memory is used again."""


class Retriever(nn.Module):
    """A backbone, a pooling, a scorer and a format of texts that fit each other.

    Args:
        backbone: The transformer and its tokenizer.
        pooling: Hidden states -> embeddings; built.
        scorer: Embeddings -> scores.
        text: Prefixes, markers, limits.
        source: What the weights were loaded from; "" for random ones.

    Raises:
        InputError: A pooling, a scorer and a format of texts that do not fit, a limit beyond the backbone's positions.
    """

    def __init__(
        self, backbone: Backbone, pooling: Pooling, scorer: Scorer, text: TextFormat, source: str = ""
    ) -> None:
        super().__init__()
        check_parts(pooling, scorer)
        check_text(text, pooling, backbone)
        self.backbone, self.pooling, self.scorer, self.source = backbone, pooling, scorer, source
        self.tokenizer = TextTokenizer(backbone.tokenizer, text)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.model.device

    def prepare(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Choose the attention kernel for a device and the precision that attention will have there."""
        self.backbone.prepare(device, dtype, unattended=self.tokenizer.format.query_expansion == "unattended")

    def forward(self, tokens: Tokens) -> Embeddings:
        """Embeddings of packed texts, on the device of the tokens.

        With gradients and ``max_tokens_per_chunk``, texts of similar length are encoded together, so many tokens at a
        time; each chunk keeps its embeddings only and is computed again, with the same dropout, in the backward pass.
        Gradients are exact, and the batch is bounded by embeddings, not activations (GradCache, Gao et al. 2021,
        inside automatic optimisation). A CPU always encodes in chunks, which its cache holds, and keeps them.
        """
        limit = self.backbone.max_tokens_per_chunk if torch.is_grad_enabled() else None
        embed = self._embed if limit is None else self._embed_recomputing
        if limit is None and tokens.input_ids_T.device.type == "cpu":
            limit = CPU_TOKENS
        if limit is None or len(tokens.input_ids_T) <= limit:
            return self._embed(tokens)
        chunks = list(token_chunks(tokens.lengths_B, limit))
        return Embeddings.concat([embed(tokens.select(chunk)) for chunk in chunks]).select(torch.cat(chunks).argsort())

    def _embed(self, tokens: Tokens) -> Embeddings:
        return self.pooling(self.backbone(tokens))

    def _embed_recomputing(self, tokens: Tokens) -> Embeddings:
        """Computed again in the backward pass; torch repeats the dropout of devices whose tensors it is given."""

        def embed(input_ids_T: Tensor) -> Embeddings:
            return self._embed(replace(tokens, input_ids_T=input_ids_T))

        return recompute(embed, tokens.input_ids_T, use_reentrant=False)

    def encode_queries(
        self, texts: Sequence[str], instructions: Sequence[str] | None = None, max_tokens: int = 16384
    ) -> Embeddings:
        """Embeddings of queries, each with its instruction if there are any.

        Args:
            texts: The queries.
            instructions: As many instructions; "" for none.
            max_tokens: Tokens encoded at a time.

        Raises:
            InputError: No query, one that is no text, or another number of instructions.
        """
        texts = listed(texts, "queries", str)
        instructions = [""] * len(texts) if instructions is None else listed(instructions, "instructions", str)
        if len(instructions) != len(texts):
            raise InputError(
                f"encode_queries got {len(texts)} queries and {len(instructions)} instructions; allowed are as many "
                "instructions as queries: pass lists of equal length"
            )
        return self.encode(self.tokenizer.queries(zip(texts, instructions, strict=True)), max_tokens)

    def encode_passages(self, texts: Sequence[str | Passage], max_tokens: int = 16384) -> Embeddings:
        """Embeddings of passages: texts, or ``Passage`` records with titles.

        Args:
            texts: The passages.
            max_tokens: Tokens encoded at a time.

        Raises:
            InputError: No passage, or one that is neither a text nor a ``Passage``.
        """
        texts = listed(texts, "passages", str | Passage)
        passages = [text if isinstance(text, Passage) else Passage("", "", text) for text in texts]
        return self.encode(self.tokenizer.passages(passages), max_tokens)

    @torch.inference_mode()
    def score(self, queries: Embeddings | Sequence[str], passages: Embeddings | Sequence[str | Passage]) -> Tensor:
        """scores_QP, float32: every query against every passage, given as embeddings or as texts."""
        encoded_queries = queries if isinstance(queries, Embeddings) else self.encode_queries(queries)
        encoded_passages = passages if isinstance(passages, Embeddings) else self.encode_passages(passages)
        return self.scorer(encoded_queries, encoded_passages)

    def snapshot(self) -> dict[str, object]:
        """What a checkpoint carries beside the weights (``models/snapshot.py``)."""
        return snapshot(self.backbone, self.pooling, self.scorer, self.tokenizer.format, self.source)

    @torch.inference_mode()
    def encode(self, tokens: Tokens, max_tokens: int = 16384) -> Embeddings:
        """Embeddings of any number of packed texts, ``max_tokens`` tokens at a time."""
        chunks = list(token_chunks(tokens.lengths_B, max_tokens))
        encoded = Embeddings.concat([self(tokens.select(chunk).to(self.device)) for chunk in chunks])
        return encoded.select(torch.cat(chunks).argsort())


def load_retriever(
    checkpoint: str,
    pooling: Pooling | None = None,
    scorer: Scorer | None = None,
    text: TextSettings = TextSettings(),  # noqa: B008  (frozen)
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Retriever:
    """A retriever to use: in evaluation mode, float32.

    Args:
        checkpoint: As ``model.checkpoint`` in a recipe: a folder, hub id, run folder or .ckpt file.
        pooling: By default the checkpoint's. It says what the pooling is; its weights are the checkpoint's where that
            has the same pooling, else new.
        scorer: The same of the scorer.
        text: What differs from the checkpoint's format of texts, e.g. ``TextSettings(max_query_length=304)``.
        device: Where it shall compute.
        trust_remote_code: Allow the checkpoint to run code of its own.

    Raises:
        InputError: It cannot be read, or lacks a pooling or scorer that was not given.
    """
    backbone = BackboneSettings(trust_remote_code=trust_remote_code)
    retriever = build_retriever(checkpoint, backbone, pooling, scorer, text).to(device).eval()
    retriever.prepare(retriever.device)
    return retriever


def build_retriever(
    checkpoint: str | None,
    backbone: BackboneSettings,
    pooling: Pooling | None = None,
    scorer: Scorer | None = None,
    text: TextSettings = TextSettings(),  # noqa: B008  (frozen)
    seed: int = 0,
) -> Retriever:
    """A retriever in training mode: what the checkpoint says, unless an argument says otherwise.

    Every difference is logged. A pooling or a scorer that is described as the checkpoint's is the checkpoint's, with
    its trained weights. New layers and tokens are logged too, and drawn from ``seed``, whatever was drawn before.

    Raises:
        InputError: Neither or both of a checkpoint and ``backbone.config``; parts that are missing or do not fit.
    """
    with _seeded(seed):
        read = _read(checkpoint, backbone)
        if checkpoint is not None:
            torch.default_generator.manual_seed(seed)
        model = Backbone(read.transformer, read.tokenizer, backbone)
        pooling, scorer = pooling and _drawn(pooling), scorer and _drawn(scorer)
        if pooling is not None:
            pooling.build(model.hidden_size, read.pooling)
        chosen_pooling, chosen_scorer = _choose(read, pooling, scorer)
        text_format = text.over(_said(read, model, chosen_pooling))
        added = model.add_tokens([each for each in (text_format.query_marker, text_format.passage_marker) if each])
        model.adapt()
    notes = [*_new(read, chosen_pooling, chosen_scorer, seed), *text.differences(read.text)]
    frozen = "" if backbone.lora is None else ", which LoRA leaves as it is"
    notes += [f"token {token!r} is new, with a random embedding (seed {seed}){frozen}" for token in added]
    if text.query_expansion is None and read.text.get("query_expansion", "none") != text_format.query_expansion:
        notes.append("its query expansion is not used, since only late interaction counts the tokens that it adds")
    for note in notes:
        _log.info("%s: %s", read.name, note)
    return Retriever(model, chosen_pooling, chosen_scorer, text_format, str(checkpoint or ""))


def _read(checkpoint: str | None, backbone: BackboneSettings) -> Checkpoint:
    if (checkpoint is None) == (backbone.config is None):
        raise InputError(
            f"model.checkpoint is {checkpoint!r} and model.backbone.config {backbone.config!r}; allowed is exactly "
            "one: give a checkpoint for trained weights or a config for random ones"
        )
    tokenizer = None
    if backbone.tokenizer is not None:
        source, revision = split_revision(backbone.tokenizer)
        tokenizer = load_tokenizer(source, backbone.tokenizer, backbone.trust_remote_code, revision)
    if checkpoint is not None:
        read = read_checkpoint(str(checkpoint), backbone.trust_remote_code)
        if tokenizer is not None and len(tokenizer) > read.transformer.config.vocab_size:
            raise InputError(
                f"model.backbone.tokenizer {backbone.tokenizer!r} has {len(tokenizer)} tokens, the checkpoint "
                f"{checkpoint!r} embeds {read.transformer.config.vocab_size}; allowed is its own: "
                "leave model.backbone.tokenizer out"
            )
        if tokenizer is None:
            return read
        _log.info("%s: the tokenizer is %r, not its own", read.name, backbone.tokenizer)
        return replace(read, tokenizer=tokenizer)
    if tokenizer is None:
        raise InputError(
            "model.backbone.config comes without a tokenizer; allowed is a folder or hub id: "
            "set model.backbone.tokenizer"
        )
    assert backbone.config is not None
    model = build_transformer(backbone.config, tokenizer)
    return Checkpoint("model.backbone.config", model, tokenizer, lacks="it is a configuration")


def _choose(read: Checkpoint, pooling: Pooling | None, scorer: Scorer | None) -> tuple[Pooling, Scorer]:
    """The recipe's parts where it has others than the checkpoint."""
    chosen_pooling, chosen_scorer = _other(pooling, read.pooling), _other(scorer, read.scorer)
    if chosen_pooling is None or chosen_scorer is None:
        lacking = "model.pooling" if chosen_pooling is None else "model.scorer"
        raise InputError(
            f"{read.name!r} gives no {lacking} ({read.lacks}) and neither does the recipe; allowed are the classes of "
            f"ifir_lightning.models or your own, e.g. {'MeanPooling' if chosen_pooling is None else 'Cosine'}: "
            f"set {lacking}"
        )
    return chosen_pooling, chosen_scorer


def _other(part: Part | None, old: Part | None) -> Part | None:
    is_old = part is None or (old is not None and describe(part) == describe(old))
    return old if is_old else part


def _drawn(part: Part) -> Part:
    """The part made anew, if it has weights, so that they come from the generator as it is now."""
    has_weights = any(True for _ in part.parameters())
    return rebuild(describe(part), type(part), trust_remote_code=True) if has_weights else part


def _new(read: Checkpoint, pooling: Pooling, scorer: Scorer, seed: int) -> Iterator[str]:
    """Parts, and weights of parts, that are not the checkpoint's."""
    for name, old, part in (("pooling", read.pooling, pooling), ("scorer", read.scorer, scorer)):
        if old is not None and part is not old:
            yield f"{name} {phrase(describe(old))} in the checkpoint, {phrase(describe(part))} in the recipe"
        taken = [] if old is None else list(map(id, old.parameters()))
        weights = [f"{key} {list(value.shape)}" for key, value in part.named_parameters() if id(value) not in taken]
        if weights:
            yield f"new weights of the {name} (seed {seed}): {', '.join(weights)}"


def _said(read: Checkpoint, model: Backbone, pooling: Pooling) -> dict[str, object]:
    """What the checkpoint says of texts; where it says nothing, limits are ours, within the model's positions."""
    longest = model.max_length
    ours = {name: getattr(TextFormat(), name) for name in ("max_query_length", "max_passage_length")}
    limits = {name: limit if longest is None else min(limit, longest) for name, limit in ours.items()}
    return limits | dict(read.text) | ({"query_expansion": "none"} if pooling.one_per_text else {})


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The CPU's random numbers from ``seed`` inside; outside, as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield
