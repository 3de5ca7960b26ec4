"""python tools/two_nodes.py [--cut]

One fit across two "nodes" of this machine, one rank each: network namespaces, joined by a veth pair, with a host name
of their own. It must end with the weights and the log of a fit on two ranks of one node. With ``--cut`` the cable is
pulled in the middle, and what each side says, and when it ends, is printed. Needs root, ip and unshare; without them,
or where the kernel refuses namespaces, it says "skipped:" and why.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from small_fit import ROOT, Run, result, write_recipe

from ifir_lightning import manifests

SUBNET = "10.77.0"
PATIENT = "--watchdog.silent_seconds=60"
"""For cores that are busy with something else."""


class Nodes:
    """Two namespaces and the cable between them, from ``open`` to ``close``."""

    def __init__(self) -> None:
        self.names = [f"ifir{os.getpid()}{side}" for side in "ab"]
        self.cable = [f"ifc{os.getpid()}{side}" for side in "ab"]

    def open(self) -> None:
        """CalledProcessError where the kernel refuses."""
        hosts = "127.0.0.1 localhost\n" + "".join(f"{SUBNET}.{n} {name}\n" for n, name in enumerate(self.names, 1))
        for name in self.names:
            ip("netns", "add", name)
            Path("/etc/netns", name).mkdir(parents=True)
            Path("/etc/netns", name, "hosts").write_text(hosts)
        ip("link", "add", self.cable[0], "type", "veth", "peer", "name", self.cable[1])
        for number, (name, end) in enumerate(zip(self.names, self.cable, strict=True), 1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"{SUBNET}.{number}/24", "dev", end)
            for device in ("lo", end):
                ip("-n", name, "link", "set", device, "up")

    def fit(self, node: int, recipe: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
        """This node's part of a fit in ``folder``, which both see."""
        name = self.names[node]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        command += [f"--node-rank={node}", f"--master-addr={SUBNET}.1", "--master-port=29500"]
        command += ["-m", "ifir_lightning", "fit", f"--config={recipe}", f"--trainer.default_root_dir={folder}"]
        command += ["--trainer.devices=1", "--trainer.num_nodes=2", *options]
        inside = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
        network = {"GLOO_SOCKET_IFNAME": self.cable[node], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with open(folder.with_suffix(f".{node}.log"), "ab") as output:
            environment = os.environ | network
            return subprocess.Popen([*inside, *command], cwd=ROOT, env=environment, stdout=output, stderr=output)

    def pull(self) -> None:
        """Take the cable out of the second node."""
        ip("-n", self.names[1], "link", "set", self.cable[1], "down")

    def close(self) -> None:
        """End what still runs, and leave nothing behind."""
        for name in self.names:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in inside.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


def ip(*arguments: str) -> None:
    """CalledProcessError with its message, if it fails."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def open_nodes() -> Iterator[Nodes]:
    """Two nodes, or an end that says why there can be none."""
    if os.geteuid() != 0:
        skip("it needs root")
    if missing := [program for program in ("ip", "unshare") if shutil.which(program) is None]:
        skip(f"{' and '.join(missing)} not found (iproute2, util-linux)")
    nodes = Nodes()
    try:
        try:
            nodes.open()
        except subprocess.CalledProcessError as error:
            skip(f"no network namespaces here: {error.stderr}")
        yield nodes
    finally:
        nodes.close()


def skip(reason: str) -> NoReturn:
    print(f"skipped: {reason.strip()}")
    sys.exit(0)


def wait_for_checkpoint(folder: Path, step: int, processes: list[subprocess.Popen[bytes]]) -> None:
    while not (folder / "checkpoints" / f"step-{step:08d}.ckpt").exists():
        assert all(process.poll() is None for process in processes), "a node ended before the cable was pulled"
        time.sleep(0.05)


def cut(nodes: Nodes, folder: Path, sides: list[subprocess.Popen[bytes]], limit: float) -> bool:
    """Pull the cable in mid-run; whether both sides ended within the limit, and not as if all were well."""
    wait_for_checkpoint(folder, 10, sides)
    nodes.pull()
    pulled, ended = time.monotonic(), {}
    while len(ended) < 2 and time.monotonic() - pulled < limit:
        for node, process in enumerate(sides):
            if node not in ended and process.poll() is not None:
                ended[node] = time.monotonic() - pulled
        time.sleep(0.1)
    for node, process in enumerate(sides):
        seen = f"ended after {ended[node]:.1f} s with status {process.returncode}" if node in ended else "runs on"
        print(f"cut: node {node} ({nodes.names[node]}) {seen}; it says:")
        lines = folder.with_suffix(f".{node}.log").read_text().splitlines()
        for line in [line for line in lines if "rror" in line or "atchdog" in line or "rank " in line][:6]:
            print(f"  {line[:300]}")
    newest = manifests.newest(folder / "checkpoints")
    print(f"cut: newest whole checkpoint: {newest.name if newest else 'none'}")
    return len(ended) == 2 and all(process.returncode != 0 for process in sides)


def compare(recipe: Path, folder: Path, sides: list[subprocess.Popen[bytes]]) -> bool:
    """Whether the run ends as one on two ranks of one node."""
    for node, process in enumerate(sides):
        assert process.wait() == 0, folder.with_suffix(f".{node}.log").read_text()
    alone = folder.with_name("one-node")
    run = Run(recipe, alone, 2, PATIENT)
    assert run.wait(300), alone.with_suffix(".log").read_text()
    assert run.statuses() == [0, 0], alone.with_suffix(".log").read_text()
    expected, found = result(alone), result(folder)
    print(f"weights {expected[0]} on one node, {found[0]} on two")
    print(f"metrics.csv {'identical' if expected[1] == found[1] else 'DIFFERS'}")
    return expected == found


def main() -> None:
    """Status 1 if the runs differ, or if a cut cable did not end both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", action="store_true", help="pull the cable in the middle")
    parser.add_argument("--steps", type=int, default=160, help="optimizer steps")
    parser.add_argument("--limit", type=float, default=60, help="seconds in which both sides must end after a cut")
    arguments = parser.parse_args()
    with open_nodes() as nodes, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "two-nodes"
        steps = 100_000 if arguments.cut else arguments.steps
        recipe = write_recipe(Path(temporary) / "recipe.yaml", max_steps=steps)
        began = time.monotonic()
        options = () if arguments.cut else (PATIENT,)
        sides = [nodes.fit(node, recipe, folder, *options) for node in range(2)]
        good = cut(nodes, folder, sides, arguments.limit) if arguments.cut else compare(recipe, folder, sides)
        print(f"{time.monotonic() - began:.0f} s in all")
    sys.exit(not good)


if __name__ == "__main__":
    main()
