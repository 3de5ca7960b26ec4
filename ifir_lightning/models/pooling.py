"""What becomes of a text's hidden states: one vector per text, or one projected vector per token."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifir_lightning.errors import InputError
from ifir_lightning.models.checkpoints import read_pylate_projection
from ifir_lightning.records import Embeddings, Hidden


class Pooling(nn.Module, ABC):
    """Hidden states of a text -> its embeddings. To write a pooling of your own, implement ``forward``."""

    one_per_text: ClassVar[bool] = True
    """Whether every text becomes exactly one vector (bi-encoder)."""

    @property
    def has_weights(self) -> bool:
        """Whether the embeddings carry the token weights of weighted MaxSim."""
        return False

    def build(self, hidden_size: int) -> None:
        """Create parameters; called once, when the width of the backbone is known."""

    @abstractmethod
    def forward(self, hidden: Hidden) -> Embeddings:
        """Pool; float32 accumulation is the pooling's own duty."""


class MeanPooling(Pooling):
    """Mean of all token states of a text, special tokens included (sentence-transformers' ``mean_tokens``)."""

    def forward(self, hidden: Hidden) -> Embeddings:
        lengths_B = hidden.lengths_B.to(hidden.values_TD.device)
        mean_BD = torch.segment_reduce(hidden.values_TD.float(), "mean", lengths=lengths_B, axis=0)
        return _one_per_text(mean_BD)


class CLSPooling(Pooling):
    """State of the first token of a text."""

    def forward(self, hidden: Hidden) -> Embeddings:
        return _one_per_text(hidden.values_TD[hidden.offsets_B.to(hidden.values_TD.device)])


class LastTokenPooling(Pooling):
    """State of the last token of a text: the end-of-text token of a decoder, [SEP] of BERT.

    Texts are packed, so there is no padding side to get wrong.
    """

    def forward(self, hidden: Hidden) -> Embeddings:
        last_B = hidden.offsets_B + hidden.lengths_B - 1
        return _one_per_text(hidden.values_TD[last_B.to(hidden.values_TD.device)])


class TokenProjection(Pooling):
    """One projected vector per token: late interaction (ColBERT).

    Args:
        dim: Width of an embedding.
        bias: Whether the projection has a bias.
        normalize: Scale every vector to length 1, so that similarities are cosines.
        token_weights: Also learn ``w = 1 + linear(hidden)`` per token, the weights of weighted MaxSim. The
            linear starts at zero: training begins as plain MaxSim.
        checkpoint: Folder or hub id of a PyLate model whose first Dense layer becomes the projection.
    """

    one_per_text: ClassVar[bool] = False

    def __init__(
        self,
        dim: int = 128,
        bias: bool = False,
        normalize: bool = True,
        token_weights: bool = False,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"model.pooling dim is {dim}; allowed is 1 or more, usually 128: raise it")
        self.dim, self.bias, self.normalize, self.checkpoint = dim, bias, normalize, checkpoint
        self.token_weights = token_weights

    @property
    def has_weights(self) -> bool:
        return self.token_weights

    def build(self, hidden_size: int) -> None:
        self.projection = nn.Linear(hidden_size, self.dim, bias=self.bias)
        if self.checkpoint is not None:
            self.projection.load_state_dict(read_pylate_projection(self.checkpoint, hidden_size, self.dim, self.bias))
        if self.token_weights:
            self.weight = nn.Linear(hidden_size, 1)
            nn.init.zeros_(self.weight.weight)
            nn.init.zeros_(self.weight.bias)

    def forward(self, hidden: Hidden) -> Embeddings:
        kept_ND = hidden.values_TD[hidden.keep_T]
        values_ND = self.projection(kept_ND)
        if self.normalize:
            values_ND = F.normalize(values_ND, dim=-1)
        weights_N = 1 + self.weight(kept_ND).squeeze(-1).float() if self.token_weights else None
        return Embeddings(_num_kept(hidden), values_ND, weights_N)


def _one_per_text(values_BD: Tensor) -> Embeddings:
    return Embeddings(torch.ones(len(values_BD), dtype=torch.int64), values_BD)


def _num_kept(hidden: Hidden) -> Tensor:
    """Kept tokens of every text."""
    kept_T = F.pad(hidden.keep_T.cpu().cumsum(0), (1, 0))
    return kept_T[hidden.offsets_B + hidden.lengths_B] - kept_T[hidden.offsets_B]
