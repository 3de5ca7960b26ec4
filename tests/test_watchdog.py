"""RankWatch: silence and standing still are told apart, the right rank is named, and those at work are let alone."""

import hashlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ranks import on_ranks
from small import retriever, synthetic_data, trainer

from ifir_lightning import distributed
from ifir_lightning.callbacks import watchdog
from ifir_lightning.callbacks.watchdog import Watchdog
from ifir_lightning.errors import InputError
from ifir_lightning.watchdog import RankWatch

SILENT, HANG = 1.6, 1.0
"""Seconds: beats come every 0.2 or 0.25."""


@contextmanager
def watched(silent: float = 20, hang: float = HANG, **options: bool) -> Iterator[tuple[RankWatch, list[str]]]:
    """A watch over this rank and the others, and the verdicts that it comes to instead of ending the process."""
    verdicts: list[str] = []
    store = distributed.open_store(silent) if distributed.world_size() > 1 else None
    watch = RankWatch(store, silent, hang, **options, end=verdicts.append)
    watch.enter("forward pass", 7)
    watch.start()
    yield watch, verdicts


def work(watch: RankWatch, until: Callable[[], object], seconds: float) -> bool:
    """Take steps until something is so, or the time is up; whether it is so."""
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        watch.enter("forward pass", watch.beat.step + 1)
        time.sleep(0.01)
    return bool(until())


def test_one_process_that_stands_still_is_named_with_its_line() -> None:
    with watched() as (watch, verdicts):
        threading.Event().wait(HANG + 1.0)
        watch.stop()
    assert len(verdicts) == 1
    assert "rank 0 on " in verdicts[0]
    assert ", forward pass, step 7, at test_watchdog.py:" in verdicts[0]
    assert "nothing has moved on any rank for 1 s" in verdicts[0]


def test_one_process_that_moves_is_let_alone() -> None:
    with watched() as (watch, verdicts):
        work(watch, lambda: verdicts, HANG + 1.0)
        watch.stop()
    assert verdicts == []


def test_a_rank_may_stand_still_where_it_is_patient() -> None:
    with watched() as (watch, verdicts):
        watch.enter("saving a checkpoint", 7, patient=True)
        threading.Event().wait(HANG + 1.0)
        watch.stop()
    assert verdicts == []


class Places:
    """In place of a watch: remembers what it is told."""

    def __init__(self, *args: object) -> None:
        self.entered: list[tuple[str, int, bool]] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def enter(self, phase: str, step: int, patient: bool) -> None:
        self.entered.append((phase, step, patient))


def test_the_callback_tells_phase_step_and_patience(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places()
    monkeypatch.setattr(watchdog, "RankWatch", lambda *args: places)
    fitting = trainer(tmp_path, Watchdog(), max_steps=3, val_check_interval=3)
    fitting.fit(retriever(modernbert), synthetic_data())
    step = ["forward pass", "backward pass", "optimizer step", "between two steps"]
    told = [(phase, patient) for phase, _, patient in places.entered]
    assert told[:12] == [(phase, number < 7) for number, phase in enumerate(step * 3)]  # the second step ends at 7
    assert told[12:] == [("validation", False), ("after a validation", False), ("after training", True)]
    assert [number for _, number, _ in places.entered[:12]] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize(("on_cpu", "expected"), [(True, 0), (False, 1)])
def test_one_long_call_is_work_where_it_uses_the_cpu_unless_that_may_be_waiting(on_cpu: bool, expected: int) -> None:
    with watched(computes_on_cpu=on_cpu) as (watch, verdicts):
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 6_000_000)  # without the interpreter's lock
        watch.stop()
    assert len(verdicts) == expected


def silent_rank(silent: int) -> list[str]:
    """One rank beats no more, as if it had been stopped."""
    with watched(SILENT, hang=60) as (watch, verdicts):
        heard = watch._others.values()
        assert work(watch, lambda: all(beat.number for beat, _ in heard), 20)
        if distributed.rank() == silent:
            watch._stopped.set()
            work(watch, lambda: False, 2 * SILENT + 3)
        else:
            work(watch, lambda: verdicts, 20)
        watch._join()
    return verdicts


