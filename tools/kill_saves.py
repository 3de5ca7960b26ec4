"""TMPDIR=/dev/shm python tools/kill_saves.py --kills 150 [--megabytes 20] [--lightning]

Kills a process that saves checkpoints without a pause, at random moments, and counts the folders that could not be
continued: no whole checkpoint, or one older than the last of which the process had said that it was written.
With --lightning the same of Lightning's own CheckpointIO, which writes through TMPDIR and over last.ckpt.
"""

import argparse
import multiprocessing
import random
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from pickle import UnpicklingError

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ifir_lightning import manifests, run_folder
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.errors import InputError, reason


def save_on(folder: Path, megabytes: int, lightning: bool, connection: Connection) -> None:
    """Continue at the newest step, and say each step that is written."""
    torch.set_num_threads(1)
    step = newest_step(folder, lightning)
    run_folder.clear(folder.parent, step)
    weights = torch.zeros(megabytes * 250_000)
    while True:
        step += 1
        content = {"global_step": step, "epoch": 0, "weights": weights + step}
        if lightning:
            TorchCheckpointIO().save_checkpoint(content, folder / "last.ckpt")
        else:
            ManifestIO().save_checkpoint(content, folder / f"step-{step:08d}.ckpt")
            manifests.prune(folder, keep_last=2)
        connection.send(step)


def newest_step(folder: Path, lightning: bool) -> int:
    """The step that a run would continue; 0 without a checkpoint. An exception if there is none that it could."""
    if lightning:
        last = folder / "last.ckpt"
        return torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    checkpoint = manifests.newest(folder)
    if checkpoint is None:
        return 0
    content = ManifestIO().load_checkpoint(checkpoint)
    assert (content["weights"] == content["global_step"]).all()
    return content["global_step"]


def kill_saves(folder: Path, kills: int, megabytes: int, lightning: bool) -> int:
    """How many kills left a folder that could not be continued."""
    context, generator = multiprocessing.get_context("fork"), random.Random(0)
    unusable = 0
    for number in range(kills):
        checkpoints = folder / f"run-{unusable}" / "checkpoints"  # a folder that is lost is left as it is
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=save_on, args=(checkpoints, megabytes, lightning, sender))
        process.start()
        sender.close()
        said = receiver.recv()  # at work
        process.join(generator.uniform(0, 0.3))
        process.kill()
        process.join()
        with suppress(EOFError, UnpicklingError):
            while receiver.poll():
                said = receiver.recv()
        try:
            usable = newest_step(checkpoints, lightning) >= said
        except (InputError, RuntimeError, EOFError, UnpicklingError) as error:
            usable = False
            print(f"kill {number + 1}: {reason(error)}")
        unusable += not usable
    return unusable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--folder", default=".", help="where the runs lie for a while; TMPDIR is what must not matter")
    parser.add_argument("--lightning", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        unusable = kill_saves(Path(folder), arguments.kills, arguments.megabytes, arguments.lightning)
    print(f"{unusable} of {arguments.kills} kills left a run that cannot be continued ({tempfile.gettempdir()})")


if __name__ == "__main__":
    main()
