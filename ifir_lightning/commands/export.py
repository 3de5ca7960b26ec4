"""The command ``export``: a model as a folder that PyLate and sentence-transformers load, and onto the hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from rich.console import Console

from ifir_lightning.errors import InputError, reason
from ifir_lightning.export import Format, check_output, export_format, write_export
from ifir_lightning.model_card import model_card, read_history_of
from ifir_lightning.retriever import load_retriever


def export(
    checkpoint: str,
    output: str,
    format: Format | None = None,
    overwrite: bool = False,
    license: str = "unknown",
    push_to_hub: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write a model for use elsewhere.

    Args:
        checkpoint: a run folder, a .ckpt file, or any folder or hub id that model.checkpoint takes.
        output: the folder to write.
        format: pylate (one vector per token; sentence-transformers 6 reads it too) or sentence-transformers (one
            vector per text); by default the one that fits the model.
        overwrite: replace the exported model that the folder holds.
        license: for the model card, an identifier of the hub, e.g. apache-2.0.
        push_to_hub: also upload the folder as this repository, owner/name (needs HF_TOKEN).
        trust_remote_code: allow the checkpoint to run code of its own.
    """
    check_output(Path(output), overwrite)
    retriever = load_retriever(checkpoint, trust_remote_code=trust_remote_code)
    fitting = export_format(retriever, format)
    card = model_card(retriever, read_history_of(checkpoint), push_to_hub or output, license)
    write_export(retriever, Path(output), card, fitting, overwrite)
    Console(soft_wrap=True, markup=False).print(f"wrote {output} ({fitting}); README.md says how to load it")
    if push_to_hub is not None:
        _push(output, push_to_hub)


def _push(folder: str, name: str) -> None:
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        url = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of ifir_lightning")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"--push-to-hub {name}: the hub refused ({reason(error)}); the folder {folder} is complete; allowed is a "
            "repository owner/name that you may write: check the name, the network and HF_TOKEN"
        ) from error
    Console(soft_wrap=True, markup=False).print(f"uploaded: {url}")
