"""A signal to one rank or to all ends every rank after a whole step, with a checkpoint, and the run goes on from it."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from ranks import on_ranks
from small import QUICK, Recorder, retriever, synthetic_data, trainer

from ifir_lightning import distributed, manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.callbacks.interruption import Interruption
from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.data.workers import start_worker

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signal(Callback):
    """Sends this process signals in the middle of a step."""

    def __init__(self, step: int, *numbers: int, rank: int = 0) -> None:
        self.step, self.numbers, self.rank = step, numbers or (signal.SIGTERM,), rank

    def on_before_backward(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step + 1 == self.step and distributed.rank() == self.rank:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def fit(
    folder: Path, backbone: Path, *callbacks: Callback, num_workers: int = 0, **settings: Any
) -> tuple[int, list[float]]:
    """Exit status of a run of six steps that continues what the folder holds, and the losses of this start."""
    recorder = Recorder()
    settings = {
        "limit_val_batches": 0,
        "max_steps": 6,
        "enable_checkpointing": True,
        "plugins": [ManifestIO()],
        **settings,
    }
    logger = MetricsCSV(str(folder))
    own = [] if any(isinstance(each, Interruption) for each in callbacks) else [Interruption()]
    fitting = trainer(folder, recorder, Checkpoints(), *own, *callbacks, logger=logger, **settings)
    data, newest = synthetic_data(num_workers=num_workers), manifests.newest(folder / "checkpoints")
    try:
        fitting.fit(retriever(backbone), data, ckpt_path=newest)
    except SystemExit as left:
        return int(str(left.code)), [each["train/loss"] for each in recorder.metrics]
    return 0, [each["train/loss"] for each in recorder.metrics]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "step-00000006.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_step_costs_nothing(number: int, modernbert: Path, tmp_path: Path) -> None:
    handlers = [signal.getsignal(each) for each in SIGNALS]
    status, losses = fit(tmp_path / "whole", modernbert)
    assert status == 0
    first_status, first = fit(tmp_path / "run", modernbert, Signal(3, number))
    assert (first_status, len(first)) == (130 if number == signal.SIGINT else 143, 3)
    assert manifests.newest(tmp_path / "run" / "checkpoints").name == "step-00000003.ckpt"  # type: ignore[union-attr]
    second_status, second = fit(tmp_path / "run", modernbert)
    assert (second_status, first + second) == (0, losses)
    for name, weight in final_weights(tmp_path / "whole").items():
        assert torch.equal(weight, final_weights(tmp_path / "run")[name]), name
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "run" / "metrics.csv").read_text()
    assert [signal.getsignal(each) for each in SIGNALS] == handlers


class SignalToAll(Callback):
    """Another process sends a signal to this one and to its workers, as whoever ends a whole job does."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_before_backward(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 1:
            workers = [child.pid for child in active_children() if child.pid is not None]
            assert len(workers) == 2
            subprocess.run(["kill", f"-{self.name}", *map(str, [*workers, os.getpid()])], check=True)


