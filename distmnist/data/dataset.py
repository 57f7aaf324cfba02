"""A data set as a value: labelled images, split for training and testing, with what describes them.

Images stay in memory as uint8 and are normalised a batch at a time on the device.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from distmnist.errors import UsageError
from distmnist.seeds import generator

DIGITS = tuple("0123456789")

MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
"""Of MNIST's training pixels scaled to 0..1, as the published work rounds them."""


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """images: uint8 [n, C, H, W]; labels: int64 [n], from 0 on; both on one device.

    mean, std: per channel, of pixels scaled to 0..1: what a model's input is normalised with.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "LabelledImages":
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, which: Tensor | slice) -> "LabelledImages":
        """Those with the indices `which`, int64 [m] on any device, or of a slice."""
        which = which.to(self.labels.device) if isinstance(which, Tensor) else which
        return dataclasses.replace(self, images=self.images[which], labels=self.labels[which])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices, int64 [b], on the images' device -> normalised images, float32 [b, C, H, W], and labels [b]."""
        return self.normalised(self.images.index_select(0, indices)), self.labels.index_select(0, indices)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels like these images', uint8 [n, C, H, W] -> float32 of the same shape."""
        return normalise(pixels, *self._mean_and_std)

    @cached_property
    def _mean_and_std(self) -> tuple[Tensor | float, Tensor | float]:
        """Each a number for one channel; for several a tensor [C, 1, 1] on the images' device, made once."""
        if len(self.mean) == 1:
            return self.mean[0], self.std[0]
        mean, std = (torch.tensor(each, device=self.images.device)[:, None, None] for each in (self.mean, self.std))
        return mean, std


def normalise(pixels: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Pixels, uint8 [n, C, H, W] -> float32 of the same shape: divided by 255, less the mean, divided by the deviation.

    The same three operations, in the same order, as torchvision's ToTensor and Normalize: equal bit for bit.
    """
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """What checkpoints and summaries say of a data set. train, test: how many images; shape: channels, height, width.

    The first edition's files say no more than name, train and test: they are of MNIST or of its sample.
    """

    name: str
    train: int
    test: int
    shape: tuple[int, int, int] = (1, 28, 28)
    class_names: tuple[str, ...] = DIGITS
    mean: tuple[float, ...] = MNIST_MEAN
    std: tuple[float, ...] = MNIST_STD

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.name} of {self.train:,} + {self.test:,}"

    def difference(self, expected: "DatasetFacts") -> str | None:
        """In words, how this data set is not the expected one; None if it is."""
        for field in dataclasses.fields(self):
            found, wanted = getattr(self, field.name), getattr(expected, field.name)
            if found != wanted:
                return f"{self}, where {expected} is expected, has another {field.name}: {found}, not {wanted}"
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """name: as in summaries, "mnist" or "mnist-sample"; origin: where it came from, for people.

    Raises UsageError where the parts do not fit each other or the class names.
    """

    name: str
    origin: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        train, channels = self.train, self.train.shape[0]
        if (train.shape, train.mean, train.std) != (self.test.shape, self.test.mean, self.test.std):
            raise UsageError(f"{self.origin}: images for training and for testing differ in shape, mean or std")
        if not len(train.mean) == len(train.std) == channels or min(train.std) <= 0:
            raise UsageError(f"{self.origin}: mean and std must have {channels} numbers, those of std above 0")
        for labels in (train.labels, self.test.labels):
            # Not on a GPU, which the host would wait for: the data set was made on the CPU, and checked there.
            if (
                labels.device.type == "cpu"
                and len(labels)
                and not 0 <= labels.min() <= labels.max() < len(self.class_names)
            ):
                raise UsageError(
                    f"{self.origin}: labels must be from 0 to {len(self.class_names) - 1}, one for each class"
                )

    def to(self, device: torch.device) -> "Dataset":
        return dataclasses.replace(self, train=self.train.to(device), test=self.test.to(device))

    def describe(self) -> DatasetFacts:
        return DatasetFacts(
            name=self.name,
            train=len(self.train),
            test=len(self.test),
            shape=self.train.shape,
            class_names=self.class_names,
            mean=self.train.mean,
            std=self.train.std,
        )


def hold_out(train: LabelledImages, fraction: float) -> tuple[LabelledImages, LabelledImages]:
    """Splits `fraction` of the training images off for validation: the same images whatever the random seed."""
    count = round(fraction * len(train))
    if fraction and not 0 < count < len(train):
        raise UsageError(f"--val-fraction {fraction} of {len(train)} training digits leaves one side empty")
    order = torch.randperm(len(train), generator=generator("held out"))
    held, kept = (part.sort().values for part in (order[:count], order[count:]))
    return train.select(kept), train.select(held)
