"""One run folder, one line of time: what a new start clears away, and the lock that keeps a second job out."""

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ifir_lightning import durable, metrics_file
from ifir_lightning.errors import InputError

_log = logging.getLogger(__name__)


def check(folder: str) -> None:
    """See that a folder can be that of a run.

    Raises:
        InputError: It is a URL, or a file lies in its way.
    """
    if "://" in folder:
        raise InputError(
            f"trainer.default_root_dir {folder} is a URL; allowed is a folder of this machine: choose one, and copy it "
            "when the run is done"
        )
    existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"trainer.default_root_dir {folder}: {existing} is a file; allowed is a folder: choose one")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the file system refuses inside is the user's to mend.

    Raises:
        InputError: An OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"trainer.default_root_dir {folder} cannot be written ({error.strerror}: {error.filename}); allowed is a "
            "folder of yours with space left: choose another, or make this one writable"
        ) from error


def lock(folder: Path) -> None:
    """Take the folder until this process ends, however it ends.

    Raises:
        InputError: Another process trains in it, or it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)  # never closed: that would give the lock back
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: workers that outlive it do not keep it
    except BlockingIOError as error:
        os.close(handle)
        raise InputError(
            f"trainer.default_root_dir {folder} is in use by another fit; allowed is one at a time: wait for it, end "
            "it, or choose another folder"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        _log.warning("%s is on a file system without locks (%s): nothing keeps a second fit out of it", folder, error)


def clear(folder: Path, step: int) -> None:
    """Make the folder that of a run which has done ``step`` steps; at 0, of one that begins.

    Files that were being written when a process died are removed. What lies after ``step`` (checkpoints that are
    damaged or that the user passed over, validations, rows of metrics.csv) will come again or belongs to another
    line of time: it is moved into ``abandoned/NNN-from-step-XXXXXXXX``, nothing is lost.
    """
    checkpoints = folder / "checkpoints"
    durable.clear(folder)
    durable.clear(checkpoints)
    for manifest in checkpoints.glob("step-*.json"):
        if not manifest.with_suffix(".ckpt").exists():
            manifest.unlink()
    aside = folder / "abandoned" / f"{next_number(folder.glob('abandoned/*')):03d}-from-step-{step:08d}"
    later = [path for path in checkpoints.glob("step-*") if _step(path) > step]
    validations = [path for path in folder.glob("*/step-*") if path.parent != checkpoints]  # of every benchmark
    later += [path for path in validations if _step(path) > step or step == 0]
    for path in later:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    cut = _cut_metrics(folder / "metrics.csv", step, aside / "metrics.csv")
    if later or cut:
        _log.info("what %s holds after step %d is moved into %s", folder, step, aside)


def next_number(paths: Iterable[Path]) -> int:
    """One more than the largest of the first numbers in these names; some files may have been removed."""
    return 1 + max((int(found[0]) for path in paths if (found := re.search(r"\d+", path.name))), default=0)


def _step(path: Path) -> int:
    """The number in step-XXXXXXXX[.suffix]; -1 for other names."""
    digits = path.name.removeprefix("step-").partition(".")[0]
    return int(digits) if digits.isdigit() else -1


def _cut_metrics(path: Path, step: int, aside: Path) -> bool:
    """Move rows after ``step`` (at step 0, all) into a file of their own; whether there were any."""
    header, rows, is_whole = metrics_file.read(path)
    later = {done: row for done, row in rows.items() if done > step or step == 0}
    if later:
        metrics_file.write(aside, [header, *later.values()])
    if later or not is_whole:
        metrics_file.write(path, [header, *(row for done, row in rows.items() if done not in later)])
    return bool(later)
