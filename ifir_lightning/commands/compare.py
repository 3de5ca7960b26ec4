"""The command ``compare``: runs side by side, with intervals, and a report to look at."""

import sys
from json import dumps
from pathlib import Path

from rich.console import Console

from ifir_lightning import durable
from ifir_lightning.commands.places import output_file
from ifir_lightning.comparison.page import comparison_page
from ifir_lightning.comparison.report import build_report
from ifir_lightning.comparison.run_folders import Which, read_run_folder
from ifir_lightning.comparison.terminal import print_report
from ifir_lightning.errors import InputError


def compare(
    *runs: str, output: str | None = None, validation: Which = "last", num_queries: int = 5, json: bool = False
) -> None:
    """Compare run folders: p-MRR and Scores with 95% intervals, paired tests, curves, settings, queries.

    Args:
        runs: run folders; those whose recipes differ in nothing that changes numbers but the seed are seeds of one.
        output: also write the report with its pictures as this one HTML file.
        validation: which validation of each run: the last, or the best by p-MRR.
        num_queries: gains, and losses, to list for each pair.
        json: print one JSON object instead of the tables.
    """
    if num_queries < 1:
        raise InputError(f"--num_queries is {num_queries}; allowed is 1 or more, e.g. 5: raise it")
    folders = [Path(run) for run in runs]
    resolved = [folder.resolve() for folder in folders]
    if repeated := next((folder for folder in folders if resolved.count(folder.resolve()) > 1), None):
        raise InputError(f"{repeated} is named more than once; allowed is every run once: leave it out")
    page = None if output is None else output_file(output, ".html", ".htm")
    report = build_report([read_run_folder(folder, validation) for folder in folders], validation, num_queries)
    if page is not None:
        durable.write_text(page, comparison_page(report))
        sys.stderr.write(f"wrote {page}\n")
    if json:
        sys.stdout.write(dumps(report, indent=2, allow_nan=False) + "\n")
    else:
        print_report(report, Console())
