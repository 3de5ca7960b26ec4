"""The pictures of a study as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ifir_lightning.studies.plan import distinct, is_number
from ifir_lightning.studies.words import place_text
from ifir_lightning.svg import INK, LABELS, as_text, draw_svg, legend_above, style


def draw_points(content: Mapping[str, Any], heads: Sequence[str], axis: str, key: str) -> str:
    """Every head over an axis: marks, side by side where its places are names.

    Numbers that the study lists are joined by a line, unless other settings set points of one place apart.

    Args:
        content: ``answers.answer``, with at least one point on the axis.
        heads: In the order of their colours.
        axis: Its name.
        key: ``p_mrr`` or ``score_b``.
    """
    places = distinct(point["values"][axis] for point in content["points"] if axis in point["values"])
    numeric, listed = all(map(is_number, places)), not content["points_drawn"]

    def draw(axes: Axes) -> None:
        for number, head in enumerate(heads):
            own = [point for point in content["points"] if point["head"] == head and axis in point["values"]]
            own.sort(key=lambda point: point["values"][axis] if numeric else 0)  # a line goes from left to right
            shift = 0.0 if numeric else (number - (len(heads) - 1) / 2) * 0.18
            at = [point["values"][axis] if numeric else places.index(point["values"][axis]) + shift for point in own]
            colour, marker = style(number)
            means = [point[key]["mean"] for point in own]
            reach = list(zip(*(_reach(point[key]) for point in own), strict=True)) or None
            alone = len(distinct(point["values"][axis] for point in own)) == len(own)
            line = "-" if numeric and listed and alone else "none"
            axes.errorbar(at, means, yerr=reach, color=colour, marker=marker, linestyle=line, capsize=4, label=head)
        if numeric and min(places) > 0 and max(places) >= 8 * min(places):
            axes.set_xscale("log")
        if numeric and listed:
            axes.set_xticks(places, [place_text(place) for place in places])
            axes.minorticks_off()
        elif not numeric:
            axes.set_xticks(range(len(places)), [as_text(str(place)) for place in places], rotation=20, ha="right")
        _label(axes, axis, key)

    return draw_svg(draw, height=3.2, salt=f"{axis}-{key}")


def draw_best_of(sensitivity: Mapping[str, Any], key: str) -> str:
    """Expected best of k random configurations, with the 95% band."""

    def draw(axes: Axes) -> None:
        for number, (head, found) in enumerate(sensitivity.items()):
            if key not in found:
                continue
            colour, marker = style(number)
            tries = range(1, 1 + len(found[key]["best_of"]))
            axes.fill_between(
                tries, found[key]["best_of_low"], found[key]["best_of_high"], color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(tries, found[key]["best_of"], color=colour, marker=marker, markersize=4, label=head)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _label(axes, "configurations tried", f"{key}")

    return draw_svg(draw, height=3.2, salt=f"best-of-{key}")


def _reach(found: Mapping[str, Any]) -> tuple[float, float]:
    """How far an interval goes below and above its mean."""
    return (0.0, 0.0) if found["low"] is None else (found["mean"] - found["low"], found["high"] - found["mean"])


def _label(axes: Axes, axis: str, key: str) -> None:
    if key == "p_mrr":
        axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(as_text(axis))
    axes.set_ylabel(LABELS[key])
    axes.grid(alpha=0.3)
    legend_above(axes)
