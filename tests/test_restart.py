"""torchrun --max-restarts: a rank that is killed costs the steps since the last checkpoint, and nobody has to act."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import QUICK, write_task

ROOT = Path(__file__).parents[1]
NEW_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # else ranks meet addresses of those before the restart
PATIENT = "--watchdog.silent_seconds=60"  # other tests may keep the cores busy


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_run_continues(tmp_path: Path) -> None:
    """Under FSDP2; epochs, and so checkpoints, of 16 steps."""
    task, folder = write_task(tmp_path / "task", num_queries=2), tmp_path / "run"
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [sys.executable, "-m", *torchrun, "-m", "ifir_lightning", "fit", *QUICK, "--trainer.max_steps=64"]
    command += ["--trainer.strategy=fsdp2", PATIENT]
    command += ["--trainer.devices=2", f"--trainer.default_root_dir={folder}", f"--followir.tasks=[{task}]"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), NEW_STORE: "1"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        while process.poll() is None and not (folder / "checkpoints" / "step-00000016.ckpt").exists():
            time.sleep(0.02)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        status = process.wait(timeout=600)
    finally:
        process.terminate()  # and so its ranks, if it hangs
    said = (tmp_path / "log").read_text
    assert status == 0, said()
    assert said().count("continues after step") == 1, said()
    assert (folder / "checkpoints" / "step-00000064.ckpt").exists()
    steps = [line.partition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps), key=int)
    assert steps[-1] == "60"
