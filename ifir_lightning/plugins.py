"""Code of the user's own that a recipe may name: packages that the environment allows, and nothing else."""

import os

VARIABLE = "IFIR_PLUGINS"
"""Names of packages or modules, separated by commas. Never read from a recipe: who runs a recipe decides."""


def plugins() -> list[str]:
    """Packages that are allowed now."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def is_plugin(path: str) -> bool:
    """Whether a dotted name lies in one of them."""
    return any(path == name or path.startswith(f"{name}.") for name in plugins())
