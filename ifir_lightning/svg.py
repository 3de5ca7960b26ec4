"""Pictures as SVG whose text and axes take the colour of the page around them."""

import io
import re
from collections.abc import Callable

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Each stands out from a white and from a black page (a contrast of 3 or more), and by its marker in print.
COLOURS = ("#3b82f6", "#d97706", "#0d9668", "#d6499b", "#8b6cf0", "#7c8595", "#e5484d", "#0891b2")
MARKERS = "osD^vPX*"
LABELS = {"p_mrr": "p-MRR (x100)", "score_b": "Score B (x100)"}
"""Of the axes of metrics."""
INK = "#010203"
"""Becomes the page's own colour of text."""


def as_text(name: str) -> str:
    """A label that matplotlib takes as it is: ``$`` begins no formula, and a leading ``_`` leaves no legend out."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def style(place: int) -> tuple[str, str]:
    """Colour and marker of the n-th thing in a picture."""
    return COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def draw_svg(draw: Callable[[Axes], None], height: float, salt: str) -> str:
    """What ``draw`` puts on axes, ``height`` inches high; 4.6 inches wide, so that a phone shows legible letters.

    Args:
        draw: Draws.
        height: In inches, without a legend.
        salt: Different for every picture of a page: its ids are made of it.
    """
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10.5}):
        drawing = Figure(figsize=(4.6, height), layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.subplots()
        draw(axes)
        _ink(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue().replace(INK, "currentColor")
    svg = re.sub(r'<g id="[\w.]+_\d+">', "<g>", svg[svg.index("<svg") :])  # not unique over pictures, not needed
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)


def legend_above(axes: Axes) -> None:
    """A legend over the axes, where nothing is drawn, in few rows, by whose height the picture grows."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    for columns in range(len(axes.get_legend_handles_labels()[0]), 0, -1):
        legend = axes.legend(frameon=False, fontsize=8.5, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1))
        taken = legend.get_window_extent()
        if taken.width <= 0.8 * figure.bbox.width:
            break
    figure.set_figheight(figure.get_figheight() + taken.height / figure.dpi)


def _ink(axes: Axes) -> None:
    """Text, ticks and spines in the colour that becomes the page's."""
    axes.tick_params(colors=INK)
    axes.spines[:].set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    for text in (axes.xaxis.label, axes.yaxis.label, *(axes.legend_.get_texts() if axes.legend_ else [])):
        text.set_color(INK)
