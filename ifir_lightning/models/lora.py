"""LoRA: small matrices that learn beside the frozen ones of the transformer (Hu et al. 2021), made by peft."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor, nn

from ifir_lightning.errors import InputError, reason


@dataclass(frozen=True)
class LoraSettings:
    """Every adapted layer computes W x + (alpha / rank) B A x, of which A and B learn; B starts at zero.

    Args:
        rank: Rows of A and columns of B.
        alpha: With the rank, the size of what is added.
        dropout: Of the adapters' inputs, in training.
        target_modules: Ends of the names of the adapted layers, e.g. ``[Wqkv, Wo]``; by default all linear layers.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    target_modules: list[str] | None = None

    def __post_init__(self) -> None:
        faults = {
            "rank": (self.rank < 1, "1 or more: set it to 8 to 64"),
            "alpha": (self.alpha < 1, "1 or more: set it to twice the rank"),
            "dropout": (not 0 <= self.dropout < 1, "0 to below 1: set it to 0"),
        }
        for name, (wrong, allowed) in faults.items():
            if wrong:
                raise InputError(f"model.backbone.lora.{name} is {getattr(self, name)}; allowed is {allowed}")


def add_adapters(model: nn.Module, settings: LoraSettings) -> None:
    """Adapt layers in place and freeze all that was there.

    Raises:
        InputError: peft is not installed, no layer has such a name, or one that is not linear has.
    """
    if find_spec("peft") is None:
        raise InputError(
            "model.backbone.lora is set, but peft is not installed; allowed is LoRA with it: "
            "pip install 'ifir-lightning[lora]', or set model.backbone.lora to null"
        )
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = settings.target_modules or linear
    if not linear:
        raise InputError(
            f"model.backbone.lora is set, but {type(model).__name__} has no linear layer (torch.nn.Linear); allowed "
            "are encoders with some, whose adapters can be merged: set model.backbone.lora to null"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names,
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise InputError(
            f"model.backbone.lora.target_modules is {names}, which cannot be adapted ({reason(error)}); allowed are "
            f"ends of the names of linear layers, e.g. {linear[0].rpartition('.')[2]}: correct it, or leave it out"
        ) from error
    adapted = {name.removesuffix(".base_layer") for name, _ in model.named_modules() if name.endswith(".base_layer")}
    if others := sorted(adapted - set(linear)):
        raise InputError(
            f"model.backbone.lora.target_modules is {names}, which names {others[0]}, not a linear layer "
            "(torch.nn.Linear), whose adapter could not be merged into its weights; allowed are ends of the names of "
            f"linear layers, e.g. {linear[0].rpartition('.')[2]}: correct it, or leave it out"
        )


def merge_adapters(weights: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """The weights of a plain transformer that computes the same: W + (alpha / rank) B A under W's own name."""
    merged = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        adapted, _, end = name.rpartition("base_layer.")
        if adapted and end == "weight":
            up, down = (weights[f"{adapted}lora_{part}.default.weight"] for part in "BA")
            value = value + settings.alpha / settings.rank * (up @ down)
        merged[adapted + end] = value
    return merged
