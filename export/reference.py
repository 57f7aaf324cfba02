"""What the trained model itself says, in float32 and in float64: the two that every exported file is held against."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from distmnist.checkpoint.source import Trained
from distmnist.data.dataset import LabelledImages
from distmnist.models.inference import batch_size
from distmnist.seeds import generator

from . import bounds

SAMPLE = 256
"""Test images of which a larger model is asked in float64, chosen by the data set's digest."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of images, and what the model says of them.

    source: uint8 pixels, or float32 normalised images that are no pixels'; [n, C, H, W]. normalised: pixels -> what the
    model reads. logits: float32 [n, classes], the model's. referee: float64 [m, classes], those of the model in double
    precision, for the images `rows`, int64 [m], in ascending order. bound: the largest error of a logit.

    Images are prepared when they are asked for: all of them may not fit into memory.
    """

    name: str
    source: Tensor
    normalised: Callable[[Tensor], Tensor]
    logits: np.ndarray
    rows: np.ndarray
    referee: np.ndarray
    bound: float

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.source.shape[1:]
        return channels, height, width

    @property
    def noun(self) -> str:
        """What an image of it is called in messages."""
        return "digit" if self.name == "digits" else "image"

    @property
    def is_pixels(self) -> bool:
        return self.source.dtype == torch.uint8

    def images(self, rows: slice) -> np.ndarray:
        """float32 [b, C, H, W]"""
        source = self.source[rows]
        return (self.normalised(source) if self.is_pixels else source).numpy()

    def pixels(self, rows: slice) -> np.ndarray:
        """uint8 [b, H, W] of one channel, [b, H, W, 3] of three, as files store them and `.pixels.onnx` takes them."""
        return channels_last(self.source[rows]).numpy()

    @property
    def labels(self) -> np.ndarray:
        return self.logits.argmax(1)

    @property
    def margins(self) -> np.ndarray:
        """By how much the referee prefers its first choice to its second: float64 [m]."""
        best = np.partition(self.referee, -2, axis=1)[:, -2:]
        return best[:, 1] - best[:, 0]

    def undecided(self, row: int) -> bool:
        """Whether the referee's two best logits are closer than the bound, so that the label may be either."""
        at = int(np.searchsorted(self.rows, row))
        return at < len(self.rows) and self.rows[at] == row and self.margins[at] < self.bound

    def first(self, count: int) -> "Case":
        """Of the first `count` images alone."""
        inside = self.rows < count
        return dataclasses.replace(
            self,
            source=self.source[:count],
            logits=self.logits[:count],
            rows=self.rows[inside],
            referee=self.referee[inside],
        )


def channels_last(pixels: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, H, W] of one channel, else [n, H, W, C]."""
    return pixels[:, 0] if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1).contiguous()


def ask_test_images(trained: Trained, test: LabelledImages) -> Case:
    """In the same batches as the run's own test: the labels are those of its accuracy.

    The published models are asked about every image in float64 as well; others about `SAMPLE` of them, by which the
    bound is measured, and about every image whose label is nearly another one: two logits closer than twice the bound.
    """
    source = test.images if test.rows is None else test.images[test.rows]
    logits = ask(trained.net, source, test.normalised)
    if bounds.is_published(trained):
        rows, bound = np.arange(len(logits)), bounds.BOUND
        return Case("digits", source, test.normalised, logits, rows, ask_referee(trained, source, test, rows), bound)
    order = torch.randperm(len(logits), generator=generator("reference images", trained.dataset.digest or ""))
    sample = np.sort(order[:SAMPLE].numpy())
    referee = ask_referee(trained, source, test, sample)
    bound = bounds.measured(float(np.abs(logits[sample] - referee).max()))
    best = np.partition(logits, -2, axis=1)[:, -2:]
    near = np.setdiff1d(np.flatnonzero(best[:, 1] - best[:, 0] < 2 * bound), sample)
    if len(near):
        referee = np.concatenate([referee, ask_referee(trained, source, test, near)])
    rows = np.concatenate([sample, near])
    ascending = np.argsort(rows)
    return Case("test images", source, test.normalised, logits, rows[ascending], referee[ascending], bound)


def probes(trained: Trained, least: float) -> list[Case]:
    """Images that are none of the data set: zeros, ones, noise and extremes, as pixels and as free numbers. Always the
    same for one shape. least: the bound on the test images, below which none is here.
    """
    shape, draw = trained.dataset.shape, generator("parity probes")
    count = 64 if bounds.is_published(trained) else 8
    pixels = torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)
    board = ((torch.arange(shape[1])[:, None] + torch.arange(shape[2])) % 2 * 255).to(torch.uint8).expand(shape)
    noise = torch.randn(count, *shape, generator=draw)
    found = {
        "pixels 0": torch.zeros(3, *shape, dtype=torch.uint8),
        "pixels 1": torch.ones(3, *shape, dtype=torch.uint8),
        "pixels 255": torch.full((3, *shape), 255, dtype=torch.uint8),
        "pixels noise": pixels,
        "pixels checkerboard": torch.stack([board, 255 - board]),
        "zeros": torch.zeros(3, *shape),
        "ones": torch.ones(3, *shape),
        "noise": noise,
        "noise x 1e4": noise * 1e4,
        "noise x 1e-30": noise * 1e-30,
    }
    return [ask_probe(trained, name, source, least) for name, source in found.items()]


def ask_probe(trained: Trained, name: str, source: Tensor, least: float) -> Case:
    images, rows = (
        LabelledImages(source, torch.zeros(0), trained.dataset.mean, trained.dataset.std),
        np.arange(len(source)),
    )
    logits = ask(trained.net, source, images.normalised)
    referee = ask_referee(trained, source, images, rows)
    if bounds.is_published(trained):
        read = images.normalised(source) if source.dtype == torch.uint8 else source
        bound = bounds.published(float(max(read.abs().max(), np.abs(referee).max())), of_test_images=False)
    else:
        bound = max(least, bounds.measured(float(np.abs(logits - referee).max())))
    return Case(name, source, images.normalised, logits, rows, referee, bound)


def ask_referee(trained: Trained, source: Tensor, images: LabelledImages, rows: np.ndarray) -> np.ndarray:
    """float64 [m, classes]: what the model says in double precision of the images `rows`, int64 [m], of `source`."""
    double = copy.deepcopy(trained.net).double()
    return ask(double, source.index_select(0, torch.from_numpy(rows)), images.normalised, torch.float64)


@torch.no_grad()
def ask(
    net: torch.nn.Module, source: Tensor, normalised: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32
) -> np.ndarray:
    """[n, classes] of `dtype`: logits, in the batches of `models.inference`. source, normalised: see `Case`."""
    found = []
    for part in source.split(batch_size(source.shape[1:])):
        images = normalised(part) if part.dtype == torch.uint8 else part
        found.append(net(images.to(dtype)).numpy())
    return np.concatenate(found)
