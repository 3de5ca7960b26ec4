"""The report of a comparison as tables in a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ifir_lightning.comparison.report import METRICS, p_text, with_interval
from ifir_lightning.comparison.results import MEAN


def print_report(report: dict[str, Any], console: Console) -> None:
    """Summary, warnings, and tables of recipes, pairs, settings and queries."""
    for sentence in report["summary"]:
        console.print(escape(sentence), highlight=False)
    for warning in report["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False)
    console.print(_recipes(report))
    if report["pairs"]:
        console.print(_pairs(report))
    if report["settings"]:
        console.print(_settings(report))
    for pair in report["pairs"]:
        console.print(_queries(f"{pair['first']} against {pair['second']}", pair["queries"]))
    if not report["pairs"]:
        console.print(_queries(report["recipes"][0]["name"], report["queries"]))


def _recipes(report: dict[str, Any]) -> Table:
    tasks = ", ".join(f"{task['name']} ({task['num_queries']} queries)" for task in report["tasks"])
    table = _table(
        f"FollowIR (x100), {report['validation']} validation, 95% intervals over queries",
        "Model, initialisation, paradigm",
        tasks,
    )
    for recipe in report["recipes"]:
        for task, numbers in recipe["results"].items():
            name = "\n".join([recipe["name"], recipe["initialisation"], recipe["paradigm"], _seeds(recipe)])
            values = [with_interval(numbers[key], signed=key == "p_mrr") for key in METRICS]
            _add(table, name, task, values)
        table.add_section()
    return table


def _seeds(recipe: dict[str, Any]) -> str:
    steps = sorted({run["step"] for run in recipe["runs"]})
    seeds = ", ".join(str(run["seed"]) for run in recipe["runs"])
    return f"seed {seeds}; step {', '.join(map(str, steps))}"


def _pairs(report: dict[str, Any]) -> Table:
    note = f"p-values are not corrected for {len(report['pairs'])} pairs; the sentences above are"
    table = _table("Paired bootstrap over queries", "First minus second", note)
    for pair in report["pairs"]:
        for task, numbers in pair["results"].items():
            values = [
                f"{with_interval(numbers[key], 'difference')}\n{p_text(numbers[key]['p_value'])}" for key in METRICS
            ]
            _add(table, f"{pair['first']}\n- {pair['second']}", task, values)
        table.add_section()
    return table


def _table(title: str, first: str, caption: str) -> Table:
    table = Table(title=title, caption=caption)
    table.add_column(first, overflow="fold")
    for column in METRICS.values():
        table.add_column(column, justify="right", width=9)
    return table


def _add(table: Table, name: str, task: str, values: list[str]) -> None:
    """The value, and its interval below it: narrow enough for a terminal."""
    stacked = [value.replace(" [", "\n[") for value in values]
    if task == MEAN:
        table.add_row(*map(escape, (f"{name}\nmean", *stacked)), style="bold")
    else:
        table.add_row(*map(escape, (f"  {task}", *stacked)))


def _settings(report: dict[str, Any]) -> Table:
    table = Table(title="Settings that differ")
    for column in ("Key", *(recipe["name"] for recipe in report["recipes"])):
        table.add_column(escape(column), overflow="fold")
    for key, values in report["settings"].items():
        table.add_row(escape(key), *(escape(str(value)) for value in values))
    return table


def _queries(title: str, queries: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(title=f"Largest gains and losses: {escape(title)}", caption="passages: in the HTML report (--output)")
    for column in ("Query", "p-MRR", "Score B"):
        table.add_column(column, justify="left" if column == "Query" else "right", overflow="fold")
    for entry in [*queries["gains"], *reversed(queries["losses"])]:
        text = f"{entry['task']} {entry['query_id']}: {entry['query']}\n{entry['changed_instruction']}"
        values = ("\n".join(f"{value:+.1f}" for value in entry[key]) for key in ("p_mrr", "score_b"))
        table.add_row(escape(text), *values)
    return table
