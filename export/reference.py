"""What the trained net itself says, in float32 and in float64: the two that every exported file is held against."""

import copy
import dataclasses

import numpy as np
import torch
from torch import nn

from distmnist.data.dataset import normalise
from distmnist.seeds import generator
from distmnist.training.evaluation import (
    BATCH,  # the same batches as the run's own test: the labels are those of its accuracy
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of images. pixels: uint8 [n, 28, 28], or None where the images are no pixels' normalisation;
    images: float32 [n, 1, 28, 28]; logits: float32 [n, 10], the net's; referee: float64 [n, 10], the net's in double.

    is_digits: the test digits, to which the fixed bound applies; probes are bounded by their own magnitude.
    """

    name: str
    pixels: np.ndarray | None
    images: np.ndarray
    logits: np.ndarray
    referee: np.ndarray
    is_digits: bool = False

    @property
    def labels(self) -> np.ndarray:
        return self.logits.argmax(1)

    @property
    def margins(self) -> np.ndarray:
        """By how much the referee prefers its first choice to its second: float64 [n]."""
        best = np.partition(self.referee, -2, axis=1)[:, -2:]
        return best[:, 1] - best[:, 0]

    @property
    def magnitude(self) -> float:
        """The largest number that went in or came out."""
        return float(max(np.abs(self.images).max(), np.abs(self.referee).max()))


@torch.no_grad()
def ask(net: nn.Module, name: str, source: torch.Tensor, is_digits: bool = False) -> Case:
    """source: uint8 [n, 28, 28] pixels, or float32 [n, 1, 28, 28] normalised images."""
    images = normalise(source) if source.dtype == torch.uint8 else source
    referee = copy.deepcopy(net).double()
    return Case(
        name,
        source.numpy() if source.dtype == torch.uint8 else None,
        images.numpy(),
        torch.cat([net(part) for part in images.split(BATCH)]).numpy(),
        torch.cat([referee(part.double()) for part in images.split(BATCH)]).numpy(),
        is_digits,
    )


def probes(net: nn.Module) -> list[Case]:
    """Images that are no digits: zeros, ones, noise and extremes, as pixels and as free numbers. Always the same."""
    draw = generator("parity probes")
    pixels = torch.randint(0, 256, (64, 28, 28), generator=draw, dtype=torch.uint8)
    board = ((torch.arange(28)[:, None] + torch.arange(28)) % 2 * 255).to(torch.uint8)
    noise = torch.randn(64, 1, 28, 28, generator=draw)
    return [
        ask(net, "pixels 0", torch.zeros(3, 28, 28, dtype=torch.uint8)),
        ask(net, "pixels 1", torch.ones(3, 28, 28, dtype=torch.uint8)),
        ask(net, "pixels 255", torch.full((3, 28, 28), 255, dtype=torch.uint8)),
        ask(net, "pixels noise", pixels),
        ask(net, "pixels checkerboard", torch.stack([board, 255 - board])),
        ask(net, "zeros", torch.zeros(3, 1, 28, 28)),
        ask(net, "ones", torch.ones(3, 1, 28, 28)),
        ask(net, "noise", noise),
        ask(net, "noise x 1e4", noise * 1e4),
        ask(net, "noise x 1e-30", noise * 1e-30),
    ]
