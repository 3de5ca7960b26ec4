"""The explanation as a picture: what contributes most to the change of each passage's score."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ifir_lightning.explanation.parts import Explanation, Part
from ifir_lightning.svg import as_text

NUM_PARTS = 14
UP, DOWN = "#1f6fb2", "#c4532d"
LEGEND = (
    "change of what a part of the query adds to the score (blue raises it, red lowers it)\n"
    "+ only in the changed query, - only in the original"
)


def draw_changes(output: Path, title: str, explanations: Sequence[Explanation]) -> None:
    """One panel per passage, all on one scale: the parts of the query that change its score most; the others as one."""
    rows = [largest_changes(each.parts) for each in explanations]
    heights = [len(parts) + 3 for parts in rows]
    figure = Figure(figsize=(9, 1 + 0.27 * sum(heights)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for panel, explanation, parts in zip(panels, explanations, rows, strict=True):
        _draw(panel, explanation, parts)
    figure.suptitle(f"{as_text(title)}: what changes the score", fontsize=11)
    figure.supxlabel(LEGEND, fontsize=8)
    figure.savefig(output)


def largest_changes(parts: Sequence[Part], limit: int = NUM_PARTS) -> list[Part]:
    """The parts with the largest changes, in their order, and the sum of the others; together the whole change."""
    chosen = set(sorted(range(len(parts)), key=lambda i: (-abs(parts[i].change), i))[:limit])
    rest = [part for number, part in enumerate(parts) if number not in chosen]
    others = Part(
        f"{len(rest)} others", None, sum(p.original or 0.0 for p in rest), sum(p.changed or 0.0 for p in rest)
    )
    return [parts[number] for number in sorted(chosen)] + ([others] if rest else [])


def _draw(axes: Axes, explanation: Explanation, parts: Sequence[Part]) -> None:
    changes = [part.change for part in parts]
    axes.barh(range(len(parts)), changes, color=[UP if change >= 0 else DOWN for change in changes])
    axes.set_yticks(range(len(parts)), [_label(part) for part in parts], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8, labelbottom=True)
    before, after = explanation.scores
    ranks = f"rank {explanation.ranks[0]} to {explanation.ranks[1]}"
    score = f"score {before:.4f} to {after:.4f} ({after - before:+.4f})"
    axes.set_title(f"{as_text(explanation.passage.id)}: {ranks}, {score}", fontsize=9, loc="left")


def _label(part: Part) -> str:
    """``+`` and ``-`` where only the changed or only the original query has the part. No part is read as a formula."""
    sign = "+ " if part.original is None else "- " if part.changed is None else ""
    short = part.label if len(part.label) <= 60 else part.label[:57] + "..."
    return as_text(sign + short)