@pytest.mark.parametrize(("name", "expected"), [("TERM", 143), ("INT", 130)])
def test_workers_outlive_a_signal_to_the_whole_job(
    name: str, expected: int, modernbert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, losses = fit(tmp_path / "run", modernbert, SignalToAll(name), num_workers=2)
    assert (status, len(losses)) == (expected, 2)
    assert capfd.readouterr().err.count("Ctrl-C: the run ends after this step") == (name == "INT")
    assert manifests.newest(tmp_path / "run" / "checkpoints").name == "step-00000002.ckpt"  # type: ignore[union-attr]
    deadline = time.monotonic() + 20
    while active_children():
        assert time.monotonic() < deadline, "workers that did not end with training"
        time.sleep(0.1)


def idle_worker(ready: Any) -> None:
    start_worker(0)
    ready.set()
    time.sleep(60)


def test_a_worker_ends_when_its_parent_says_so() -> None:
    """As torch does with one that hangs."""
    processes = get_context("fork")
    ready = processes.Event()
    worker = processes.Process(target=idle_worker, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(20)
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0
    worker.kill()


def test_a_validation_that_is_due_comes_first(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written before it, a run that continues would skip it."""
    written, save = [], Checkpoints.save

    def record(saver: Checkpoints, trainer: Any) -> None:
        written.append((trainer.global_step, trainer.validating))
        save(saver, trainer)

    monkeypatch.setattr(Checkpoints, "save", record)
    settings = {"limit_val_batches": 1, "val_check_interval": 1}
    status, losses = fit(tmp_path, modernbert, Signal(2), **settings)
    assert written == [(1, True), (2, True)]
    assert (status, len(losses)) == (143, 2)
    assert manifests.newest(tmp_path / "checkpoints").name == "step-00000002.ckpt"  # type: ignore[union-attr]


def test_a_signal_while_the_run_starts_ends_it_after_its_first_step(modernbert: Path, tmp_path: Path) -> None:
    before, interruption = signal.getsignal(signal.SIGUSR1), Interruption()
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # as __main__ does
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        interruption.listen()
        status, losses = fit(tmp_path, modernbert, interruption)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (status, len(losses)) == (143, 1)
    assert manifests.newest(tmp_path / "checkpoints").name == "step-00000001.ckpt"  # type: ignore[union-attr]


def test_a_signal_while_the_process_imports_waits_for_the_run(tmp_path: Path) -> None:
    """The command line from its first line on."""
    arguments = [
        *QUICK,
        f"--trainer.default_root_dir={tmp_path}",
        "--followir.untrained=false",
        "--model.schedule.warmup_steps=1",
    ]
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-m", "ifir_lightning", "fit", *arguments]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=log, stderr=log)
    try:
        while _blocked(process.pid) != 1 << (signal.SIGUSR1 - 1):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(timeout=300) == 143, (tmp_path / "log").read_text()
    finally:
        process.kill()
    assert manifests.newest(tmp_path / "checkpoints").name == "step-00000001.ckpt"  # type: ignore[union-attr]


def _blocked(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigBlk:")).split()[1], 16)


def test_half_a_step_is_finished(modernbert: Path, tmp_path: Path) -> None:
    status, losses = fit(tmp_path, modernbert, Signal(2), accumulate_grad_batches=2)
    assert (status, len(losses)) == (143, 4)
    assert manifests.newest(tmp_path / "checkpoints").name == "step-00000002.ckpt"  # type: ignore[union-attr]


def test_the_last_step_ends_the_run_as_it_would_have(modernbert: Path, tmp_path: Path) -> None:
    assert fit(tmp_path, modernbert, Signal(6))[0] == 0


class TwiceInterrupted(Callback):
    """Ctrl-C twice in one step."""

    def on_before_backward(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_waits_for_nothing(modernbert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, losses = fit(tmp_path, modernbert, TwiceInterrupted())
    assert (status, len(losses)) == (1, 2)  # Lightning's status
    assert capfd.readouterr().err.count("Ctrl-C: the run ends after this step, with a checkpoint; once more") == 1


def interrupted(folder: Path, backbone: Path) -> tuple[int, list[float]]:
    return fit(folder, backbone, Signal(3, rank=1))


def test_a_signal_to_one_rank_ends_both(modernbert: Path, tmp_path: Path) -> None:
    for status, losses in on_ranks(2, interrupted, tmp_path / "run", modernbert):
        assert (status, len(losses)) == (143, 3)
    _, rest = fit(tmp_path / "run", modernbert)
    _, whole = fit(tmp_path / "whole", modernbert)
    assert rest == pytest.approx(whole[3:], abs=1e-5)


@pytest.mark.parametrize(("task", "job"), [(None, "31"), ("4", "30_4")])
def test_slurm_gets_its_job_back(
    task: str | None, job: str, modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    if task:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "30")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
    assert fit(tmp_path / "term", modernbert, Signal(2))[0] == 143
    assert not asked.exists()  # whoever ends a job for good sends SIGTERM
    assert fit(tmp_path / "usr1", modernbert, Signal(2, signal.SIGUSR1))[0] == 143
    assert asked.read_text() == f"requeue {job}\n"
    at_the_limit = Signal(2, signal.SIGUSR1, signal.SIGTERM)  # what is under way took longer than SLURM waits
    assert fit(tmp_path / "both", modernbert, at_the_limit)[0] == 143
    assert asked.read_text() == f"requeue {job}\n" * 2


def test_a_queue_that_refuses_is_said(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fit(tmp_path, modernbert, Signal(2, signal.SIGUSR1))[0] == 143
    assert "scontrol requeue 31 failed (" in caplog.text
    assert "submit the job again, it continues" in caplog.text
