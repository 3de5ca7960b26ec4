"""The command ``audit``: what query limits take from the instructions of a task, and from p-MRR."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.commands.places import output_file, usable_device
from ifir_lightning.data.evalset import Task
from ifir_lightning.errors import InputError
from ifir_lightning.query_limits import LimitAudit, audit_limits
from ifir_lightning.retriever import Retriever, load_retriever
from ifir_lightning.svg import as_text
from ifir_lightning.text_format import TextSettings

LIMITS = (32, 48, 64, 128, 256, 304)


def audit(
    task: str,
    checkpoint: str,
    max_query_length: int | list[int] | None = None,
    max_passage_length: int | None = None,
    output: str | None = None,
    json: bool = False,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> None:
    """Print what survives each query limit, with p-MRR and Score B of the checkpoint, all x100.

    Args:
        task: a FollowIR task: a folder, a hub id (owner/name[@revision]) or synthetic/NAME.
        checkpoint: a run folder, a .ckpt file, or any folder or hub id that model.checkpoint takes.
        max_query_length: one limit, or several as [32,64]; by default 32, 48, 64, 128, 256 and 304, as far as the
            model reads.
        max_passage_length: by default the checkpoint's.
        output: a PNG to draw p-MRR, Score B and the survival of instructions into.
        json: print one JSON object instead of the table.
        device: where to compute, e.g. cuda.
        trust_remote_code: allow the checkpoint to run code of its own.
    """
    picture = None if output is None else output_file(output, ".png")
    place = usable_device(device)
    loaded = named_task(task)
    if not isinstance(loaded, Task):
        raise InputError(
            f"task {task!r} ({loaded.benchmark}) has no p-MRR of FollowIR; allowed are tasks of FollowIR: name one"
        )
    text = TextSettings(max_passage_length=max_passage_length)
    retriever = load_retriever(checkpoint, text=text, device=place, trust_remote_code=trust_remote_code)
    limits = _limits(retriever, [max_query_length] if isinstance(max_query_length, int) else max_query_length)
    audits, passage_tokens = audit_limits(retriever, loaded, limits)
    record = {
        "task": loaded.name,
        "checkpoint": checkpoint,
        "max_passage_length": retriever.tokenizer.format.max_passage_length,
        "passage_tokens": passage_tokens,
        "limits": [asdict(each) for each in audits],
    }
    if picture is not None:
        draw_audit(audits, f"{loaded.name}, {checkpoint}", picture)
    if json:
        sys.stdout.write(dumps(record, indent=2) + "\n")
    else:
        limit = f"{passage_tokens:.1f}% of the passage tokens survive the limit of {record['max_passage_length']}"
        Console().print(_table(audits, loaded.name, limit))


def _limits(retriever: Retriever, wanted: list[int] | None) -> list[int]:
    """Distinct and ascending, none beyond the positions of the backbone."""
    longest = retriever.backbone.max_length
    if wanted is None:
        return [limit for limit in LIMITS if longest is None or limit <= longest]
    if not wanted or (longest is not None and max(wanted) > longest):
        allowed = "1 or more limits" if longest is None else f"limits up to the {longest} positions of the backbone"
        raise InputError(f"--max-query-length {wanted}: allowed are {allowed}: correct them")
    return sorted(set(wanted))


def _table(audits: Sequence[LimitAudit], task: str, caption: str) -> Table:
    table = Table(title=f"{escape(task)}: query limits (x100)", caption=caption)
    columns = ("query limit", "query tokens", "instruction tokens", "identical pairs", "p-MRR", "Score B")
    for column in columns:
        table.add_column(column, justify="right")
    for each in audits:
        table.add_row(
            str(each.limit),
            f"{each.query_tokens:.1f}%",
            f"{each.instruction_tokens:.1f}%",
            str(each.identical_pairs),
            f"{each.p_mrr:+.2f}",
            f"{each.score_b:.2f}",
        )
    return table


def draw_audit(audits: Sequence[LimitAudit], title: str, output: Path) -> None:
    """p-MRR and Score B at the left, what survives of the texts at the right, over the query limit."""
    figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    limits = [each.limit for each in audits]
    left.plot(limits, [each.p_mrr for each in audits], marker="o", color="black", label="p-MRR")
    left.plot(limits, [each.score_b for each in audits], marker="o", color="tab:blue", label="Score B")
    left.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    left.set_ylabel("x100")
    right.plot(limits, [each.query_tokens for each in audits], marker="o", color="tab:green", label="query")
    instruction_tokens = [each.instruction_tokens for each in audits]
    right.plot(limits, instruction_tokens, marker="o", color="tab:red", linestyle="--", label="instruction")
    right.set_ylabel("tokens that survive (%)")
    right.set_ylim(0, 105)
    for axes in (left, right):
        axes.set_xlabel("query limit (tokens)")
        axes.set_xticks(limits)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="best")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(as_text(title), fontsize=11)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
