"""The report of a comparison as one HTML file."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from typing import Any

from ifir_lightning.comparison.pictures import SIDES, draw_curves, draw_intervals
from ifir_lightning.comparison.report import METRICS, p_text, with_interval
from ifir_lightning.comparison.results import MEAN
from ifir_lightning.page import figure, note, page
from ifir_lightning.svg import LABELS


def comparison_page(report: dict[str, Any]) -> str:
    """HTML of everything in ``build_report``."""
    names = ", ".join(recipe["name"] for recipe in report["recipes"])
    return page(f"Comparison of {names}", _body(report))


def _body(report: dict[str, Any]) -> str:
    title = " / ".join(recipe["name"] for recipe in report["recipes"])
    parts = [f"<h1>FollowIR: {escape(title)}</h1>", _list(report["summary"], "summary")]
    parts += [f'<p class="warning">Warning: {escape(warning)}</p>' for warning in report["warnings"]]
    parts += ["<h2>Models</h2>", _models(report)]
    parts += [_how_to_read(report), '<div class="pictures">']
    parts += [
        figure(draw_intervals(report, key), f"{LABELS[key]}: mean over tasks, with its interval.") for key in LABELS
    ]
    parts += ["</div>"]
    if report["pairs"]:
        parts += ["<h2>Is the difference real?</h2>", _pairs(report)]
    band = "Line: mean over seeds; band: from the least to the greatest seed."
    parts += ["<h2>Curves</h2>", '<div class="pictures">']
    parts += [
        figure(draw_curves(report, key, side), f"{LABELS[key]} over {SIDES[side]}. {band}")
        for side, key in product(SIDES, LABELS)
    ]
    parts += ["</div>", "<h2>Settings that differ</h2>", _settings(report)]
    parts += ["<h2>Queries with the largest gains and losses</h2>"]
    if report["pairs"]:
        parts += [_queries([pair["first"], pair["second"]], pair["queries"]) for pair in report["pairs"]]
    else:
        parts += [_queries([report["recipes"][0]["name"]], report["queries"])]
    return "\n".join(parts)


def _how_to_read(report: dict[str, Any]) -> str:
    tasks = "; ".join(
        f"{task['name']}: {task['num_queries']} queries, {task['num_p_mrr_queries']} of them in p-MRR, Score is "
        f"{'nDCG@5' if task['score'] == 'ndcg_5' else 'MAP@1000'}"
        for task in report["tasks"]
    )
    return note(
        "All values x100, in bold the mean over tasks. p-MRR: above 0, passages that the changed instruction "
        "excludes fall; it says nothing of quality, so it stands beside the Scores (instruction of the ranking, "
        "judgements: A original, changed; B original, original; C changed, changed). In brackets 95% intervals over "
        f"queries (symmetric bootstrap-t, {report['num_resamples']:,} draws in each task) for these trained models; "
        f"they do not speak of other seeds. Compared is the {report['validation']} validation of each run"
        f"{' by p-MRR, which flatters' if report['validation'] == 'best' else ''}. {tasks}."
    )


def _models(report: dict[str, Any]) -> str:
    rows = []
    for recipe in report["recipes"]:
        for task, numbers in recipe["results"].items():
            values = [_number(with_interval(numbers[key], signed=key == "p_mrr")) for key in METRICS]
            described = [recipe["initialisation"], recipe["paradigm"]] if task == MEAN else ["", ""]
            rows.append(
                _task_row(
                    recipe["name"],
                    task,
                    [*values, *(f'<td class="described">{escape(text)}</td>' for text in described)],
                )
            )
    table = _table("models", ["Model, task"], list(METRICS.values()), rows, ["Initialisation", "Paradigm"])
    seeds = []
    for recipe in report["recipes"]:
        for run in recipe["runs"]:
            values = [_number(f"{run[key]:{'+' if key == 'p_mrr' else ''}.2f}") for key in METRICS]
            seeds.append(_row([*(_text(text) for text in (recipe["name"], run["seed"], run["step"])), *values,
                               _text(run["folder"])]))  # fmt: skip
    runs = _table("runs", ["Model", "Seed", "Step"], list(METRICS.values()), seeds, ["Folder"])
    return f"{table}\n<details><summary>Every run (mean over tasks)</summary>{runs}</details>"


def _pairs(report: dict[str, Any]) -> str:
    rows = []
    for pair in report["pairs"]:
        for task, numbers in pair["results"].items():
            values = [
                _number(with_interval(numbers[key], "difference"), p_text(numbers[key]["p_value"])) for key in METRICS
            ]
            rows.append(_task_row(f"{pair['first']} - {pair['second']}", task, values))
    explained = note(
        "First minus second on the same queries (paired bootstrap): difference, 95% interval, p-value. "
        f"Number of pairs: {len(report['pairs'])}; the summary calls a difference real where p is below 0.05 divided "
        "by that number."
    )
    return explained + _table("pairs", ["First - second, task"], list(METRICS.values()), rows)


def _settings(report: dict[str, Any]) -> str:
    if not report["settings"]:
        return note("None that changes numbers, but the seed.")
    rows = [
        _row([f'<td class="key">{escape(key)}</td>', *map(_text, values)]) for key, values in report["settings"].items()
    ]
    return _table("settings", ["Key", *(recipe["name"] for recipe in report["recipes"])], [], rows)


def _queries(names: Sequence[str], queries: dict[str, list[dict[str, Any]]]) -> str:
    title = f"{names[0]} against {names[1]}" if len(names) == 2 else f"{names[0]}: highest and lowest p-MRR"
    parts = [f"<details><summary>{escape(title)}</summary>"]
    for kind in ("gains", "losses"):
        parts += [f"<h3>{kind.capitalize()}</h3>"]
        parts += [_query(names, entry) for entry in queries[kind]] or [note("none")]
    return "\n".join([*parts, "</details>"])


def _query(names: Sequence[str], entry: dict[str, Any]) -> str:
    values = "; ".join(
        f"{name}: p-MRR {p_mrr:+.2f}, Score B {score:.2f}"
        for name, p_mrr, score in zip(names, entry["p_mrr"], entry["score_b"], strict=True)
    )
    rows = [
        _row(
            [
                _text(f"{passage['passage_id']}: {passage['text']}"),
                *(f'<td class="n">{_move(pair)}</td>' for pair in passage["ranks"]),
            ]
        )
        for passage in entry["passages"]
    ]
    shown = f"Passages whose relevance changed ({len(rows)} of {entry['num_changed_passages']})"
    difference = f" (difference {entry['difference']:+.2f})" if len(names) == 2 else ""
    return (
        f'<div class="query"><p><strong>{escape(entry["task"])} {escape(entry["query_id"])}: '
        f"{escape(entry['query'])}</strong></p>"
        f"<p>{escape(values)}{difference}</p>"
        f'<p><span class="note">original:</span> {escape(entry["original_instruction"])}</p>'
        f'<p><span class="note">changed:</span> {escape(entry["changed_instruction"])}</p>'
        f"{_table('', [shown], [f'rank, {name}' for name in names], rows)}</div>"
    )


def _move(ranks: Sequence[float]) -> str:
    return f"{ranks[0]:.1f} to {ranks[1]:.1f}".replace(".0", "")


def _text(value: object) -> str:
    return f"<td>{escape(str(value))}</td>"


def _number(text: str, *notes: str) -> str:
    """The value in front, its interval and what else qualifies it below."""
    value, *interval = text.split(" ", 1)
    below = "".join(f" <small>{escape(note)}</small>" for note in (*interval, *notes))
    return f'<td class="n">{escape(value)}{below}</td>'


def _task_row(name: str, task: str, cells: Iterable[str]) -> str:
    """The mean over tasks under the name of what it is the mean of, the tasks indented below it."""
    return _row([_text(name if task == MEAN else task), *cells], "mean" if task == MEAN else "task")


def _row(cells: Iterable[str], style: str = "") -> str:
    return f"<tr{f' class={style}' if style else ''}>{''.join(cells)}</tr>"


def _table(
    name: str, texts: Sequence[str], numbers: Sequence[str], rows: Iterable[str], more: Sequence[str] = ()
) -> str:
    head = "".join(
        f"<th{style}>{escape(label)}</th>"
        for labels, style in ((texts, ""), (numbers, ' class="n"'), (more, ""))
        for label in labels
    )
    identity = f' id="{name}"' if name else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table{identity}>{body}</table></div>'


def _list(sentences: Iterable[str], style: str) -> str:
    return f'<ul class="{style}">{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul>'
