"""What every contestant of `benchmarks.speed` is asked: a net, a batch and a precision; and what all of them share.

A contestant is a module of this folder with one function:

    prepare(case, digits, world) -> run

which does everything up to the first step, compiling included. `run()` then trains one epoch over the digits, every
digit once, in a random order, and returns the trained weights as the state dict of our own net. All contestants start
from the same weights and use Adam with lr 1e-3, betas 0.9 and 0.999, eps 1e-8.
"""

import dataclasses
from collections.abc import Callable

from torch import Tensor, nn

from distmnist.data.dataset import LabelledImages
from distmnist.models.build import build_model

LR = 1e-3

Run = Callable[[], dict[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Case:
    """net: a name in MODELS; batch: digits; amp: "off" or "bf16"; threads: of the process, None for its own choice."""

    net: str
    batch: int
    amp: str = "off"
    threads: int | None = None
    seed: int = 0

    @property
    def bf16(self) -> bool:
        return self.amp == "bf16"

    def build(self) -> nn.Module:
        """The net with the initial weights that all contestants start from: PyTorch's own initialisation."""
        return build_model(self.net, seed=self.seed)


def cut(digits: LabelledImages, count: int) -> LabelledImages:
    """The first `count` digits."""
    return digits.select(slice(count))


def remainder(case: Case, count: int, batches: int) -> int:
    """A number of digits, at most `count`, that makes up to `batches` batches and ends in the same short one."""
    return min(count, batches * case.batch + count % case.batch)
