"""Train, validate and explain retrievers that follow instructions."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Retriever", "load_retriever"]


def __getattr__(name: str) -> Any:
    """``from ifir_lightning import load_retriever``; torch is imported only then."""
    if name in __all__:
        return getattr(import_module("ifir_lightning.retriever"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
