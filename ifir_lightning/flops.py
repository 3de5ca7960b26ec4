"""How much arithmetic a training step is, and how much a GPU could do."""

import re

from torch import Tensor, nn
from transformers import PretrainedConfig

PEAK_BF16 = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "B200": 2250e12,
}
"""Dense bf16 FLOP/s of the data sheets, by whole words of the device's name; the first that fits counts."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its data sheet; None for one that is not in the list."""
    return next((peak for words, peak in PEAK_BF16.items() if re.search(rf"\b{words}\b", device_name)), None)


def matrix_weights(model: nn.Module) -> int:
    """Parameters of a transformer's matrices, which multiply every token; embeddings are only looked up.

    A frozen one counts two thirds: of the three products of a step it lacks the one that gives its own gradient.
    """
    matrices = [each for name, each in model.named_parameters() if each.ndim > 1 and "embed" not in name]
    thirds = sum(each.numel() * (3 if each.requires_grad else 2) for each in matrices)
    return thirds // 3


def training_flops(config: PretrainedConfig, num_weights: int, lengths_B: Tensor) -> float:
    """FLOP of a forward and backward pass over texts of ``lengths_B`` real tokens, nothing computed twice.

    6 for each weight and token, and 12 * width for each layer and pair of tokens that sees each other (Chowdhery et
    al., PaLM, appendix B), with the window of ModernBERT's local layers. Layers without attention have no pairs, those
    of a kind that is not known have all. Scoring is left out: it is a few per cent.

    Args:
        config: Of the backbone.
        num_weights: Its ``matrix_weights``.
        lengths_B: Tokens of each text.
    """
    lengths_B = lengths_B.double()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    reach_B = (lengths_B - 1).clamp(max=getattr(config, "sliding_window", None) or 0)  # to each side
    near, every = lengths_B * (2 * reach_B + 1) - reach_B * (reach_B + 1), lengths_B.square()
    pairs = {"sliding_attention": float(near.sum()), "linear_attention": 0.0, "conv": 0.0}
    attention = 12 * config.hidden_size * sum(pairs.get(kind, float(every.sum())) for kind in kinds)
    return 6 * num_weights * float(lengths_B.sum()) + attention
