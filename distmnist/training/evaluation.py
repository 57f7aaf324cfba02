"""Evaluates a model on images; all figures are computed from every image's prediction and loss."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World
from distmnist.models.inference import batch_size

PUBLISHED_BATCH = 64
"""The published test loss adds up the means of batches of 64, in order, and divides by the number of images."""


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Of one class: its index, its test images, and the shares, from 0 to 1."""

    index: int
    images: int
    precision: float
    recall: float
    f1: float


@dataclasses.dataclass(frozen=True)
class Confused:
    """Images of one class that were predicted as another; share: of all images of their class."""

    label: int
    prediction: int
    images: int
    share: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """predictions, labels: int64 [n]; losses: float32 [n], cross entropies in nats. In the data set's order, on CPU.

    classes: how many there are.

    Sums are taken here, in float64 and in one order, so that they do not depend on how many processes evaluated.
    """

    predictions: torch.Tensor
    losses: torch.Tensor
    labels: torch.Tensor
    classes: int

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def loss(self) -> float:
        """The mean cross entropy."""
        return float(self.losses.double().mean())

    @property
    def notebook_loss(self) -> float:
        """The published convention: about a 64th of the mean, because it is divided by the count twice."""
        return sum(float(batch.double().mean()) for batch in self.losses.split(PUBLISHED_BATCH)) / self.count

    @property
    def confusion(self) -> torch.Tensor:
        """int64 [classes, classes]: row is the label, column is the prediction."""
        cells = torch.bincount(self.labels * self.classes + self.predictions, minlength=self.classes**2)
        return cells.reshape(self.classes, self.classes)

    @property
    def per_class_accuracy(self) -> list[float]:
        return self.recall

    @property
    def recall(self) -> list[float]:
        """Per class: of its images, the share that is predicted as it. 0 for a class without images."""
        return (self._right / self.confusion.sum(1).clamp(min=1)).tolist()

    @property
    def precision(self) -> list[float]:
        """Per class: of the images predicted as it, the share that is of it. 0 for a class that is never predicted."""
        return (self._right / self.confusion.sum(0).clamp(min=1)).tolist()

    @property
    def f1(self) -> list[float]:
        """Per class: the harmonic mean of precision and recall."""
        confusion = self.confusion
        return (2 * self._right / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)).tolist()

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        images = self.confusion.sum(1)
        return float((self._right / images)[images > 0].mean())

    def by_class(self) -> list[ClassFigures]:
        """Of every class, the worst F1 first; last those without images."""
        images = self.confusion.sum(1).tolist()
        figures = zip(range(self.classes), images, self.precision, self.recall, self.f1, strict=True)
        return sorted((ClassFigures(*one) for one in figures), key=lambda one: (not one.images, one.f1))

    def most_confused(self, count: int) -> list[Confused]:
        """The most confused pairs of classes, `count` at most: those with the most images."""
        confusion = self.confusion
        images = confusion.sum(1)
        mistakes = confusion - confusion.diagonal().diag()
        cells = mistakes.flatten().argsort(descending=True, stable=True)[:count].tolist()
        pairs = [divmod(cell, len(mistakes)) for cell in cells]
        return [
            Confused(label, other, int(wrong), float(wrong / images[label]))
            for label, other in pairs
            if (wrong := mistakes[label, other])
        ]

    @property
    def _right(self) -> torch.Tensor:
        """float64 [classes]: images of each class that are predicted as it."""
        return self.confusion.diagonal().double()

    def arrays(self) -> dict[str, NDArray[np.uint8] | NDArray[np.int32] | NDArray[np.float32]]:
        """What predictions.npz holds, each [n]: classes as uint8, or as int32 where there are more than 256."""
        kind = torch.uint8 if self.classes <= 256 else torch.int32
        return {
            "predictions": self.predictions.to(kind).numpy(),
            "losses": self.losses.numpy(),
            "labels": self.labels.to(kind).numpy(),
        }


@torch.no_grad()
def evaluate(model: nn.Module, data: LabelledImages, classes: int, world: World) -> Evaluation:
    """Shares the images out over the ranks, without padding and in float32, and returns the whole on every rank.

    Whole batches are dealt out, so that each has one content and shape at any number of processes.
    """
    model.eval()
    count = len(data)
    predictions = torch.zeros(count, dtype=torch.int64, device=world.device)
    losses = torch.zeros(count, dtype=torch.float32, device=world.device)
    size = batch_size(data.shape)
    for start in range(world.rank * size, count, world.size * size):
        rows = torch.arange(start, min(start + size, count), device=world.device)
        images, labels = data.batch(rows)
        logits = model(images)
        predictions[rows] = logits.argmax(1)
        losses[rows] = functional.cross_entropy(logits, labels, reduction="none")
        world.heartbeat.touch()
    return Evaluation(world.sum_(predictions).cpu(), world.sum_(losses).cpu(), data.labels.cpu(), classes)
