"""Numbers of a study as one reads them."""

from ifir_lightning.studies.plan import Value


def number_text(value: float) -> str:
    """To three digits, or whole: ``0.25``, ``12,800``, ``2.5 billion``, ``3.21 x 10^24``."""
    if value and not 1e-4 <= abs(value) < 1e15:
        digits, power = f"{value:.2e}".split("e")
        return f"{digits} x 10^{int(power)}"
    scale, word = next((each for each in ((1e12, " trillion"), (1e9, " billion")) if abs(value) >= each[0]), (1.0, ""))
    scaled = value / scale
    return (f"{scaled:,.0f}" if abs(scaled) >= 100 else f"{scaled:.3g}") + word


def size_text(size: float | None) -> str:
    """A number of queries (or a share of them), or that no number is enough."""
    return "never" if size is None else number_text(size)


def place_text(value: Value) -> str:
    """A place on an axis; of a float what recipes call it (``3e-05``), unless it is large."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if abs(value) < 1e5 else number_text(value)