@pytest.mark.parametrize("silent", [0, 1])
def test_a_silent_rank_is_named_by_the_others(silent: int) -> None:
    verdicts = on_ranks(3, silent_rank, silent)
    assert verdicts[silent] == []
    for rank in {0, 1, 2} - {silent}:
        (verdict,) = verdicts[rank]
        assert verdict.startswith(f"rank {silent} on ")
        said = re.search(r", has been silent for (\d+) s: it died, was stopped, or its host cannot be reached", verdict)
        assert said is not None
        assert SILENT <= int(said[1]) <= 20


def stopped_together() -> list[str]:
    """All ranks are stopped for longer than one may be silent, and go on, as under a scheduler that suspends a job."""
    with watched(2 * SILENT, hang=2 * HANG) as (watch, verdicts):
        heard = watch._others.values()
        assert work(watch, lambda: all(beat.number for beat, _ in heard), 20)
        distributed.gather_objects(0)
        wake = subprocess.Popen(["sh", "-c", f"sleep {4 * SILENT}; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
        wake.wait()
        work(watch, lambda: verdicts, 3 * SILENT)
        watch.stop()
    return verdicts


def test_ranks_that_were_stopped_together_go_on() -> None:
    assert on_ranks(2, stopped_together) == [[], []]


def hanging_rank() -> list[str]:
    """Rank 1 sleeps before a collective that the others have entered."""
    with watched() as (watch, verdicts):
        if distributed.rank() == 1:
            watch.enter("between two steps", 6)
            threading.Event().wait(HANG + 2)
        else:
            distributed._traffic.collectives += 1
            threading.Event().wait(HANG + 2)
        watch._join()
    return verdicts


def test_of_ranks_that_stand_still_the_one_that_is_waited_for_is_named() -> None:
    by_rank = on_ranks(3, hanging_rank)
    for (verdict,) in by_rank:
        assert verdict == by_rank[0][0]
        assert verdict.startswith("rank 1 on ")
        assert ", between two steps, step 6, at test_watchdog.py:" in verdict
        assert "; rank" not in verdict


def busy_rank() -> list[str]:
    """Two ranks wait for one that is at work: that is no hang."""
    with watched() as (watch, verdicts):
        if distributed.rank() == 1:
            work(watch, lambda: False, HANG + 1)
        else:
            threading.Event().wait(HANG + 1)
        watch.stop()
    return verdicts


def test_ranks_that_wait_for_one_at_work_are_let_alone() -> None:
    assert on_ranks(3, busy_rank) == [[], [], []]


def failing_rank() -> list[str]:
    with watched(hang=60) as (watch, verdicts):
        if distributed.rank() == 1:
            watch.fail("ValueError: no")
        else:
            work(watch, lambda: verdicts, 20)
            watch._join()
    return verdicts


def test_a_rank_that_fails_says_why() -> None:
    first, second = on_ranks(2, failing_rank)
    assert second == []
    assert first[0].startswith("rank 1 on ")
    assert first[0].endswith(", forward pass, step 7, failed: ValueError: no")


def leaving_early(first: int) -> tuple[list[str], float]:
    """The ranks are done at different times."""
    with watched(hang=60) as (watch, verdicts):
        if distributed.rank() != first:
            work(watch, lambda: False, 3.0)
        begin = time.monotonic()
        watch.stop()
    return verdicts, time.monotonic() - begin


@pytest.mark.parametrize("first", [0, 1])
def test_ranks_that_are_done_at_different_times_end_in_peace(first: int) -> None:
    (verdicts, seconds), (others, _) = on_ranks(2, leaving_early, first)
    assert verdicts == others == []
    assert (seconds > 2) == (first == 0)  # it serves the store until the other is done


@pytest.mark.parametrize("name", ["silent_seconds", "hang_seconds", "meet_seconds"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_limit_is_a_time(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"watchdog.{name} is .*; allowed are seconds above 0"):
        Watchdog(**{name: value})
