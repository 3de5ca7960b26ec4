"""``python -m ifir_lightning synthesize``: the instruction world as files."""

from shlex import quote

from rich.console import Console
from rich.markup import escape

from ifir_lightning.commands.places import output_folder
from ifir_lightning.data.synthetic import TASKS, training_rows, write_world


def synthesize(
    output: str, num_rows: int = 20_000, seed: int = 0, num_queries: int = 20, num_candidates: int = 60
) -> None:
    """Write the instruction world of the quickstart: training rows, three tasks and a tokenizer.

    Args:
        output: New or empty folder to write into.
        num_rows: Training rows, in the layout of samaya-ai/msmarco-w-instructions.
        seed: Another seed, another world of the same kind; what the tasks hold out stays the same.
        num_queries: Base queries per task, each with an original and a changed instruction.
        num_candidates: Passages to rank per query.
    """
    write_world(output_folder(output), num_rows, seed, num_queries, num_candidates)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Wrote to [bold]{escape(output)}[/bold]:")
    console.print(f"  train/      {num_rows:,} rows in the layout of samaya-ai/msmarco-w-instructions")
    console.print(f"  tasks/      {', '.join(TASKS)}: {num_queries} queries x {num_candidates} candidates each")
    console.print("  tokenizer/  WordPiece over the words of this world")
    for label, text in _example(num_rows, seed):
        console.print(f"  [bold]{label:<21}[/bold] {escape(text)}")
    console.print("Train on it:")
    table = escape(quote(output.rstrip("/") + "/train"))
    console.print(f"  python -m ifir_lightning fit --config configs/quickstart.yaml --data.path {table}")


def _example(num_rows: int, seed: int) -> list[tuple[str, str]]:
    """The first row that has an instruction, part by part (nothing where no row has one)."""
    row = next((row for row in training_rows(num_rows, seed) if row["has_instruction"]), None)
    if row is None:
        return []
    return [
        ("query", row["only_query"]),
        ("instruction", row["only_instruction"]),
        ("positive", row["positive_passages"][0]["text"]),
        ("instruction negative", row["new_negatives"][0]["text"]),
    ]
