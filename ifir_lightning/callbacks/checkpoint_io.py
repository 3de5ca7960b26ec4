"""ManifestIO: checkpoints that are on disk whole, with a manifest, or not at all."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from ifir_lightning import durable, manifests
from ifir_lightning.errors import InputError, reason
from ifir_lightning.models.files import read_weights


class ManifestIO(CheckpointIO):
    """Lightning's checkpoints, written durably (see ``durable``) and described (see ``manifests``).

    Lightning's own way writes a temporary file into the system's folder, and copies it over the old checkpoint if
    that lies on another file system: a kill or a full disk then leaves half a file, and no other.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the file beside its place, its manifest, and give the file its name.

        Raises:
            InputError: The disk is full, or the folder cannot be written; what was there is there.
        """
        assert storage_options is None
        path = Path(path)
        try:
            written = durable.write_partial(path, lambda file: torch.save(checkpoint, file))  # type: ignore[arg-type]
            manifests.write_manifest(path, manifests.describe(checkpoint, {path.name: written}))
            durable.commit(path)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise InputError(
                f"checkpoint {path} could not be written ({error.strerror}); the checkpoints before it are whole; "
                f"{'free some space' if full else 'make the folder writable'} and start fit again, it continues"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that is whole; a file without a manifest, as one that was moved, is read as it is.

        Only plain data are read, whatever ``weights_only`` says: no checkpoint can run code.

        Raises:
            InputError: It is a URL, damaged, or no checkpoint.
        """
        if "://" in str(path):
            raise InputError(
                f"ckpt_path {path} is a URL; allowed are files of this machine: download it and give its path"
            )
        path = Path(path)
        if manifests.manifest_path(path).exists():
            try:
                manifests.verify(path)
            except InputError as error:
                raise InputError(
                    f"checkpoint {path} is damaged: {reason(error)}; allowed are whole checkpoints: choose another"
                ) from error
        return read_weights(path, str(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        manifests.remove(Path(path))
