"""A few cells of the fault table; ``python tools/faults.py`` runs them all."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CELLS = ("stop, mid-epoch, 2 ranks", "SIGTERM to one, validation, 2 ranks")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import faults

    return faults


def test_a_fault_costs_what_the_table_says(faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["faults.py", "--cells", *CELLS])
    with pytest.raises(SystemExit) as ended:
        faults.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "promised" in line]
    assert ended.value.code == 0, rows
    assert len(rows) == len(CELLS)
    assert all("| identical |" in row and row.endswith("| as promised |") for row in rows), rows


def test_a_broken_promise_is_seen(faults) -> None:
    """The table's check, on outcomes that are not as they should be."""
    cell = faults.Cell("kill", "mid-epoch", 2, (1,))
    good = {"statuses": [75, -9], "named": "rank 1", "same_weights": True, "same_log": True}
    assert faults.broken_promises(faults.Outcome(cell, **good)) == []
    broken = {
        "the weights differ": {"same_weights": False},
        "metrics.csv differs": {"same_log": False},
        "a rank ended with status 0": {"statuses": [0, -9]},
        "nothing was named": {"named": ""},
        "6 steps lost": {"steps_lost": 6},
    }
    for fault, change in broken.items():
        assert faults.broken_promises(faults.Outcome(cell, **(good | change))) == [fault]
    asked = faults.Cell("SIGTERM to all", "mid-epoch", 2, (0, 1))
    lost = faults.Outcome(asked, **(good | {"statuses": [143, 143], "steps_lost": 1}))
    assert faults.broken_promises(lost) == ["1 steps lost, status [143, 143]"]
