"""metrics.csv: one line a step, whatever is logged when, and however often training starts."""

from pathlib import Path

from ifir_lightning.callbacks.metrics_csv import MetricsCSV


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
