"""Who is to blame for a standstill, and when a rank that waits may conclude it."""

import datetime
import json
import os
import signal
import threading
import time

import pytest
import torch.distributed as dist

from distmnist.distributed import failure, heartbeat
from distmnist.distributed.beats import Beat, judge
from distmnist.distributed.failure import Failure
from distmnist.distributed.heartbeat import Heartbeat
from distmnist.distributed.launcher import process_space, process_started
from distmnist.errors import RunError
from distmnist.training.requests import Signals


def beat(rank, phase, *, waiting=False, still=9.0, limit=5.0, **more):
    return Beat(rank, "a", phase=phase, waiting=waiting, still=still, limit=limit, place="here (x.py:1)", **more)


@pytest.mark.parametrize(
    ("what", "beats", "silent", "told"),
    [
        ("the one that is behind", [beat(0, 8), beat(1, 7), beat(2, 8)], set(), "rank 1 on a has made no progress"),
        (
            "of those that are behind, the one that does not wait",
            [beat(0, 7, waiting=True), beat(1, 9), beat(2, 7)],
            set(),
            "rank 2 on a has made no progress for 9 s, in here (x.py:1)",
        ),
        ("the one that is silent", [beat(0, 7), beat(1, 8)], {1}, "rank 1 on a has sent no heartbeat for 6 s"),
        ("nobody, while the slow one moves", [beat(0, 8), beat(1, 7, still=1.0)], set(), None),
        ("nobody, while the one that was waited for moves", [beat(0, 8, still=0.0), beat(1, 7)], set(), None),
        ("nobody, while announced work lasts", [beat(0, 7, limit=60.0, task="a download"), beat(1, 8)], set(), None),
        (
            "announced work that takes too long",
            [beat(0, 7, still=61.0, limit=60.0, task="a download"), beat(1, 8)],
            set(),
            "rank 0 on a has not finished a download within 60 s",
        ),
        (
            "nobody alone, if all wait",
            [beat(0, 7, waiting=True), beat(1, 7, waiting=True)],
            set(),
            "ranks 0, 1 wait for each other",
        ),
    ],
)
def test_the_one_to_blame_is(what, beats, silent, told):
    found = judge(beats, silent, 6.0)
    assert found is None if told is None else found.text.startswith(told), what


@pytest.fixture
def store() -> dist.Store:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=20))


@pytest.fixture
def found(monkeypatch):
    """Failures that a heartbeat has found: it does not end this process. Ten beats a second."""
    failures = []
    for name, seconds in (("INTERVAL", 0.1), ("EARLY", 0.2), ("SILENT", 0.3)):
        monkeypatch.setattr(heartbeat, name, seconds)
    monkeypatch.setattr(Heartbeat, "_end", lambda self, failure: failures.append(failure.text))
    return failures


def publish(store, other):
    store.set(f"beat/{other.rank}", json.dumps(vars(other)))


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_lost_rank_of_another_machine_is_not_waited_for_once_a_signal_to_stop_has_come(store, found):
    """The main thread may wait in C: the signal is seen all the same."""
    publish(store, beat(1, 0, space="elsewhere"))
    with Heartbeat(store, 0, 2, timeout=300.0), Signals():
        time.sleep(1.0)
        assert not found
        os.kill(os.getpid(), signal.SIGTERM)
        assert until(lambda: found)
    assert found[0].startswith("rank 1 on a has sent no heartbeat")


def test_a_signal_to_stop_is_left_to_ranks_that_are_all_alive(store, found):
    with Heartbeat(store, 0, 2, timeout=300.0), Signals():
        os.kill(os.getpid(), signal.SIGTERM)
        for number in range(20):
            publish(store, beat(1, 0, space="elsewhere", number=number))
            time.sleep(0.1)
    assert not found


def test_a_rank_of_this_machine_that_has_ended_is_noticed_at_once(store, found):
    publish(store, beat(1, 0, space=process_space(), pid=os.getpid(), started="another process had this number"))
    with Heartbeat(store, 0, 2, timeout=300.0):
        assert until(lambda: found)
    assert found[0].startswith("rank 1 on a has ended without a word")


def test_a_rank_that_has_left_may_end(store, found):
    publish(store, beat(1, 0, space=process_space(), pid=os.getpid(), started="another", left=True))
    with Heartbeat(store, 0, 2, timeout=300.0):
        time.sleep(1.0)
    assert not found


def test_progress_of_any_kind_keeps_a_rank_from_being_blamed(store, found):
    with Heartbeat(store, 0, 2, timeout=0.5) as mine:
        for number in range(15):
            publish(store, beat(1, 0, space=process_space(), pid=os.getpid(), started=process_started(os.getpid())))
            (mine.advance, mine.touch)[number % 2]()
            time.sleep(0.1)
        assert not found
        assert until(lambda: found)


@pytest.mark.parametrize("late", [1, 2])
def test_the_host_of_the_store_waits_longer_for_a_rank_that_is_late_than_for_the_rank_to_blame(
    store, monkeypatch, late
):
    """Rank 2 is to blame. Whichever of the two is missing, the other one has read the failure at once."""
    monkeypatch.setattr(heartbeat, "GRACE", 0.25)
    store.set(f"informed/{3 - late}", "")
    store.set("informed/0", "")
    informing = threading.Timer(0.75, store.set, (f"informed/{late}", ""))
    informing.start()
    Heartbeat(store, 0, 3)._linger(store, Failure("rank 2 hangs", ranks=(2,)))
    assert informing.is_alive() == (late == 2)
    informing.join()


def test_the_line_is_printed_by_another_rank_where_the_one_that_undertook_to_is_lost(store, monkeypatch, capfd):
    monkeypatch.setattr(failure, "PRINTING", 0.2)
    store.add("printing", 1)
    assert failure.settle(store, 0, Failure("why")).text == "why"
    assert failure.settle(store, 0, Failure("another reason")).text == "why"
    assert capfd.readouterr().err == "distmnist: why\n"


def test_torchruns_sigterm_does_not_end_a_rank_that_tells_why_the_run_failed(store, monkeypatch):
    """Nor one whose other thread does: where that hosts the store, the others could not read it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Heartbeat(store, 0, 1) as mine:
            monkeypatch.setattr(heartbeat, "settle", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or Failure("told"))
            assert mine.report(RunError("why")).printed
            assert mine.ending.locked() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            monkeypatch.setattr(heartbeat.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
            mine.report(RunError("why"))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_store_nothing_is_done():
    with Heartbeat() as alone:
        alone.advance()
        with alone.busy("work", 1.0), alone.waiting():
            pass
        alone.leave()
    assert not hasattr(alone, "threads")
