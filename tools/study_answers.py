"""Results of studies -> the tables and pictures of docs/answers.md.

python tools/study_answers.py runs/studies/quickstart-negatives [...] --pictures docs

Prints one section in Markdown per study and writes its pictures beside it.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifir_lightning.studies.answers import METRICS
from ifir_lightning.studies.pictures import draw_best_of, draw_points
from ifir_lightning.studies.words import size_text

SVG = '<?xml version="1.0" encoding="utf-8"?>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.pictures.is_dir():
        parser.error(f"--pictures {arguments.pictures} is no folder; allowed is one that exists: make it")
    for folder in arguments.folders:
        if not (folder / "results.json").is_file():
            parser.error(f"{folder} holds no results.json; allowed are folders of `study`")
    for folder in arguments.folders:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if "file" not in content:
            parser.error(f"{folder}: its results do not name the study's file; run `study` again, which trains nothing")
        print(section(folder.name, content, arguments.pictures))


def section(name: str, content: Mapping[str, Any], pictures: Path) -> str:
    counts = content["trials"]
    lines = [
        f"## {content['question']}",
        "",
        f"`python -m ifir_lightning study {content['file']}`: {counts['finished']} trainings finished, "
        f"{counts['failed']} failed and {counts['diverged']} diverged of {counts['planned']} planned, "
        f"{content['seconds'] / 60:.0f} minutes of training; {content['budget_queries']:,} training queries unless an "
        f"axis says otherwise; {len(content['seeds'])} seeds, 95% intervals over seeds (Student's t, cut off at "
        "the ends of the scale).",
        "",
        *(f"![{caption}]({path.name})" for caption, path in drawn(name, content, pictures)),
        "",
        *rows(content),
    ]
    return "\n".join(lines) + "\n"


def drawn(name: str, content: Mapping[str, Any], pictures: Path) -> list[tuple[str, Path]]:
    """Captions and files of the pictures of p-MRR, black on white so that they can be read everywhere."""
    heads = list(dict.fromkeys(point["head"] for point in content["points"]))
    axes = list(dict.fromkeys(axis for point in content["points"] for axis in point["values"]))
    if "sensitivity" in content:
        drawable = any("p_mrr" in each for each in content["sensitivity"].values())
        caption = "expected best p-MRR of k configurations"
        found = [(caption, draw_best_of(content["sensitivity"], "p_mrr"))] if drawable else []
    else:
        found = [(f"p-MRR over {axis}", draw_points(content, heads, axis, "p_mrr")) for axis in axes]
    files = []
    for number, (caption, svg) in enumerate(found, start=1):
        path = pictures / f"{name}-{number}.svg"
        styled = svg.replace("<svg ", '<svg style="background: white; color: black" ', 1)
        path.write_text(SVG + styled, encoding="utf-8")
        files.append((caption, path))
    return files


def rows(content: Mapping[str, Any]) -> list[str]:
    if "sensitivity" in content:
        return _sensitivity(content["sensitivity"])
    lines = _table(content["points"], "p-MRR and Score B", lambda each: each["head"])
    if content["changes"]:
        lines += ["", *_table(content["changes"], "change against point 0", lambda each: each["head"])]
    if content["differences"]:
        lines += ["", *_table(content["differences"], "difference", lambda e: f"{e['head']} - {e['minus']}")]
    for axis in content.get("data_demand") or []:
        lines += ["", *_law(axis)]
    return lines


def _table(points: list[dict[str, Any]], what: str, name: Any) -> list[str]:
    lines = [f"| head | {what} at | {' | '.join(METRICS.values())} |", "|---|---|---|---|"]
    for each in points:
        place = ", ".join(f"{axis} {value}" for axis, value in each["values"].items())
        lines.append(f"| {name(each)} | {place} | {' | '.join(_interval(each[key]) for key in METRICS)} |")
    return lines


def _sensitivity(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| head | metric | worst to best | within 1 point of the best | diverged | most important |",
        "|---|---|---|---|---|---|",
    ]
    for head, each in found.items():
        for key, label in METRICS.items():
            if key in each:
                one = each[key]
                axes = sorted(one["importance"].items(), key=lambda pair: -pair[1])[:2]
                named = ", ".join(f"{axis} {share:.2f}" for axis, share in axes)
                lines.append(
                    f"| {head} | {label} | {one['worst']:.1f} to {one['best']:.1f} | {one['share_within_1']:.0%} "
                    f"| {each['diverged_share']:.0%} | {named} |"
                )
    return lines


def _law(axis: Mapping[str, Any]) -> list[str]:
    label = METRICS[axis["metric"]]
    goal = f"{axis['axis']} for {label} {axis['goal']:.1f}"
    lines = [f"| head | limit of {label} | rate | {goal} | 95% |", "|---|---|---|---|---|"]
    for head, each in axis["heads"].items():
        law, ends = each["law"], each.get("size_interval")
        within = "" if ends is None else " to ".join(map(size_text, ends))
        size = size_text(each["size_for_goal"])
        lines.append(f"| {head} | {law['limit']:.1f} | {law['rate']:.2f} | {size} | {within} |")
    return lines


def _interval(found: Mapping[str, Any]) -> str:
    ends = "" if found["low"] is None else f" [{found['low']:.1f}, {found['high']:.1f}]"
    return f"{found['mean']:.1f}{ends}"


if __name__ == "__main__":
    main()
