"""One measurement of the data module, in a process of its own: load.py SETTINGS, a JSON object. Prints one of figures.

SETTINGS: what (start, phases or loader), table, tokenizer, batch, group_size, workers, batches. The cache of
``datasets`` is where HF_DATASETS_CACHE says.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoTokenizer

from ifir_lightning.data import formats
from ifir_lightning.data.datamodule import EpochBatches, PromptrieverData
from ifir_lightning.data.sampling import GroupSampler
from ifir_lightning.losses import InfoNCE
from ifir_lightning.text import TextTokenizer
from ifir_lightning.text_format import TextFormat

PHASES = ("read", "sample", "tokenise", "pack")


def memory() -> dict[str, int]:
    """Bytes of this process: anonymous (its own), file (pages of mapped files, which the system may take back)."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    names = {"anonymous": "RssAnon", "file": "RssFile", "resident": "VmRSS"}
    return {name: 1024 * int(fields[field].split()[0]) for name, field in names.items()}


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """The most anonymous memory seen, every 20 ms."""
    peak, done = {"peak_anonymous": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak["peak_anonymous"] = max(peak["peak_anonymous"], memory()["anonymous"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def make_data(settings: dict[str, Any]) -> tuple[PromptrieverData, TextTokenizer]:
    """The data module before ``setup``, with as much of a trainer as its loader asks for."""
    limits = TextFormat(max_query_length=304, max_passage_length=300)
    tokenizer = TextTokenizer(AutoTokenizer.from_pretrained(settings["tokenizer"]), limits)
    sampler = GroupSampler(settings["group_size"])
    data = PromptrieverData(settings["table"], settings["batch"], sampler, num_workers=settings["workers"])
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        current_epoch=0,
        overfit_batches=0,
        accumulate_grad_batches=1,
        lightning_module=SimpleNamespace(retriever=SimpleNamespace(tokenizer=tokenizer), loss=InfoNCE(0.02)),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data, tokenizer


def start(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds until the table is checked, and until the first batch; memory then and after more batches."""
    data, _ = make_data(settings)
    before, begin = memory()["anonymous"], time.perf_counter()
    with peak_memory() as peak:
        data.setup("fit")
        ready = time.perf_counter()
        batches = iter(data.train_dataloader())
        next(batches)
    done = time.perf_counter()
    for _ in range(settings["batches"]):
        next(batches)
    seconds = {"setup_seconds": ready - begin, "first_batch_seconds": done - ready}
    return seconds | peak | {"before_anonymous": before} | memory()


def phases(settings: dict[str, Any]) -> dict[str, Any]:
    """CPU microseconds per text of what one worker does, and its rows and texts per CPU second."""
    data, tokenizer = make_data(settings)
    data.setup("fit")
    batches, spent = EpochBatches(data, 0, tokenizer), Counter[str]()
    batches[0]
    # Method by method, so that what is measured is the code of the package.
    timed(formats, "to_row", "read", spent)
    timed(type(batches.table), "__getitem__", "read", spent)
    timed(GroupSampler, "__call__", "sample", spent)
    timed(TextTokenizer, "_encode", "tokenise", spent)
    begin = time.process_time()
    for step in range(1, settings["batches"] + 1):
        batches[step]
    spent["pack"] = time.process_time() - begin - spent.total()
    return speeds(settings, time.process_time() - begin) | {
        name: 1e6 * spent[name] / num_texts(settings) for name in PHASES
    }


def timed(owner: Any, name: str, phase: str, spent: Counter[str]) -> None:
    """From now on CPU seconds of a function count for a phase."""
    function: Callable = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[phase] += time.process_time() - begin

    setattr(owner, name, wrapped)


def loader(settings: dict[str, Any]) -> dict[str, Any]:
    """Rows and texts per second of the loader, from one arrival to another, workers already running."""
    data, _ = make_data(settings)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    for _ in range(2 * max(1, settings["workers"])):
        next(batches)
    begin = time.perf_counter()
    for _ in range(settings["batches"]):
        next(batches)
    return speeds(settings, time.perf_counter() - begin)


def num_texts(settings: dict[str, Any]) -> int:
    return settings["batches"] * settings["batch"] * (1 + settings["group_size"])


def speeds(settings: dict[str, Any], seconds: float) -> dict[str, float]:
    rows = settings["batches"] * settings["batch"]
    return {"rows_per_second": rows / seconds, "texts_per_second": num_texts(settings) / seconds}


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in a worker
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    print(json.dumps({"start": start, "phases": phases, "loader": loader}[asked["what"]](asked)))
