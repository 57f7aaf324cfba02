"""A data set as a value: labelled images, split for training and testing, with what describes them.

Images stay in memory as uint8 and are normalised a batch at a time on the device.
"""

import dataclasses

import torch
from torch import Tensor

from distmnist.errors import UsageError
from distmnist.seeds import generator

MEAN, STD = 0.1307, 0.3081
"""Of MNIST's training pixels scaled to 0..1, as the published work rounds them."""


@dataclasses.dataclass(frozen=True)
class Digits:
    """images: uint8 [n, 28, 28], ink high; labels: int64 [n], 0 to 9; both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Digits":
        return Digits(self.images.to(device), self.labels.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices, int64 [b], on the digits' device -> normalised images, float32 [b, 1, 28, 28], and labels [b]."""
        return normalise(self.images.index_select(0, indices)), self.labels.index_select(0, indices)


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """What checkpoints and summaries say of a data set: its name, and how many images it has."""

    name: str
    train: int
    test: int

    def to_json(self) -> dict[str, str | int]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.name} of {self.train:,} + {self.test:,}"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """name: "mnist" or "mnist-sample"; origin: where it came from, for people."""

    name: str
    origin: str
    train: Digits
    test: Digits

    def to(self, device: torch.device) -> "Dataset":
        return dataclasses.replace(self, train=self.train.to(device), test=self.test.to(device))

    def describe(self) -> DatasetFacts:
        return DatasetFacts(self.name, len(self.train), len(self.test))


def normalise(images: Tensor) -> Tensor:
    """Pixels, uint8 [n, 28, 28] -> float32 [n, 1, 28, 28]: divided by 255, then by the published mean and deviation.

    The same three operations, in the same order, as torchvision's ToTensor and Normalize: equal bit for bit.
    """
    return images.unsqueeze(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def hold_out(train: Digits, fraction: float) -> tuple[Digits, Digits]:
    """Splits `fraction` of the training digits off for validation: the same digits whatever the random seed."""
    count = round(fraction * len(train))
    if fraction and not 0 < count < len(train):
        raise UsageError(f"--val-fraction {fraction} of {len(train)} training digits leaves one side empty")
    order = torch.randperm(len(train), generator=generator("held out"))
    held, kept = (part.sort().values.to(train.labels.device) for part in (order[:count], order[count:]))
    return Digits(train.images[kept], train.labels[kept]), Digits(train.images[held], train.labels[held])
