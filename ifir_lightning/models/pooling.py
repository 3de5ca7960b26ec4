"""What becomes of a text's hidden states: one vector per text, or one projected vector per token."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ifir_lightning.errors import InputError
from ifir_lightning.models.dense import Dense, check_chain
from ifir_lightning.records import Embeddings, Hidden, on_device, segment_reduce


class Pooling(nn.Module, ABC):
    """Hidden states of a text -> its embeddings. To write a pooling of your own, implement ``forward``.

    A constructor keeps its arguments under their names, so that checkpoints can carry them; ``build`` checks them.
    """

    one_per_text: ClassVar[bool] = True
    """Whether every text becomes exactly one vector (bi-encoder)."""

    @property
    def has_weights(self) -> bool:
        """Whether the embeddings carry the token weights of weighted MaxSim."""
        return False

    def build(self, hidden_size: int, start: "Pooling | None" = None) -> None:
        """Create parameters; called once, when the width of the backbone is known.

        Args:
            hidden_size: That width.
            start: The pooling that the checkpoint came with, whose layers may be taken over.

        Raises:
            InputError: Arguments that cannot be, or do not fit the width.
        """

    @abstractmethod
    def forward(self, hidden: Hidden) -> Embeddings:
        """Pool; float32 accumulation is the pooling's own duty."""


class MeanPooling(Pooling):
    """Mean of all token states of a text, special tokens included (sentence-transformers' ``mean_tokens``)."""

    def forward(self, hidden: Hidden) -> Embeddings:
        mean_BD = segment_reduce(hidden.values_TD.float(), "mean", hidden.lengths_B)
        return Embeddings.one_per_text(mean_BD)


class CLSPooling(Pooling):
    """State of the first token of a text."""

    def forward(self, hidden: Hidden) -> Embeddings:
        return _rows_alone(hidden, hidden.offsets_B)


class LastTokenPooling(Pooling):
    """State of the last token of a text: the end-of-text token of a decoder, [SEP] of BERT.

    Texts are packed, so there is no padding side to get wrong.
    """

    def forward(self, hidden: Hidden) -> Embeddings:
        return _rows_alone(hidden, hidden.offsets_B + hidden.lengths_B - 1)


class Projected(Pooling):
    """Another pooling's vectors through Dense layers, scaled to length 1 or not (sentence-transformers' modules).

    Args:
        pooling: Makes one vector per text.
        layers: Applied one after the other.
        normalize: Scale every vector to length 1 in the end. Cosine does not look at it, Dot does.
    """

    def __init__(self, pooling: Pooling, layers: Sequence[Dense] = (), normalize: bool = False) -> None:
        super().__init__()
        self.pooling, self.layers, self.normalize = pooling, nn.ModuleList(layers), normalize

    def build(self, hidden_size: int, start: Pooling | None = None) -> None:
        if not self.pooling.one_per_text:
            raise InputError(
                f"Projected got {type(self.pooling).__name__}, which gives one vector per token; allowed are poolings "
                "to one vector per text: take TokenProjection alone"
            )
        self.pooling.build(hidden_size)
        check_chain(dense_layers(self.layers), hidden_size)

    def forward(self, hidden: Hidden) -> Embeddings:
        pooled = self.pooling(hidden)
        values_BD = _apply(self.layers, pooled.values_ND)
        return Embeddings(pooled.lengths_B, F.normalize(values_BD, dim=-1) if self.normalize else values_BD)


class TokenProjection(Pooling):
    """One projected vector per token: late interaction (ColBERT).

    Args:
        dim: Width of an embedding: by default the checkpoint's, 128 for a new projection.
        bias: Whether a new projection has a bias.
        normalize: Scale every vector to length 1, so that similarities are cosines.
        token_weights: Also learn ``w = 1 + linear(hidden)`` per token, the weights of weighted MaxSim. The
            linear starts at zero: training begins as plain MaxSim.
        layers: The projection; by default the checkpoint's, and one new layer where it has none.

    """

    one_per_text: ClassVar[bool] = False

    def __init__(
        self,
        dim: int | None = None,
        bias: bool = False,
        normalize: bool = True,
        token_weights: bool = False,
        layers: Sequence[Dense] | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.bias, self.normalize, self.token_weights = dim, bias, normalize, token_weights
        self.layers = nn.ModuleList(layers) if layers else None
        self.weight: nn.Linear | None = None

    @property
    def has_weights(self) -> bool:
        return self.token_weights

    def build(self, hidden_size: int, start: Pooling | None = None) -> None:
        if self.dim is not None and self.dim < 1:
            raise InputError(f"model.pooling dim is {self.dim}; allowed is 1 or more, usually 128: raise it")
        if self.layers is not None and self.dim not in (None, self.width):
            raise InputError(
                f"model.pooling dim is {self.dim}, but its last layer gives {self.width}; allowed is that width: "
                "leave dim out"
            )
        taken = start if isinstance(start, TokenProjection) else None
        if self.layers is None and taken and taken.layers and self.dim in (None, taken.width):
            self.layers = taken.layers
        if self.layers is None:
            self.layers = nn.ModuleList([Dense(hidden_size, self.dim or 128, self.bias)])
        check_chain(dense_layers(self.layers), hidden_size)
        self.dim, self.bias = self.width, dense_layers(self.layers)[-1].bias
        if self.token_weights:
            self.weight = taken.weight if taken and taken.weight else _zeros(hidden_size)

    @property
    def width(self) -> int:
        """Width of an embedding."""
        assert self.layers is not None, "not built"
        return dense_layers(self.layers)[-1].out_features

    def forward(self, hidden: Hidden) -> Embeddings:
        kept_ND = hidden.values_TD
        if not bool(hidden.keep_T.all()):
            kept_ND = kept_ND.index_select(0, on_device(hidden.keep_T.nonzero()[:, 0], kept_ND.device))
        values_ND = _apply(self.layers, kept_ND)
        if self.normalize:
            values_ND = F.normalize(values_ND, dim=-1)
        weights_N = 1 + self.weight(kept_ND).squeeze(-1).float() if self.weight else None
        return Embeddings(_num_kept(hidden), values_ND, weights_N)


def dense_layers(layers: nn.ModuleList) -> list[Dense]:
    """The layers of a list, typed.

    Raises:
        InputError: One is something else.
    """
    found = [layer for layer in layers if isinstance(layer, Dense)]
    if len(found) < len(layers):
        other = next(layer for layer in layers if not isinstance(layer, Dense))
        raise InputError(f"model.pooling layers hold {other}; allowed are layers of Dense: give Dense(in, out)")
    return found


def _apply(layers: nn.ModuleList | None, values_ND: Tensor) -> Tensor:
    assert layers is not None, "not built"
    for layer in layers:
        values_ND = layer(values_ND)
    return values_ND


def _zeros(hidden_size: int) -> nn.Linear:
    """Weights of 1 for every token: the linear of ``w = 1 + linear(hidden)`` is zero."""
    linear = nn.Linear(hidden_size, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _rows_alone(hidden: Hidden, rows_B: Tensor) -> Embeddings:
    return Embeddings.one_per_text(hidden.values_TD.index_select(0, on_device(rows_B, hidden.values_TD.device)))


def _num_kept(hidden: Hidden) -> Tensor:
    """Kept tokens of every text."""
    kept_T = F.pad(hidden.keep_T.cumsum(0), (1, 0))
    return kept_T[hidden.offsets_B + hidden.lengths_B] - kept_T[hidden.offsets_B]
