"""Finds the rank that stands still or is lost, and ends the whole run with one line that names it.

Each rank's main thread counts its progress. A second thread publishes the count once a second in the store that the
ranks share, and looks whether another rank has reported a failure. Once its own main thread has not moved for a while,
it reads everyone's count: in a hang all ranks stand still, because they wait for the one that hangs, so the rank to
blame is the one that has come least far. A third thread watches the second, which a store that does not answer blocks.

Time is counted in a thread's own beats, so that a process that was stopped or starved does not take its own standstill
for that of others.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import torch.distributed as dist

from distmnist import streams
from distmnist.distributed.beats import Beat, ended, first_beat, judge, kill
from distmnist.distributed.failure import (
    GRACE,
    Failure,
    PeerLost,
    all_informed,
    describe,
    exit_code,
    first_line,
    is_ours,
    print_once_a_machine,
    read_failure,
    settle,
    wait_until,
)
from distmnist.distributed.launcher import agent_hosts_store
from distmnist.errors import RunError, UsageError

INTERVAL = 1.0
"""Seconds between two beats."""
EARLY = 2.0
"""Seconds without progress after which a rank looks whether another one has ended."""
SILENT = 3.0
"""Seconds without a new beat after which a rank counts as silent: on a busy processor a thread may be a second late."""
ENDING = 5.0
"""Seconds in which a thread reports a failure, if the store answers. Rank 0, if it hosts the store, may wait longer."""
STOPPING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
WAITING = {"rendezvous.py", "world.py", "heartbeat.py", "shared_memory.py"}
"""Files whose functions wait for other ranks: where a rank stands is told by what called them."""


@contextlib.contextmanager
def without_sigterm() -> Iterator[None]:
    """Ignores SIGTERM in the block. torchrun sends it as soon as one rank has ended, while another one still has to
    tell why the run failed, or hosts the store in which the others read it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class Heartbeat:
    """Entered by a rank for as long as it has to do with the others. Without a store it does nothing.

    The main thread calls `advance`, `touch`, `waiting` and `busy`. If the run fails while the main thread waits, the
    process is ended from here.
    """

    def __init__(
        self,
        store: dist.Store | None = None,
        rank: int = 0,
        size: int = 1,
        timeout: float = 300.0,
        host: Beat | None = None,
    ) -> None:
        """store: of this attempt alone; timeout: seconds that a rank may go without progress; host: the rank that hosts
        the store, if another one does."""
        self.store, self.rank, self.size, self.timeout, self.host = store, rank, size, timeout, host
        self.phase = self.touches = self.exchanges = 0
        self.waits = False
        self.limit, self.task = timeout, ""
        self.still = 0.0
        self.quiet: dict[int, float] = {}  # rank -> seconds since its number was last seen to change
        self.beats: dict[int, Beat] = {}
        self.signalled: float | None = None  # seconds since a signal to stop
        self.ending = threading.Lock()  # held by the thread that deals with a failure
        self.code: int | None = None  # with which the main thread, on its way out, is to end this process
        self.stopped = threading.Event()

    # Called by the main thread

    def advance(self) -> None:
        """Counts progress that all ranks make equally often."""
        self.phase += 1

    def touch(self) -> None:
        """Counts progress that ranks make in different numbers: it only shows that this one does not hang."""
        self.touches += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for other ranks. All ranks enter it equally often."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
            self.phase += 1

    @contextlib.contextmanager
    def busy(self, task: str, limit: float) -> Iterator[None]:
        """The block is known to take long: the others wait `limit` seconds for it, or the time-out if that is more."""
        self.limit, self.task = max(limit, self.timeout), task
        self.touches += 1
        try:
            yield
        finally:
            self.limit, self.task = self.timeout, ""
            self.touches += 1

    def __enter__(self) -> Self:
        if self.store is None:
            return self
        self.main = threading.get_ident()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._watch_store, self._beat)]
        self.threads[0].start()  # before the first call that a store which does not answer would block
        try:
            # A client of its own: a wait of the main thread's would hold up the beats.
            self.client = self.store.clone()
            self.me = first_beat(self.rank)
            self._publish(self.store)
        except dist.DistError as error:
            self.stopped.set()
            raise RunError(self._without_store(error).text) from error
        self.wake, self.signals = socket.socketpair()
        self.signals.setblocking(False)
        self.wakeup = None
        if threading.current_thread() is threading.main_thread():
            # The interpreter writes a signal's number there at once, even while the main thread waits in C, where it
            # cannot run the signal's handler.
            self.wakeup = signal.set_wakeup_fd(self.signals.fileno(), warn_on_full_buffer=False)
        self.threads[1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.store is None:
            return
        if self.wakeup is not None:
            signal.set_wakeup_fd(self.wakeup)
        self.stopped.set()
        self.signals.close()
        for thread in self.threads:
            thread.join(INTERVAL)  # the store may block it; it holds nothing that is still needed
        self.wake.close()

    def leave(self) -> None:
        """Says that this rank needs the others no more, and that its end is not a loss."""
        if self.store is not None:
            self.me.left = True
            self._publish(self.store)

    @without_sigterm()
    def report(self, error: Exception) -> UsageError | RunError:
        """Tells all ranks why this one fails, and sees to it that one of them prints it. Returns the error to raise.

        The first report counts. An error that the loss of another rank may have caused waits for evidence of that loss,
        so that the rank is named and not the broken connection.
        """
        if self.store is None:
            raise error
        if not self.ending.acquire(blocking=False):
            time.sleep(self.timeout)  # the heartbeat's thread is ending this process
        own = isinstance(error, UsageError | RunError)
        failure = Failure(describe(error) if own else f"{self.me.name}: {describe(error)}", exit_code(error))
        symptom = isinstance(error, PeerLost | dist.DistError) or type(error) is RuntimeError
        try:
            if symptom:
                failure = self._evidence() or failure
            failure = settle(self.store, self.rank, failure)
            self._linger(self.store, failure)
        except dist.DistError as lost:
            failure = self._without_store(lost) if symptom else failure
            print_once_a_machine(failure.text)
        self.code = failure.code
        told = UsageError(failure.text) if failure.code == 2 else RunError(failure.text)
        told.printed = True
        return told

    def _evidence(self) -> Failure | None:
        """What another rank has reported, or that one has ended or fallen silent; None if nothing shows in time."""
        assert self.store is not None
        first: dict[int, int] = {}
        deadline = time.monotonic() + SILENT
        while True:
            if failure := read_failure(self.store):
                return failure
            beats = self._read_beats(self.store)
            if lost := next((beat for beat in beats if beat.has_ended()), None):
                return ended(lost)
            for beat in beats:
                first.setdefault(beat.rank, beat.number)
            if time.monotonic() > deadline:
                silent = {beat.rank for beat in beats if not beat.left and beat.number == first[beat.rank]}
                return judge(beats, silent, SILENT) if silent else None
            time.sleep(0.1)

    # The thread that beats

    def _beat(self) -> None:
        before = (self.phase, self.touches)
        while not self.stopped.is_set():
            self._sleep()
            now = (self.phase, self.touches)
            self.still = self.still + INTERVAL if now == before else 0.0
            before = now
            if self.signalled is not None:
                self.signalled += INTERVAL
            try:
                self._publish(self.client)
                failure = read_failure(self.client) or self._look()
            except dist.DistError as error:
                failure = self._if_left() if self.me.left else self._without_store(error)
            self.exchanges += 1
            if self.code is not None and self.still >= self.timeout:
                os._exit(self.code)  # the main thread hangs on its way out
            if failure and self.ending.acquire(blocking=False):
                self._end(failure)

    def _sleep(self) -> None:
        """One interval. Takes note of signals to stop."""
        deadline = time.monotonic() + INTERVAL
        while (left := deadline - time.monotonic()) > 0 and not self.stopped.is_set():
            self.wake.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if STOPPING & set(self.wake.recv(64)) and self.signalled is None:
                    self.signalled = 0.0

    def _publish(self, store: dist.Store) -> None:
        me = self.me
        me.number += 1
        me.phase, me.waiting, me.still = self.phase, self.waits, self.still
        me.limit, me.task, me.place = self.limit, self.task, self._place()
        store.set(f"beat/{self.rank}", json.dumps(dataclasses.asdict(me)))

    def _place(self) -> str:
        """The innermost function of ours that the main thread is in, but for those that wait for other ranks."""
        frame = sys._current_frames().get(self.main)
        while frame:
            file = frame.f_code.co_filename
            if is_ours(file) and Path(file).name not in WAITING:
                return f"{frame.f_code.co_name} ({Path(file).name}:{frame.f_lineno})"
            frame = frame.f_back
        return "starting or ending"

    def _read_beats(self, store: dist.Store) -> list[Beat]:
        """The other ranks' beats."""
        others = [f"beat/{rank}" for rank in range(self.size) if rank != self.rank]
        return [Beat(**json.loads(store.get(key))) for key in others if store.check([key])]

    def _look(self) -> Failure | None:
        """Whether another rank has ended or is to blame for a standstill. Asks the store only while this one stands."""
        if self.still < EARLY:
            self.beats, self.quiet = {}, {}
            return None
        for beat in self._read_beats(self.client):
            known = self.beats.get(beat.rank)
            fresh = known is None or known.number != beat.number
            self.quiet[beat.rank] = 0.0 if fresh else self.quiet[beat.rank] + INTERVAL
            self.beats[beat.rank] = beat
        others = list(self.beats.values())
        if lost := next((beat for beat in others if beat.has_ended()), None):
            return ended(lost)
        signalled = self.signalled is not None and self.signalled > EARLY
        limit = SILENT if signalled else max(SILENT, self.timeout - 2 * EARLY)
        silent = {beat.rank for beat in others if not beat.left and self.quiet[beat.rank] >= limit}
        if silent and signalled:
            return judge(others, silent, self.quiet[min(silent)])
        return judge([*others, self._as_present()], silent, self.still) if self.still >= self.timeout else None

    def _as_present(self) -> Beat:
        """This rank's beat; one that has left and then hangs is to be blamed for it."""
        return dataclasses.replace(self.me, left=False)

    def _if_left(self) -> Failure | None:
        """The store has gone, as it should: this rank has left. It may still hang."""
        return judge([self._as_present()], set(), self.still) if self.still >= self.timeout else None

    def _without_store(self, error: dist.DistError) -> Failure:
        if self.host and self.host.has_ended():
            return ended(self.host)
        return Failure(f"{self._store_name()} is lost: {first_line(error)}")

    def _end(self, failure: Failure) -> NoReturn:
        """Ends this process, and one of this machine that the failure names and that cannot end by itself."""
        try:
            failure = settle(self.client, self.rank, failure)
            self._linger(self.client, failure)
        except dist.DistError:
            print_once_a_machine(failure.text)
        for rank in set(failure.ranks) - {self.rank}:
            if beat := self.beats.get(rank):
                kill(beat)
        streams.settle()
        os._exit(failure.code)

    def _linger(self, store: dist.Store, failure: Failure) -> None:
        """The rank that hosts the store ends last. It waits longer for ranks that are late than for those to blame."""
        if self.rank == 0 and not agent_hosts_store():
            able = set(range(self.size)) - set(failure.ranks)
            if not wait_until(lambda: all_informed(store, range(self.size)), 2 * GRACE):
                wait_until(lambda: all_informed(store, able), 2 * GRACE)

    # The thread that watches the one that beats

    def _watch_store(self) -> None:
        seen, blocked = 0, 0.0
        while not self.stopped.wait(INTERVAL):
            blocked = 0.0 if seen != self.exchanges else blocked + INTERVAL
            seen = self.exchanges
            # The thread that deals with a failure may be blocked as well, but is given the time to deal with it.
            if blocked >= self.timeout + EARLY + ENDING * self.ending.locked():
                print_once_a_machine(f"{self._store_name()} has not answered for {blocked:.0f} s")
                if self.host:  # last: torch writes much about a store that is lost
                    kill(self.host, patience=0.0)
                os._exit(1)

    def _store_name(self) -> str:
        host = "torchrun" if agent_hosts_store() else "rank 0"
        return f"the store at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}, which {host} hosts,"
