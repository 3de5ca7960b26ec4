"""The explanations of a retriever: token by token for MaxSim, by leaving out spans for every other scorer."""

import re
from collections.abc import Sequence
from itertools import chain
from statistics import fmean

import torch

from ifir_lightning.explanation.parts import Contribution, Explanation, Match, aligned
from ifir_lightning.metrics import ranks
from ifir_lightning.models.scoring import MaxSim, WeightedMaxSim
from ifir_lightning.records import Embeddings, Passage, Tokens
from ifir_lightning.retriever import Retriever
from ifir_lightning.spans import Span, query_spans

Query = tuple[str, str]
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")


def explain_passages(
    retriever: Retriever,
    queries: tuple[Query, Query],
    passages: Sequence[Passage],
    scores: tuple[dict[str, float], dict[str, float]],
    excluded: Sequence[str],
) -> list[Explanation]:
    """Explain some passages.

    Args:
        retriever: In evaluation mode.
        queries: The query with its original and with its changed instruction.
        passages: Those to explain.
        scores: Of every candidate under both, for ranks.
        excluded: Ids of the passages that the changed instruction makes irrelevant.
    """
    by_token = isinstance(retriever.scorer, MaxSim | WeightedMaxSim) and not retriever.pooling.one_per_text
    places = tuple(ranks(each) for each in scores)
    mean_change = fmean(scores[1][id_] - scores[0][id_] for id_ in scores[0])
    explanations = []
    for passage in passages:
        matches, tokens = token_matches(retriever, queries, passage) if by_token else (([], []), [])
        sides: list[list[Contribution]] = (
            [[(match.token, match.span, match.contribution) for match in side] for side in matches]
            if by_token
            else [span_contributions(retriever, query, passage) for query in queries]
        )
        explanations.append(
            Explanation(
                passage=passage,
                scores=(scores[0][passage.id], scores[1][passage.id]),
                ranks=(places[0][passage.id], places[1][passage.id]),
                mean_change=mean_change,
                excluded=passage.id in excluded,
                parts=aligned(*sides),
                passage_tokens=tokens,
                matches=matches,
            )
        )
    return explanations


@torch.inference_mode()
def token_matches(
    retriever: Retriever, queries: tuple[Query, Query], passage: Passage
) -> tuple[tuple[list[Match], list[Match]], list[str]]:
    """The matches of both queries, and the passage's kept tokens. The contributions add up to the scores."""
    tokenizer = retriever.tokenizer
    query_tokens, passage_tokens = tokenizer.queries(queries), tokenizer.passages([passage])
    passage_MD = retriever.encode(passage_tokens).values_ND.float()
    spans = query_spans(tokenizer, queries).split(query_tokens.lengths_B.tolist())
    sides = [
        _matches(retriever, embeddings, _words(retriever, tokens), [Span(span) for span in own.tolist()], passage_MD)
        for embeddings, tokens, own in zip(
            retriever.encode(query_tokens).split(1, 1), query_tokens.split(1, 1), spans, strict=True
        )
    ]
    return (sides[0], sides[1]), _words(retriever, passage_tokens)


def _matches(
    retriever: Retriever, query: Embeddings, words: list[str], spans: list[Span], passage_MD: torch.Tensor
) -> list[Match]:
    assert isinstance(retriever.scorer, MaxSim | WeightedMaxSim)
    similarity_N, place_N = (query.values_ND.float() @ passage_MD.T).max(dim=1)
    weights_N = torch.ones_like(similarity_N) if query.weights_N is None else query.weights_N
    divisor = len(words) if retriever.scorer.reduction == "mean" else 1
    contribution_N = similarity_N * weights_N / divisor
    numbers = (place_N, similarity_N, weights_N, contribution_N)
    return [
        Match(word, span, int(place), similarity, weight, contribution)
        for word, span, place, similarity, weight, contribution in zip(
            words, spans, *(each.tolist() for each in numbers), strict=True
        )
    ]


def _words(retriever: Retriever, tokens: Tokens) -> list[str]:
    """The kept tokens of a text as one reads them."""
    tokenizer = retriever.tokenizer.tokenizer
    ids = tokens.input_ids_T[tokens.keep_T].tolist()
    return [str(tokenizer.decode([id_])).strip() or str(tokenizer.convert_ids_to_tokens(id_)) for id_ in ids]


def span_contributions(retriever: Retriever, query: Query, passage: Passage) -> list[Contribution]:
    """How far the score falls when the query, or one sentence of its instruction, is left out and the rest re-encoded.

    The last entry is the score less all of these: what the spans do together, and what every text scores.
    """
    text, instruction = query
    sentences = [sentence for sentence in SENTENCE_END.split(instruction) if sentence]
    remainders = [" ".join(chain(sentences[:number], sentences[number + 1 :])) for number in range(len(sentences))]
    asked = [query, ("", instruction), *((text, remainder) for remainder in remainders)]
    labels: list[tuple[str, Span]] = [(text, Span.QUERY), *((sentence, Span.INSTRUCTION) for sentence in sentences)]
    if not instruction:
        asked, labels = [query], []
    encoded = retriever.encode_queries([each for each, _ in asked], [each for _, each in asked])
    score, *without = retriever.score(encoded, [passage])[:, 0].tolist()
    effects = [score - each for each in without]
    spans = [(label, span, effect) for (label, span), effect in zip(labels, effects, strict=True)]
    return [*spans, ("everything else", None, score - sum(effects))]
