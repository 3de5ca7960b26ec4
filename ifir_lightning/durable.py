"""Files that are on disk whole or not at all, with the hash of the bytes that went there.

A file is written beside its place (a rename does not cross file systems), flushed to the disk, and renamed; then the
folder is flushed, so that the name survives a loss of power too. Whoever dies in between leaves a ``.partial``.
"""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


class HashedFile:
    """What ``torch.save`` and its like write to, from the first byte to the last.

    A write that fails, on a full disk for one, is remembered, and what follows is dropped: torch's writer is C++ and
    ends the process if an exception of Python's crosses it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self._size = file, hashlib.sha256(), 0
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self._error is None:
            try:
                self._file.write(data)
                self._hash.update(data)
                self._size += len(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing before the end."""

    def digest(self) -> tuple[int, str]:
        """Size in bytes and sha256; OSError if a write failed."""
        if self._error is not None:
            raise self._error
        return self._size, self._hash.hexdigest()


def partial_of(path: Path) -> Path:
    """Where this process writes what shall become ``path``; others that write the same have their own."""
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{PARTIAL}")


def write_partial(path: Path, write: Callable[[HashedFile], object]) -> tuple[int, str]:
    """Write what shall become ``path`` beside it; size and sha256. A file that fails is removed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    try:
        with open(partial, "wb") as file:
            hashed = HashedFile(file)
            write(hashed)
            digest = hashed.digest()
            file.flush()
            os.fsync(file.fileno())
        return digest
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def commit(path: Path) -> None:
    """What was written beside ``path`` takes its place; it goes if it cannot."""
    try:
        os.replace(partial_of(path), path)
    except BaseException:
        partial_of(path).unlink(missing_ok=True)
        raise
    flush(path.parent)


def clear(folder: Path) -> None:
    """Remove what processes that died were writing, in a folder in which nobody writes now."""
    for partial in folder.glob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def is_new(folder: Path) -> bool:
    """Whether nothing lies in a folder, or only what processes that died were writing."""
    return not folder.exists() or (folder.is_dir() and all(path.name.endswith(PARTIAL) for path in folder.iterdir()))


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """A file of a content that is in memory, whole or not at all."""
    write_partial(path, lambda file: file.write(content))
    commit(path)


def flush(path: Path) -> None:
    """The bytes of a file, or the names in a folder, as they are now, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_file(path: Path) -> tuple[int, str]:
    """Size and sha256 of what a file holds."""
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
