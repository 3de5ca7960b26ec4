"""Whether the parts of a retriever fit each other."""

from ifir_lightning.errors import InputError
from ifir_lightning.models.backbone import Backbone
from ifir_lightning.models.pooling import Pooling
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.text_format import TextFormat


def check_parts(pooling: Pooling, scorer: Scorer) -> None:
    """InputError if the scorer wants other embeddings than the pooling makes."""
    names = f"model.scorer {type(scorer).__name__}", f"model.pooling {type(pooling).__name__}"
    if scorer.one_per_text and not pooling.one_per_text:
        raise InputError(
            f"{names[0]} compares one vector per text, but {names[1]} gives one per token; allowed with it are "
            "MeanPooling, CLSPooling and LastTokenPooling: change the pooling, or take MaxSim as scorer"
        )
    if scorer.needs_weights != pooling.has_weights:
        raise InputError(
            f"{names[0]} {'needs' if scorer.needs_weights else 'does not use'} token weights, but {names[1]} "
            f"{'gives none' if scorer.needs_weights else 'learns them'}; allowed are a scorer that needs "
            "them (WeightedMaxSim) with TokenProjection(token_weights=true), and the others without: set token_weights "
            "or the scorer"
        )


def check_text(text: TextFormat, pooling: Pooling, backbone: Backbone) -> None:
    """InputError for tokens that the pooling cannot use, or limits beyond the backbone's positions."""
    if pooling.one_per_text and text.query_expansion != "none":
        raise InputError(
            f"model.text.query_expansion is {text.query_expansion}, but model.pooling {type(pooling).__name__} gives "
            "one vector per text, and only late interaction counts the added tokens; allowed is none: leave it out"
        )
    for name in ("max_query_length", "max_passage_length"):
        if backbone.max_length is not None and getattr(text, name) > backbone.max_length:
            raise InputError(
                f"model.text.{name} is {getattr(text, name)}, but the backbone has {backbone.max_length} positions; "
                f"allowed are up to {backbone.max_length}: lower model.text.{name}"
            )
