"""Published evaluation data as tables (config name -> records), from folders and the hub."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from datasets import get_dataset_config_names, load_dataset

from ifir_lightning.data.record_files import READERS, Records, read_records
from ifir_lightning.errors import InputError

T = TypeVar("T")
Tables = dict[str, Records]

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def task_name(path_or_id: str) -> str:
    """A short name for metrics and files: core17, followir-mini-core17."""
    path = Path(path_or_id).expanduser()
    last = path.resolve().name if path.is_dir() else path_or_id.partition("@")[0].rstrip("/").rpartition("/")[2]
    last = re.sub(r"(-instructions(-mteb)?|InstructionRetrieval)$", "", last)
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-") or "task"


def read_tables(path_or_id: str, configs: Collection[str]) -> Tables:
    """The records of those of ``configs`` that there are, from a folder or the hub (``owner/name[@revision]``).

    In a folder, a config is a folder of parquet, jsonl or tsv files, or one file ``CONFIG.jsonl`` (as in BEIR).
    """
    folder = Path(path_or_id).expanduser()
    if path_or_id and folder.is_dir():
        return _read_folder(folder, configs)
    beside_others = len(folder.parts) > 1 and folder.parent.is_dir()
    if HUB_ID.fullmatch(path_or_id) and not beside_others:
        hub_id, _, revision = path_or_id.partition("@")
        return _read_hub(hub_id, revision or None, configs)
    raise InputError(
        f"task {path_or_id!r} is no folder; allowed are a folder, a hub id owner/name[@revision] and"
        " synthetic/NAME: check the path"
    )


def _read_folder(folder: Path, configs: Collection[str]) -> Tables:
    parts: dict[str, Path] = {}
    for part in sorted(folder.iterdir()):
        name = part.name if part.is_dir() else part.stem
        config = re.sub(r"^data(?=$|-)", "default", name)  # push_to_hub puts the config "default" there
        if config not in configs or not (_files_by_split(part) if part.is_dir() else part.suffix in READERS):
            continue
        if config in parts:
            raise InputError(
                f"{folder} has config {config!r} in {parts[config].name} and in {part.name}; allowed is one: remove "
                "the other"
            )
        parts[config] = part
    return {config: _read_config(part) for config, part in parts.items()}


def _read_config(part: Path) -> Records:
    files = _one_split(part, _files_by_split(part)) if part.is_dir() else [part]
    return [record for file in files for record in read_records(file)]


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for file in sorted(file for file in folder.iterdir() if file.suffix in READERS):
        splits.setdefault(re.split(r"[-.\d]", file.name)[0], []).append(file)
    return splits


def _read_hub(hub_id: str, revision: str | None, configs: Collection[str]) -> Tables:
    try:
        present = set(configs).intersection(get_dataset_config_names(hub_id, revision=revision))
        loaded = {config: load_dataset(hub_id, config, revision=revision) for config in sorted(present)}
    # The errors of datasets, of the hub's client, of its HTTP library and of arrow share no other base.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"task {hub_id!r} (revision {revision}) is no folder and the hub did not give it: {reason};"
            " allowed are folders and owner/name[@revision]: check the name, the network and HF_TOKEN"
        ) from error
    return {config: _one_split(f"{hub_id}/{config}", splits).to_list() for config, splits in loaded.items()}


def _one_split(where: object, splits: Mapping[str, T]) -> T:
    if len(splits) > 1 and "test" not in splits:
        raise InputError(f"{where} has splits {list(splits)}; allowed is one, or one called test: remove others")
    return splits["test"] if "test" in splits else next(iter(splits.values()))
