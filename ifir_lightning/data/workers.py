"""What a worker process of the data loader is told at its start."""

import gc
import os
import signal
from threading import Thread


def start_worker(worker: int) -> None:
    """A worker tokenises on one thread, since the tokenizer's own do not survive the fork, and collects little garbage.

    What it inherited lives as long as it does: searching that again and again costs a tenth of the time.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent ends its workers
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_await_end, args=(os.getppid(),), daemon=True).start()


def _await_end(parent: int) -> None:
    """A SIGTERM of another than the parent asks training to end after its step, for which it needs its workers."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
