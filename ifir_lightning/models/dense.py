"""Dense: the layer after pooling, or after every token, that PyLate and sentence-transformers store."""

from collections.abc import Sequence
from typing import Literal, final

from torch import Tensor, nn

from ifir_lightning.errors import InputError

Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]


@final
class Dense(nn.Module):
    """y = activation(W x + b), plus x, or R x where the widths differ, with a residual.

    Args:
        in_features: Width of x.
        out_features: Width of y.
        bias: Whether there is a b.
        activation: Name of a class of ``torch.nn``.
        use_residual: Whether x is added to y.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: Activation = "Identity",
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = in_features, out_features, bias
        self.activation, self.use_residual = activation, use_residual
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        if use_residual and in_features != out_features:
            self.residual: nn.Module = nn.Linear(in_features, out_features, bias=False)
        elif use_residual:
            self.residual = nn.Identity()
        self._activate = getattr(nn, activation)()

    def forward(self, values_ND: Tensor) -> Tensor:
        """[N, in_features] -> [N, out_features]."""
        projected_ND = self._activate(self.linear(values_ND))
        return projected_ND + self.residual(values_ND) if self.use_residual else projected_ND


def check_chain(layers: Sequence[Dense], hidden_size: int) -> None:
    """Raise unless each layer takes what comes before it, the first the backbone's hidden states."""
    width, source = hidden_size, "the backbone"
    for number, layer in enumerate(layers, start=1):
        if layer.in_features != width:
            raise InputError(
                f"Dense layer {number} of model.pooling takes vectors of {layer.in_features}, but {source} gives "
                f"{width}; allowed is {width}: use the backbone that the layer was trained with, or a new layer"
            )
        width, source = layer.out_features, f"layer {number}"
