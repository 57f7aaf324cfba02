"""What the trained net itself says, in float32 and in float64: the two that every exported file is held against."""

import copy
import dataclasses

import numpy as np
import torch

from distmnist.checkpoint.source import Trained
from distmnist.data.dataset import normalise
from distmnist.models.inference import predict_logits
from distmnist.seeds import generator


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
def ask(trained: Trained, name: str, source: torch.Tensor, is_digits: bool = False) -> Case:
    """source: uint8 [n, 1, 28, 28] pixels, or float32 [n, 1, 28, 28] normalised images.

    In the same batches as the run's own test: the labels are those of its accuracy.
    """
    is_pixels = source.dtype == torch.uint8
    images = normalise(source, trained.dataset.mean[0], trained.dataset.std[0]) if is_pixels else source
    referee = copy.deepcopy(trained.net).double()
    return Case(
        name,
        source.squeeze(1).numpy() if is_pixels else None,
        images.numpy(),
        predict_logits(trained.net, images).numpy(),
        predict_logits(referee, images.double()).numpy(),
        is_digits,
    )


def probes(trained: Trained) -> list[Case]:
    """Images that are no digits: zeros, ones, noise and extremes, as pixels and as free numbers. Always the same."""
    draw = generator("parity probes")
    pixels = torch.randint(0, 256, (64, 1, 28, 28), generator=draw, dtype=torch.uint8)
    board = ((torch.arange(28)[:, None] + torch.arange(28)) % 2 * 255).to(torch.uint8)
    noise = torch.randn(64, 1, 28, 28, generator=draw)
    return [
        ask(trained, "pixels 0", torch.zeros(3, 1, 28, 28, dtype=torch.uint8)),
        ask(trained, "pixels 1", torch.ones(3, 1, 28, 28, dtype=torch.uint8)),
        ask(trained, "pixels 255", torch.full((3, 1, 28, 28), 255, dtype=torch.uint8)),
        ask(trained, "pixels noise", pixels),
        ask(trained, "pixels checkerboard", torch.stack([board, 255 - board])[:, None]),
        ask(trained, "zeros", torch.zeros(3, 1, 28, 28)),
        ask(trained, "ones", torch.ones(3, 1, 28, 28)),
        ask(trained, "noise", noise),
        ask(trained, "noise x 1e4", noise * 1e4),
        ask(trained, "noise x 1e-30", noise * 1e-30),
    ]
