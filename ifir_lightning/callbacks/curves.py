"""The picture of a run: p-MRR and Score B over the training steps."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ifir_lightning.svg import as_text


def draw_curves(folder: Path, output: Path) -> None:
    """Draw the validations under ``folder`` (``step-*/metrics.json``): p-MRR at the left, Score B at the right.

    One thin line per task, a thick one for their mean over the validations on the tasks of the last one; both axes
    x100. The folder is the only memory, so a resumed run keeps its curve. Where there are ``probe.json`` files, the
    instruction margin is drawn below.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("step-*/metrics.json"))]
    probes = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("step-*/probe.json"))]
    num_lines = 2 if probes else 1
    figure = Figure(figsize=(11, 4.2 * num_lines), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    (left, right), *below = figure.subplots(num_lines, 2, squeeze=False, sharex="col")
    _draw(left, records, "p_mrr", "p-MRR (x100; above 0: the instruction is followed)")
    _draw(right, records, "score_b", "Score B (x100; original instruction, original qrels)")
    left.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    right.set_ylim(0, 105)
    left.legend(frameon=False, fontsize=8, loc="best")
    for margin, accuracy in below:
        _draw_probe(margin, probes, "margin", "held-out rows: margin to instruction negatives")
        _draw_probe(accuracy, probes, "accuracy", "held-out rows: positive before its negatives (%)")
    figure.suptitle(f"FollowIR validation of {as_text(output.resolve().parent.name)}", fontsize=11)
    figure.savefig(output)


def _draw(axes: Axes, records: list[dict[str, Any]], key: str, label: str) -> None:
    steps = [record["step"] for record in records]
    by_name = [{task["task"]: task[key] for task in record["tasks"]} for record in records]
    for name in by_name[-1]:  # a run may be resumed with other tasks
        points = [(step, values[name]) for step, values in zip(steps, by_name, strict=True) if name in values]
        axes.plot(*zip(*points, strict=True), marker=".", linewidth=1, alpha=0.7, label=as_text(name))
    of_same = [record for record, values in zip(records, by_name, strict=True) if values.keys() == by_name[-1].keys()]
    means = [record["benchmark"][key] for record in of_same]
    own_steps = [record["step"] for record in of_same]
    axes.plot(own_steps, means, marker="o", markersize=4, linewidth=2.2, color="black", label="mean")
    axes.annotate(f"{means[-1]:.1f}", (steps[-1], means[-1]), xytext=(4, 4), textcoords="offset points", fontsize=9)
    _label(axes, label)


def _draw_probe(axes: Axes, probes: list[dict[str, Any]], key: str, label: str) -> None:
    steps = [probe["step"] for probe in probes]
    for suffix, name, color in (("", "with instruction", "black"), ("_without_instruction", "without it", "0.6")):
        axes.plot(steps, [probe[key + suffix] for probe in probes], marker="o", markersize=4, color=color, label=name)
    axes.legend(frameon=False, fontsize=8, loc="best")
    _label(axes, label)


def _label(axes: Axes, label: str) -> None:
    axes.set_xlabel("training steps (optimizer updates)")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
