"""metrics.csv: one line a step, whatever is logged when, and however often training starts."""

import errno
import json
import os
from pathlib import Path

import pytest
from small import QUICK
from terminal import Terminal

from ifir_lightning import metrics_file, run_folder
from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.errors import InputError


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_one_line_a_step_with_gaps_and_late_columns(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path / "runs" / "new"))
    logger.log_metrics({"followir/p_mrr": 1.5}, step=0)
    logger.log_metrics({"train/loss": 0.25, "epoch": 0}, step=2)
    logger.log_metrics({"followir/p_mrr": 2.5}, step=2)
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.save()
    assert lines(tmp_path / "runs" / "new") == [
        "step,epoch,followir/p_mrr,train/loss",
        "0,,1.5,",
        "1,,,0.5",
        "2,0,2.5,0.25",
    ]


def test_a_restart_keeps_the_lines_and_replaces_steps_that_come_again(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        first = MetricsCSV(str(tmp_path))
        first.log_metrics({"a": step}, step=step)
        first.finalize("success")
    again = MetricsCSV(str(tmp_path))
    again.log_metrics({"a": 20, "b": 7}, step=2)
    again.log_metrics({"a": 40}, step=4)
    again.finalize("success")
    assert lines(tmp_path) == ["step,epoch,a,b", "1,,1,", "2,,20,7", "3,,3,", "4,,40,"]


def test_new_steps_are_appended_and_late_values_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written anew at every step costs more than the steps."""
    whole: list[Path] = []
    write = metrics_file.write
    monkeypatch.setattr(metrics_file, "write", lambda path, rows: whole.append(path) or write(path, rows))
    logger = MetricsCSV(str(tmp_path))
    for step in range(1, 9):
        logger.log_metrics({"a": step}, step=step)
        logger.save()
        logger.save()
        assert lines(tmp_path)[-1] == f"{step},,{step}"
    assert len(whole) == 1
    logger.log_metrics({"a": 20}, step=2)
    logger.save()
    assert lines(tmp_path)[2:4] == ["2,,20", "3,,3"]
    logger.log_metrics({"b, quoted": 1}, step=8)
    logger.save()
    again = MetricsCSV(str(tmp_path))
    again.log_metrics({"a": 9}, step=9)
    again.save()
    assert len(whole) == 3
    assert lines(tmp_path)[:3] == ['step,epoch,a,"b, quoted"', "1,,1,", "2,,20,"]
    assert lines(tmp_path)[-2:] == ["8,,8,1", "9,,9,"]


def test_lines_that_a_full_disk_tore_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's last words to a logger, once training has failed, would be appended to a torn line."""
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"a": 1}, step=1)
    logger.save()
    append = metrics_file.append

    def tear(path: Path, rows: list[list[object]]) -> None:
        append(path, rows)
        os.truncate(path, path.stat().st_size - len(",,2\n"))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(metrics_file, "append", tear)
    logger.log_metrics({"a": 2}, step=2)
    with pytest.raises(OSError, match="No space"):
        logger.save()
    assert lines(tmp_path) == ["step,epoch,a", "1,,1", "2"]
    monkeypatch.setattr(metrics_file, "append", append)
    logger.finalize("failed")
    assert lines(tmp_path) == ["step,epoch,a", "1,,1", "2,,2"]


@pytest.mark.parametrize("cleared", [True, False])
@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("", 0),
        ("\n", 0),
        ("step,epo", 1),
        ('step,epoch,"a,b"\n1,,1\n2,,2', 1),
        ('step,epoch,"a,b"\n1,,1\n\n2,', 1),
        ('step,epoch,"a,b"\r\n1,,1\r\n2,,2,2\n', 1),
    ],
)
def test_a_file_that_a_dying_process_left(
    text: str, dropped: int, cleared: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.csv").write_text(text, newline="")
    if cleared:
        run_folder.clear(tmp_path, 1)
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"a,b": 2}, step=2)
    logger.save()
    kept = ["1,,1"] if "1,,1" in text else []
    assert lines(tmp_path) == ['step,epoch,"a,b"', *kept, "2,,2"]
    assert caplog.text.count("1 torn lines are left out") == dropped


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"metrics.csv has no column step; allowed is a file that fit wrote: move it"):
        run_folder.clear(tmp_path, 1)


def test_on_the_command_line_it_lies_in_the_run_folder(terminal: Terminal, tmp_path: Path) -> None:
    """A recipe that names another's would be written into that one, which no lock guards."""
    logger = {"class_path": "ifir_lightning.callbacks.metrics_csv.MetricsCSV", "init_args": {"save_dir": f"{tmp_path}"}}
    settings = (
        "--model.schedule.warmup_steps=0",
        "--trainer.max_steps=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.limit_val_batches=0",
        f"--trainer.logger={json.dumps([logger])}",
    )
    terminal.runs("fit", *QUICK, *settings, f"--trainer.default_root_dir={tmp_path}/run", "--trainer.callbacks=[]")
    assert len(lines(tmp_path / "run")) == 2
    assert not (tmp_path / "metrics.csv").exists()


def test_nothing_logged_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    MetricsCSV(str(tmp_path)).finalize("failed")
    assert not (tmp_path / "metrics.csv").exists()
    (tmp_path / "metrics.csv").write_text("step,epoch,a\n1,,1\n")
    MetricsCSV(str(tmp_path)).finalize("failed")
    assert lines(tmp_path) == ["step,epoch,a", "1,,1"]


def test_a_logger_of_the_run_folder_has_no_version_folder(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    assert (logger.save_dir, logger.log_dir) == (str(tmp_path), str(tmp_path))
    assert (logger.name, logger.version) == ("", "")
