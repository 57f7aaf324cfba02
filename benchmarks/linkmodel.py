"""How long a ring all-reduce takes: a model of latency and bandwidth, fitted to measurements, or of a named link.

Every one of the 2 (P - 1) steps of a ring of P processes costs a latency `alpha`, and each process sends 2 (P - 1) / P
of the message over a link of `bandwidth`: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of Collective
Communication Operations in MPICH", 2005, from where recursive halving and doubling, 2 log2 P steps, is taken, too.
"""

import dataclasses
import math
import statistics

import numpy as np


@dataclasses.dataclass(frozen=True)
class Point:
    """One measured all-reduce: processes, bytes of the message, seconds."""

    processes: int
    size: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Link:
    """alpha: seconds a step; bandwidth: bytes a second in one direction."""

    alpha: float
    bandwidth: float

    def ring(self, processes: int, size: int) -> float:
        """Seconds of a ring all-reduce of `size` bytes."""
        return 2 * (processes - 1) * self.alpha + 2 * (processes - 1) / processes * size / self.bandwidth

    def halving_doubling(self, processes: int, size: int) -> float:
        """Seconds of an all-reduce by recursive halving and doubling, for a power of two of processes."""
        return 2 * math.log2(processes) * self.alpha + 2 * (processes - 1) / processes * size / self.bandwidth


LINKS = {
    "10 Gb/s Ethernet": Link(9.6e-6, 10e9 / 8),
    "100 Gb/s Ethernet": Link(9.6e-6, 100e9 / 8),
    "NVLink 4": Link(3.4e-6, 450e9),
}
"""Bandwidths: IEEE 802.3ae and 802.3bm; NVIDIA's H100 data sheet (900 GB/s a GPU, both directions together).
Latencies: a step of a ring, protocol Simple, over a network and over NVLink, in NCCL's own model (src/graph/tuning.cc).
"""


def fit(points: list[Point]) -> Link:
    """The link with the least squares of relative errors. Raises ValueError if no positive one fits."""
    rows = np.array([[2 * (p.processes - 1), 2 * (p.processes - 1) / p.processes * p.size] for p in points])
    scale = 1 / np.array([p.seconds for p in points])
    (alpha, inverse), *_ = np.linalg.lstsq(rows * scale[:, None], np.ones(len(points)), rcond=None)
    if alpha <= 0 or inverse <= 0:
        raise ValueError(f"no link fits: alpha {alpha:.2e} s, {inverse:.2e} s a byte")
    return Link(float(alpha), float(1 / inverse))


def errors(link: Link, points: list[Point]) -> tuple[float, float]:
    """The median and the largest relative error of the model on `points`."""
    relative = [abs(link.ring(p.processes, p.size) / p.seconds - 1) for p in points]
    return statistics.median(relative), max(relative)
