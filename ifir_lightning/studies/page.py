"""The report of a study as one HTML file."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ifir_lightning.page import figure, note, page, table
from ifir_lightning.studies.answers import METRICS
from ifir_lightning.studies.pictures import draw_best_of, draw_points
from ifir_lightning.studies.words import number_text, place_text, size_text

_CHOSEN = (
    "Highest mean p-MRR over seeds, of the points of which every seed has finished. It was chosen for its height, so a "
    "new training there would score less on average. Points to choose from: "
)


def study_page(content: Mapping[str, Any], heads: Sequence[str], axes: Sequence[str]) -> str:
    """HTML of everything in ``answers.answer``."""
    parts = [f"<h1>{escape(content['question'])}</h1>", note(_setting(content))]
    if not content["points"]:
        return page(content["question"], "\n".join([*parts, note("No trial has finished.")]))
    parts += _pictures(content, heads, axes)
    if "sensitivity" in content:
        parts += ["<h2>Sensitivity</h2>", *_sensitivity(content["sensitivity"])]
    if content.get("best"):
        parts += [
            "<h2>The best point of each head</h2>",
            note(_CHOSEN + _counts(content["chosen_from"])),
            _points(content["best"], lambda each: each["head"]),
        ]
    if content.get("data_demand"):
        parts += ["<h2>Data demand</h2>", *_demand(content["data_demand"])]
    if content["changes"]:
        parts += ["<h2>What each change does</h2>", _base(content)]
        parts += [_points(content["changes"], lambda each: each["head"])]
    if content["differences"]:
        parts += ["<h2>Paired differences</h2>", note("Same seed, same point on the axes; first minus second.")]
        parts += [_points(content["differences"], lambda each: f"{each['head']} - {each['minus']}")]
    parts += ["<h2>All points</h2>", _points(content["points"], lambda each: each["head"])]
    return page(content["question"], "\n".join(parts))


def _counts(chosen_from: Mapping[str, int]) -> str:
    if len(set(chosen_from.values())) == 1:
        return f"{next(iter(chosen_from.values()))} for every head."
    return ", ".join(f"{count} for {head}" for head, count in chosen_from.items()) + "."


def _setting(content: Mapping[str, Any]) -> str:
    counts, seeds = content["trials"], ", ".join(map(str, content["seeds"]))
    return (
        f"{counts['ended']} of {counts['planned']} trials have ended: {counts['finished']} finished, "
        f"{counts['failed']} failed, {counts['diverged']} diverged; {content['seconds'] / 60:.0f} minutes of training "
        "altogether (of a trial that was interrupted, those since its last start). "
        f"Every trial sees {content['budget_queries']:,} training queries unless an axis says otherwise; "
        f"seeds {seeds}. All values x100; intervals are 95% over seeds (Student's t, cut off at the ends of the "
        "scale): with few seeds they are wide, and they do not speak of other tasks."
    )


def _pictures(content: Mapping[str, Any], heads: Sequence[str], axes: Sequence[str]) -> list[str]:
    if content["kind"] == "sensitivity":
        found = content["sensitivity"]
        shown = [(key, label) for key, label in METRICS.items() if any(key in each for each in found.values())]
        drawn = [
            figure(draw_best_of(found, key), f"Expected best {label} of k configurations.") for key, label in shown
        ]
        return _beside(drawn)
    empty = [axis for axis in axes if not any(axis in point["values"] for point in content["points"])]
    drawn = [
        figure(draw_points(content, heads, axis, key), f"{label} over {axis}: mean over seeds, 95% interval.")
        for key, label in METRICS.items()
        for axis in axes
        if axis not in empty
    ]
    return _beside(drawn) + [note(f"No trial on the axis {axis} has finished.") for axis in empty]


def _beside(drawn: Sequence[str]) -> list[str]:
    return ['<div class="pictures">', *drawn, "</div>"]


def _points(points: Sequence[Mapping[str, Any]], name: Any) -> str:
    rows = [
        [
            name(each),
            _places(each["values"]),
            *(_interval(each[key], key) for key in METRICS),
            str(each["p_mrr"]["count"]),
        ]
        for each in points
    ]
    return table(["head", "point"], [*METRICS.values(), "seeds"], rows)


def _sensitivity(found: Mapping[str, Any]) -> list[str]:
    ended = [[head, f"{each['diverged_share']:.0%}", f"{each['failed_share']:.0%}"] for head, each in found.items()]
    parts = [table(["head"], ["trials diverged", "failed"], ended)]
    seen = [(head, label, each[key]) for head, each in found.items() for key, label in METRICS.items() if key in each]
    if not seen:
        return [*parts, note("No head has two configurations yet, so there is nothing to compare.")]
    rows = [
        [head, label, f"{each['worst']:.2f} to {each['best']:.2f}", f"{each['share_within_1']:.0%}"]
        for head, label, each in seen
    ]
    weights = [
        [head, label, axis, f"{share:.2f}"] for head, label, each in seen for axis, share in each["importance"].items()
    ]
    return [
        *parts,
        table(["head", "metric"], ["worst to best", "within 1 point of the best"], rows),
        note(
            "Importance: the share of the variance over configurations that one axis alone accounts for (squared rank "
            "correlation, correlation ratio for names). With few configurations it is noisy."
        ),
        table(["head", "metric", "axis"], ["importance"], weights),
    ]


def _demand(found: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = []
    for axis in found:
        rows, label, places = [], METRICS[axis["metric"]], ", ".join(map(str, axis["left_out"]))
        for head, each in axis["heads"].items():
            within = "" if "size_interval" not in each else " to ".join(map(size_text, each["size_interval"]))
            ends = each.get("intervals", {})
            terms = [_term(each["law"][name], ends.get(name)) for name in ("limit", "gap", "rate")]
            rows.append([head, *terms, size_text(each["size_for_goal"]), within])
        parts += [
            note(
                f"Least squares of {label} = limit - gap n^-rate over {axis['axis']} (n), the limit within what "
                f"{label} can be. Size: where the curve reaches {axis['goal']:.2f}, the most that every head reached, "
                "never where it does not rise to that; beyond the sizes that were run it is an extrapolation. "
                "Intervals: 95% percentile bootstrap over seeds."
                + (f" Left out, since the curve has no value there: {places}." if places else "")
            ),
            table(["head"], ["limit", "gap", "rate", f"size for the same {label}", "95% over seeds"], rows),
        ]
    return parts


def _term(value: float, ends: Sequence[float] | None) -> str:
    return number_text(value) + ("" if ends is None else f" [{number_text(ends[0])}, {number_text(ends[1])}]")


def _base(content: Mapping[str, Any]) -> str:
    """Some heads have axes that others do without."""
    first = [point["values"] for point in content["points"] if point["point"] == 0]
    base = {name: value for values in first for name, value in values.items()}
    return note(f"One thing changed against {_places(base)}; paired by seed, the change minus that.")


def _places(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {place_text(value)}" for name, value in values.items())


def _interval(found: Mapping[str, Any], key: str) -> str:
    sign = "+" if key == "p_mrr" else ""
    ends = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['mean']:{sign}.2f}{ends}"
