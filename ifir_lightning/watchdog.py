"""RankWatch: who has stopped, hangs or is cut off is named, and every rank ends, instead of a wait for half an hour.

Each rank writes a beat into a store that rank 0 serves: its place in the program, and whether it has stood still for
too long. Rank 0 judges the beats of all, the others judge rank 0's. Two threads, because a call to a store behind a
cut cable may not return: one exchanges beats, the other decides.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType

from ifir_lightning import distributed

_log = logging.getLogger(__name__)
EXIT_STATUS = 75
"""Of a process that the watch ends: EX_TEMPFAIL of sysexits.h, start again and it continues."""
_PATIENCE = 10
"""How many times the limit a rank may stand still where it is patient, or computes in one long call on the CPU."""
_VERDICT = "verdict"
_BUSY = 0.1
"""Share of a CPU from which a process is at work; one that waits uses a hundredth."""
_LIBRARIES = (os.path.dirname(os.__file__), os.path.join(sys.prefix, "lib"))


@dataclass
class Beat:
    """What a rank says of itself: how often it has beaten, where it is, and whether it stands still."""

    number: int = 0
    host: str = ""
    phase: str = "starting"
    step: int = 0
    collectives: int = 0
    line: str = ""
    stuck: bool = False
    done: bool = False


class RankWatch:
    """Watches this rank's main thread, and the other ranks.

    Args:
        store: What the ranks share; None for a single process.
        silent_seconds: How long a rank may be silent.
        hang_seconds: How long all ranks together may stand still.
        computes_on_cpu: Whether a rank that uses its CPU is at work; on a GPU it may be spinning while it waits.
        end: What a verdict is handed to, once it is logged; by default the process ends with ``EXIT_STATUS``.
    """

    def __init__(
        self,
        store: distributed.Store | None,
        silent_seconds: float,
        hang_seconds: float,
        computes_on_cpu: bool = True,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self.beat = Beat(host=socket.gethostname())
        self._patient = True
        self._store, self._end = store, end or _end_process
        self._silent, self._hang, self._on_cpu = silent_seconds, hang_seconds, computes_on_cpu
        self._interval = min(1.0, silent_seconds / 8, hang_seconds / 4)
        self._rank, self._ranks = distributed.rank(), distributed.world_size()
        self._watched = range(self._ranks) if self._rank == 0 else range(1)
        hosts = distributed.gather_objects(self.beat.host)
        self._others = {rank: (Beat(host=hosts[rank]), time.monotonic()) for rank in self._watched}
        self._main, self._place = threading.main_thread().ident, 0
        self._still, self._looked_at = 0.0, time.monotonic()
        self._cpu_seconds = 0.0
        self._failure, self._received = "", ""
        self._stopped, self._published = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._decide, name="watchdog", daemon=True)]
        if store is not None:
            self._threads.append(threading.Thread(target=self._exchange, name="watchdog-beats", daemon=True))

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def enter(self, phase: str, step: int, patient: bool = False) -> None:
        """Say where the main thread is, and whether it may stand still there for long."""
        self.beat.phase, self.beat.step, self._patient = phase, step, patient

    def stop(self) -> None:
        """This rank is done; rank 0, which serves the store, waits until the others are, or are silent."""
        self.beat.done = True
        if self._store is not None:
            self._published.wait(self._silent)
        self._join()

    def fail(self, reason: str) -> None:
        """Tell the others why this rank ends; it ends by itself."""
        self._failure = f"{self._describe(self._rank, self.beat)}, failed: {reason}"
        if self._store is not None:
            self._published.wait(self._silent)
            time.sleep(3 * self._interval)  # until the others have read it
        self._join()

    def await_verdict(self) -> None:
        """Another rank is gone: give the watch the time to say which, and to end this process."""
        self._stopped.wait(self._silent + 8 * self._interval)

    def _join(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(self._silent)

    def _exchange(self) -> None:
        while not self._stopped.wait(self._interval):
            with suppress(RuntimeError):  # what is not answered is judged by its silence
                self._exchange_once()

    def _exchange_once(self) -> None:
        assert self._store is not None
        leaves = self.beat.done
        self.beat.number += 1
        self._store.set(f"beat/{self._rank}", json.dumps(asdict(self.beat)))
        if self._failure:
            self._store.compare_set(_VERDICT, "", self._failure)
            self._published.set()
        if self._store.check([_VERDICT]):
            self._received = self._store.get(_VERDICT).decode()
        keys = [f"beat/{rank}" for rank in self._watched]
        if self._store.check(keys):  # else a rank has not beaten yet
            for rank, text in zip(self._watched, self._store.multi_get(keys), strict=True):
                self._hear(rank, Beat(**json.loads(text)))
        if leaves and (self._rank or all(beat.done for beat, _ in self._others.values())):
            self._published.set()

    def _hear(self, rank: int, beat: Beat) -> None:
        if beat.number != self._others[rank][0].number:
            self._others[rank] = beat, time.monotonic()

    def _decide(self) -> None:
        """Runs in a thread that must not be held up: of the stores, only rank 0's own, which it serves, is asked."""
        while not self._stopped.wait(self._interval):
            self._forget_own_sleep()
            self._watch_main_thread()
            verdict = self._received or self._silence_verdict() or self._hang_verdict()
            if verdict is None or self.beat.done or self._failure:
                continue
            _log.error("%s. All ranks end (status %d); start the run again and it continues", verdict, EXIT_STATUS)
            if self._rank == 0 and self._store is not None:
                self._store.compare_set(_VERDICT, "", verdict)
                time.sleep(3 * self._interval)  # until the others have read it
            self._end(verdict)
            return

    def _forget_own_sleep(self) -> None:
        """A process that was itself stopped, maybe with all others, has not listened: it counts anew."""
        now = time.monotonic()
        if now - self._looked_at > self._silent / 2:
            self._looked_at = now
            for rank, (beat, _) in list(self._others.items()):
                self._others[rank] = beat, now

    def _watch_main_thread(self) -> None:
        """Whether it has moved since the last look: another place, another step, another collective."""
        frame = sys._current_frames().get(self._main or 0)
        self.beat.collectives = distributed.collectives_entered()
        place = hash((_places(frame), self.beat.collectives, self.beat.step))
        now, cpu_seconds = time.monotonic(), time.process_time()
        computes = self._on_cpu and cpu_seconds - self._cpu_seconds > _BUSY * self._interval
        patience = _PATIENCE if computes or self._patient else 1
        self._still = 0.0 if place != self._place else self._still + (now - self._looked_at) / patience
        self._place, self._looked_at = place, now
        self.beat.stuck = self._still > self._hang
        self.beat.line = _own_line(frame) if self.beat.stuck else ""
        self._cpu_seconds = cpu_seconds

    def _silence_verdict(self) -> str | None:
        heard = {rank: time.monotonic() - at for rank, (beat, at) in self._others.items() if not beat.done}
        silent = [rank for rank, seconds in heard.items() if rank != self._rank and seconds > self._silent]
        if not silent:
            return None
        named = "; ".join(self._describe(rank, self._others[rank][0]) for rank in silent)
        seconds = max(heard[rank] for rank in silent)
        return f"{named}, has been silent for {seconds:.0f} s: it died, was stopped, or its host cannot be reached"

    def _hang_verdict(self) -> str | None:
        """All stand still: those who entered the fewest collectives are waited for."""
        if self._rank != 0:
            return None
        beats = {rank: self.beat if rank == 0 else self._others[rank][0] for rank in self._watched}
        if not all(beat.stuck for beat in beats.values()):
            return None
        fewest = min(beat.collectives for beat in beats.values())
        behind = [rank for rank, beat in beats.items() if beat.collectives == fewest]
        named = "; ".join(f"{self._describe(rank, beats[rank])}, at {beats[rank].line}" for rank in behind)
        return f"{named}, hangs: nothing has moved on any rank for {self._hang:g} s"

    @staticmethod
    def _describe(rank: int, beat: Beat) -> str:
        """A silent rank's place is the one that it last told of."""
        return f"rank {rank} on {beat.host}, {beat.phase}, step {beat.step}"


def _end_process(verdict: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STATUS)  # the main thread may wait in a collective that no exception reaches


def _places(frame: FrameType | None) -> tuple[tuple[int, int], ...]:
    """Where a thread is, to the instruction, from the innermost call outwards."""
    places = []
    while frame is not None:
        places.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(places)


def _own_line(frame: FrameType | None) -> str:
    """The innermost line that is not a library's."""
    innermost = frame
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    shown = frame or innermost
    if shown is None:
        return "an unknown line"
    return f"{os.path.basename(shown.f_code.co_filename)}:{shown.f_lineno} ({shown.f_code.co_name})"
