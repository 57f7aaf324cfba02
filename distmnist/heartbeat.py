"""Finds a process that hangs: each publishes a beat, and watches the beat of the next rank."""

import contextlib
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

INTERVAL = 1.0
"""Seconds between two beats."""
LEFT = "left"
"""The last beat of a rank that has nothing more to do."""


class Heartbeat:
    """While entered, a thread beats for this rank and calls `alarm(text)` when the next rank falls silent.

    Silent is a rank whose beat has not changed for `timeout` seconds: stopped, swapped out, or its machine is gone. A
    rank that has ended is noticed sooner, by the collectives that it breaks.
    """

    def __init__(
        self, store: dist.Store | None, rank: int, size: int, timeout: float, alarm: Callable[[str], None]
    ) -> None:
        self.rank, self.neighbour, self.timeout, self.alarm = rank, (rank + 1) % size, timeout, alarm
        # A client of its own: a wait of the main thread's would hold up the beats.
        self.store = store and store.clone()
        self.left = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if self.store:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.left.set()
        if self.store:
            self.thread.join()
            with contextlib.suppress(dist.DistError):  # the store's host has left already
                self.store.set(f"beat/{self.rank}", LEFT)

    def _run(self) -> None:
        beat, heard, heard_at = 0, b"", time.monotonic()
        key = f"beat/{self.neighbour}"
        while not self.left.wait(INTERVAL):
            beat += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
                now = self.store.get(key) if self.store.check([key]) else b""
            except dist.DistError:
                return  # the store's host has left: the collectives will tell
            if now == LEFT.encode():
                return
            if now != heard:
                heard, heard_at = now, time.monotonic()
            elif time.monotonic() - heard_at > self.timeout:
                self.alarm(f"rank {self.neighbour} has given no sign of life for {self.timeout:g} s")
