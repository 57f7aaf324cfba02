"""Callbacks of one function each, for tests of `fit`."""

from collections.abc import Callable

from distmnist.checkpoint.record import Checkpoint
from distmnist.training.callbacks import Callback
from distmnist.training.requests import Request


class Keep(Callback):
    """Gives every checkpoint to a function, on rank 0."""

    def __init__(self, keep: Callable[[Checkpoint], object], rank: int = 0) -> None:
        self.keep, self.rank = keep, rank

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.rank == 0:
            self.keep(checkpoint)


class Ask(Callback):
    """Requests before every step what a function says."""

    def __init__(self, ask: Callable[[], Request]) -> None:
        self.ask = ask

    def request(self) -> Request:
        return self.ask()
