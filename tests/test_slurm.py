"""tools/slurm/fit.sbatch with stand-ins for SLURM's commands: near its limit a job is queued again, and continues."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import QUICK, write_task

from ifir_lightning import manifests

ROOT = Path(__file__).parents[1]
PATIENT = "--watchdog.silent_seconds=60"  # other tests may keep the cores busy
SCRIPT = ROOT / "tools" / "slurm" / "fit.sbatch"
SRUN = """#!/usr/bin/env bash
# Starts the tasks as SLURM does, on this machine, and ends with the largest of their statuses.
[ "$1" = --kill-on-bad-exit=1 ] || exit 99
shift
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
    pids+=($!)
done
echo "${pids[@]}" > "$TASKS"
largest=0
for pid in "${pids[@]}"; do
    wait "$pid"
    status=$?
    ((status > largest)) && largest=$status
done
exit "$largest"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$ASKED"
"""
TASKS = 2


class Cluster:
    """A job of two tasks on one node."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.jobs = folder, folder / "run", list[subprocess.Popen[bytes]]()
        self.asked, self.tasks, self.log = folder / "asked", folder / "tasks", folder / "log"
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.task = write_task(folder / "task", num_queries=2, num_candidates=30)

    def start(self) -> subprocess.Popen[bytes]:
        slurm = {"NTASKS": TASKS, "NTASKS_PER_NODE": TASKS, "NNODES": 1, "JOB_ID": 4711, "JOB_NAME": "ifir-fit"}
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in slurm.items()}
        environment |= {"SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": sys.executable}
        environment |= {"TASKS": str(self.tasks), "ASKED": str(self.asked), "PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        command = ["bash", str(SCRIPT), *QUICK, "--trainer.max_steps=60", f"--followir.tasks=[{self.task}]"]
        command += [f"--trainer.default_root_dir={self.run}", "--data.global_batch_size=2", PATIENT]
        with open(self.log, "ab") as log:
            job = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.jobs.append(job)
        return job

    def end(self) -> None:
        """Of what a failed test leaves."""
        for job in self.jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()

    def wait_for_step(self, step: int, process: subprocess.Popen[bytes]) -> None:
        metrics = self.run / "metrics.csv"
        while process.poll() is None:
            if metrics.exists() and f"\n{step}," in metrics.read_text():
                return
            time.sleep(0.05)
        pytest.fail(self.log.read_text())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()


@pytest.mark.slow
def test_a_job_at_its_limit_is_queued_again_and_continues(cluster: Cluster) -> None:
    process = cluster.start()
    cluster.wait_for_step(10, process)
    for pid in cluster.tasks.read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    assert process.wait(timeout=600) == 143, cluster.log.read_text()
    assert cluster.asked.read_text() == "requeue 4711\n"
    newest = manifests.newest(cluster.run / "checkpoints")
    assert newest is not None
    step = manifests.read_manifest(newest).step
    assert 10 <= step < 60
    assert cluster.start().wait(timeout=600) == 0, cluster.log.read_text()
    assert f"continues after step {step}" in cluster.log.read_text()
    assert (cluster.run / "checkpoints" / "step-00000060.ckpt").exists()
    assert cluster.asked.read_text() == "requeue 4711\n"


@pytest.mark.parametrize(
    ("status", "slurm", "asked"),
    [
        (75, {}, "requeue 4711\n"),
        (137, {"RESTART_COUNT": "9"}, "requeue 4711\n"),
        (75, {"ARRAY_JOB_ID": "4700", "ARRAY_TASK_ID": "3"}, "requeue 4700_3\n"),
        (75, {"RESTART_COUNT": "10"}, ""),
        (2, {}, ""),
        (143, {}, ""),
        (0, {}, ""),
    ],
)
def test_a_run_that_lost_a_rank_or_hung_is_queued_again(
    status: int, slurm: dict[str, str], asked: str, tmp_path: Path
) -> None:
    for name, text in (("srun", f"echo $SRUN_CPUS_PER_TASK $*; exit {status}"), ("scontrol", 'echo "$@" >> "$ASKED"')):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    slurm = {"JOB_ID": "4711", "NNODES": "2", "NTASKS_PER_NODE": "8", "CPUS_PER_TASK": "6"} | slurm
    environment = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked"), "PYTHON": "python"}
    done = subprocess.run([SCRIPT, "--config", "a b"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "asked").read_text() == asked
    assert done.stdout == (
        "6 --kill-on-bad-exit=1 python -m ifir_lightning fit --config a b --trainer.num_nodes 2 --trainer.devices 8\n"
    )


def test_the_script_asks_for_what_the_readme_says() -> None:
    asked = [line.removeprefix("#SBATCH ") for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= set(asked)
    assert os.access(SCRIPT, os.X_OK)
