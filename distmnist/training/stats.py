"""What every step needs to know of all ranks: their loss, and whether one of them was asked to stop or to save."""

from typing import NamedTuple

import torch
from torch import Tensor


class StepStats(NamedTuple):
    """Summed over the ranks: the loss (nats, over the global batch), requests to stop and for a checkpoint."""

    loss_sum: float
    stop: float
    checkpoint: float


class StatsReader:
    """Brings statistics from the device to the host without making either wait.

    On the CPU those of each step are read at once. On CUDA they collect on the device; every `EVERY` steps a copy is
    started, and the one started `EVERY` steps earlier is read. All ranks read the same statistics at the same step.
    """

    EVERY = 50

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            shape = (self.EVERY, len(StepStats._fields))
            self.window = torch.empty(shape, device=device)
            self.filled = 0
            self.host = torch.empty(shape, pin_memory=True)
            self.copied: torch.cuda.Event | None = None

    def put(self, stats: Tensor) -> list[StepStats]:
        """Takes one step's statistics, float [3]. Returns those that became readable, oldest first."""
        if not self.cuda:
            return [StepStats(*stats.tolist())]
        self.window[self.filled] = stats
        self.filled += 1
        if self.filled < self.EVERY:
            return []
        readable = self._read()
        self.host.copy_(self.window, non_blocking=True)
        self.copied = torch.cuda.Event()
        self.copied.record()
        self.filled = 0
        return readable

    def drain(self) -> list[StepStats]:
        """Waits for the device and returns all that is left."""
        if not self.cuda:
            return []
        readable = self._read() + [StepStats(*row) for row in self.window[: self.filled].tolist()]
        self.filled = 0
        return readable

    def _read(self) -> list[StepStats]:
        if self.copied is None:
            return []
        self.copied.synchronize()
        self.copied = None
        return [StepStats(*row) for row in self.host.tolist()]
