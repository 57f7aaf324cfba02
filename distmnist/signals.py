"""SIGINT and SIGTERM only set a flag; the training loop asks for it, and all ranks stop after the same step."""

import signal
import time
from types import FrameType
from typing import Self


class Interrupts:
    """While entered, the two signals are caught. Call it: has one arrived? `signal` says which.

    In one process a second SIGINT, a second or more after the first, raises KeyboardInterrupt as usual. Under torchrun
    every Ctrl-C arrives twice, from the terminal and from torchrun.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.arrived = 0.0

    def __call__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.arrived = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.arrived > 1:
            raise KeyboardInterrupt
