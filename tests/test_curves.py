"""The picture of a run shows each task under its own name, at the steps at which it was validated."""

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ifir_lightning.callbacks.curves import draw_curves

Line = tuple[list[float], list[float]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the figure that is saved."""
    axes: list[Axes] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args: (axes.extend(self.axes), save(self, *args)))
    return axes


def write(folder: Path, step: int, **p_mrr: float) -> None:
    """The record of a validation; Score B is half of p-MRR."""
    tasks = [{"task": name, "p_mrr": value, "score_b": value / 2} for name, value in p_mrr.items()]
    mean = sum(p_mrr.values()) / len(p_mrr)
    record = {"step": step, "benchmark": {"p_mrr": mean, "score_b": mean / 2}, "tasks": tasks}
    (folder / f"step-{step:08d}").mkdir(parents=True)
    (folder / f"step-{step:08d}" / "metrics.json").write_text(json.dumps(record))


def curves(axes: Axes) -> dict[str, Line]:
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_p_mrr_and_score_b_over_steps(tmp_path: Path, drawn: list[Axes]) -> None:
    for step, food in ((0, 0.0), (500, 20.0), (1000, 30.0)):
        write(tmp_path, step, food=food, travel=food + 10)
    draw_curves(tmp_path, tmp_path / "p_mrr.png")
    left, right = drawn
    steps = [0, 500, 1000]
    assert curves(left) == {"food": (steps, [0, 20, 30]), "travel": (steps, [10, 30, 40]), "mean": (steps, [5, 25, 35])}
    assert curves(right)["mean"] == (steps, [2.5, 12.5, 17.5])
    for axes, name in ((left, "p-MRR (x100"), (right, "Score B (x100")):
        assert axes.get_ylabel().startswith(name)
        assert "steps" in axes.get_xlabel()
    assert (tmp_path / "p_mrr.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_tasks_that_come_or_go_within_a_run_keep_their_names(tmp_path: Path, drawn: list[Axes]) -> None:
    """A mean over other tasks is another number."""
    write(tmp_path, 0, food=1.0)
    write(tmp_path, 10, travel=2.0, food=3.0)
    draw_curves(tmp_path, tmp_path / "p_mrr.png")
    assert curves(drawn[0]) == {"travel": ([10], [2]), "food": ([0, 10], [1, 3]), "mean": ([10], [2.5])}
