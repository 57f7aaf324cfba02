"""Signals only set a flag; the training loop asks for it, and all ranks act on it after the same step."""

import enum
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

Handler = Callable[[int, FrameType | None], object]
"""Of a signal."""


class Request(enum.IntFlag):
    """What a process asks of all of them."""

    NOTHING = 0
    CHECKPOINT = 1
    STOP = 2


class Signals:
    """While entered: SIGINT, SIGTERM and SIGHUP request a stop, SIGUSR1 a checkpoint. Call it for the request of now.

    Outside the main thread, where Python allows no handlers, it never requests anything: signals are the program's
    that started the thread. A SIGHUP that is ignored stays so: nohup means the run to outlive its terminal.
    A second SIGINT raises KeyboardInterrupt as usual, if it comes a second or more after the first: under torchrun
    every Ctrl-C arrives twice, from the terminal and from torchrun.
    """

    def __init__(self) -> None:
        self.fatal: signal.Signals | None = None
        self.arrived = 0.0
        self.checkpoint = False

    def __call__(self) -> Request:
        request = Request.STOP if self.fatal else Request.NOTHING
        if self.checkpoint:
            self.checkpoint = False
            request |= Request.CHECKPOINT
        return request

    def __enter__(self) -> Self:
        self.before: dict[signal.Signals, Handler | int | None] = {}
        if threading.current_thread() is not threading.main_thread():
            return self
        handlers: dict[signal.Signals, Handler] = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not on Windows
            handlers[signal.SIGHUP] = self._stop
        if hasattr(signal, "SIGUSR1"):  # not on Windows
            handlers[signal.SIGUSR1] = self._keep
        self.before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.fatal is None:
            self.fatal, self.arrived = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.arrived > 1:
            raise KeyboardInterrupt

    def _keep(self, number: int, _: FrameType | None) -> None:
        self.checkpoint = True
