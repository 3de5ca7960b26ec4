"""The pictures of a comparison."""

from typing import Any

from matplotlib.axes import Axes

from ifir_lightning.comparison.results import MEAN
from ifir_lightning.svg import INK, LABELS, as_text, draw_svg, legend_above, style

SIDES = {"steps": "training steps (optimizer updates)", "queries_seen": "training queries seen"}


def draw_intervals(report: dict[str, Any], key: str) -> str:
    """One point per recipe with its 95% interval over queries, the mean over tasks."""

    def draw(axes: Axes) -> None:
        for place, recipe in enumerate(report["recipes"]):
            numbers = recipe["results"][MEAN][key]
            reach = [[numbers["value"] - numbers["low"]], [numbers["high"] - numbers["value"]]]
            colour, marker = style(place)
            axes.errorbar(
                numbers["value"], place, xerr=reach, color=colour, marker=marker, markersize=7, linewidth=2.2, capsize=5
            )
        axes.set_yticks(
            range(len(report["recipes"])), [as_text(_short(recipe["name"])) for recipe in report["recipes"]]
        )
        axes.set_ylim(len(report["recipes"]) - 0.4, -0.6)
        axes.set_xlabel(f"{LABELS[key]}, 95% interval")
        axes.grid(axis="x", alpha=0.3)
        if key == "p_mrr":
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")

    return draw_svg(draw, height=0.9 + 0.42 * len(report["recipes"]), salt=f"intervals-{key}")


def draw_curves(report: dict[str, Any], key: str, side: str) -> str:
    """The mean over seeds of every recipe as a line, least to greatest seed as a band."""

    def draw(axes: Axes) -> None:
        for place, curve in enumerate(report["curves"]):
            colour, marker = style(place)
            band = curve[key]
            axes.fill_between(curve[side], band["low"], band["high"], color=colour, alpha=0.22, linewidth=0)
            axes.plot(
                curve[side],
                band["mean"],
                color=colour,
                marker=marker,
                markersize=4,
                label=as_text(_short(curve["recipe"])),
            )
        if key == "p_mrr":
            axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(SIDES[side])
        axes.set_ylabel(LABELS[key])
        axes.grid(alpha=0.3)
        legend_above(axes)

    return draw_svg(draw, height=3.0, salt=f"curves-{key}-{side}")


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:12]}...{name[-13:]}"
