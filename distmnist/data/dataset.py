"""A data set as a value: labelled images, split for training and testing, with what describes them.

Images stay uint8 and are normalised a batch at a time on the device.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from distmnist.config import KNOWN_DATA
from distmnist.data.memory import SharedImages
from distmnist.errors import UsageError

DIGITS = tuple("0123456789")

MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
"""Of MNIST's training pixels scaled to 0..1, as the published work rounds them."""

RESERVED = frozenset({*KNOWN_DATA, "mnist-sample"})
"""Names of known data sets, which images of one's own never have."""


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """images: uint8 [m, C, H, W], in memory or mapped from a file; labels: int64 [n], from 0 on; all on one device.

    mean, std: per channel, of pixels scaled to 0..1: what a model's input is normalised with. rows, int64 [n]: which of
    the images the labels are of; None: all of them, in order, and m = n.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "LabelledImages":
        rows = None if self.rows is None else self.rows.to(device)
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device), rows=rows)

    def select(self, which: Tensor | slice) -> "LabelledImages":
        """A copy of those with the indices `which`, int64 [m] on any device, or of a slice."""
        which = which.to(self.labels.device) if isinstance(which, Tensor) else which
        images = self.images[which if self.rows is None else self.rows[which]]
        return dataclasses.replace(self, images=images, labels=self.labels[which], rows=None)

    def subset(self, which: Tensor) -> "LabelledImages":
        """Those with the indices `which`, int64 [m] on any device, without a copy of the images."""
        which = which.to(self.labels.device)
        rows = which if self.rows is None else self.rows[which]
        return dataclasses.replace(self, labels=self.labels[which], rows=rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices, int64 [b], on the images' device -> normalised images, float32 [b, C, H, W], and labels [b]."""
        rows = indices if self.rows is None else self.rows.index_select(0, indices)
        return self.normalised(self.images.index_select(0, rows)), self.labels.index_select(0, indices)

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
class Duplicates:
    """Images with the same pixels. across_splits: images of the test or validation set that are training images, too;
    two_labels: groups of images that differ in their labels; examples: the names of the first pairs of either kind.
    """

    across_splits: int = 0
    two_labels: int = 0
    examples: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """How many images there are of each class, by split."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """What checkpoints and summaries say of a data set.

    train, test, validation: how many images; shape: channels, height, width; preparation: what image files were brought
    to, as `prepare.Preparation` has it, None for images that came as pixels; digest: see `audit.digest`; decoder: the
    name and version of what decoded the files; skipped: how many could not be read and were left out.

    The first edition's files say no more than name, train and test: they are of MNIST or of its sample.
    """

    name: str
    train: int
    test: int
    shape: tuple[int, int, int] = (1, 28, 28)
    class_names: tuple[str, ...] = DIGITS
    mean: tuple[float, ...] = MNIST_MEAN
    std: tuple[float, ...] = MNIST_STD
    validation: int = 0
    class_counts: ClassCounts | None = None
    preparation: dict[str, int | str] | None = None
    digest: str | None = None
    decoder: str | None = None
    duplicates: Duplicates | None = None
    skipped: int = 0

    def __hash__(self) -> int:
        return hash((self.name, self.train, self.test, self.digest))  # a dict has no hash

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.name} of {self.train:,} + {self.test:,}"

    def difference(self, expected: "DatasetFacts") -> str | None:
        """In words, how this data set is not the expected one; None if it is.

        What one of the two does not say is not compared. Nor is, where both have a digest, what one's own images are
        called: their folder may have been renamed.
        """
        by_digest = self.digest is not None and expected.digest is not None
        free = {"name"} if by_digest and RESERVED.isdisjoint({self.name, expected.name}) else set()
        for name in ("name", "train", "test", "validation", "shape", "class_names", "mean", "std", "preparation"):
            found, wanted = getattr(self, name), getattr(expected, name)
            if found != wanted and name not in free:
                return f"{self}, where {expected} is expected, has another {name}: {brief(found)}, not {brief(wanted)}"
        if by_digest and self.digest != expected.digest:
            decoders = (
                f" ({self.decoder} decoded it, not {expected.decoder})" if self.decoder != expected.decoder else ""
            )
            return f"{self} has other images, labels or file names than the data set that is expected{decoders}"
        return None


def brief(value: object) -> str:
    """In words, cut off where they are many: there may be a thousand classes."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """name: as in summaries, "mnist" or "mnist-sample"; origin: where it came from, for people.

    stratified: whether `splits.hold_out` takes the same share of each class; memory: where the images of all splits lie
    one after the other, if other processes can open it. See `DatasetFacts` for the rest, which is None where nobody has
    looked.

    Raises UsageError where the parts do not fit each other or the class names.
    """

    name: str
    origin: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    validation: LabelledImages | None = None
    stratified: bool = True
    preparation: dict[str, int | str] | None = None
    digest: str | None = None
    decoder: str | None = None
    duplicates: Duplicates | None = None
    skipped: int = 0
    memory: SharedImages | None = None

    @property
    def splits(self) -> dict[str, LabelledImages]:
        """Those that there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def __post_init__(self) -> None:
        train, channels = self.train, self.train.shape[0]
        for split in self.splits.values():
            if (train.shape, train.mean, train.std) != (split.shape, split.mean, split.std):
                raise UsageError(f"{self.origin}: images for training and for testing differ in shape, mean or std")
            labels = split.labels
            # Not on a GPU, which the host would wait for: the data set was made on the CPU, and checked there.
            if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
                raise UsageError(f"{self.origin}: labels must be from 0 to {self.classes - 1}, one for each class")
        if not len(train.mean) == len(train.std) == channels or min(train.std) <= 0:
            raise UsageError(f"{self.origin}: mean and std must have {channels} numbers, those of std above 0")

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def to(self, device: torch.device) -> "Dataset":
        """On another device than the CPU the images are a copy, and `memory` is let go."""
        moved = self.map(lambda split: split.to(device))
        return moved if device.type == "cpu" else dataclasses.replace(moved, memory=None)

    def map(self, change: Callable[[LabelledImages], LabelledImages]) -> "Dataset":
        """The data set with each of its splits changed."""
        validation = None if self.validation is None else change(self.validation)
        return dataclasses.replace(self, train=change(self.train), validation=validation, test=change(self.test))

    def describe(self) -> DatasetFacts:
        return DatasetFacts(
            name=self.name,
            train=len(self.train),
            test=len(self.test),
            validation=len(self.validation or ()),
            shape=self.train.shape,
            class_names=self.class_names,
            mean=self.train.mean,
            std=self.train.std,
            class_counts=self.class_counts,
            preparation=self.preparation,
            digest=self.digest,
            decoder=self.decoder,
            duplicates=self.duplicates,
            skipped=self.skipped,
        )

    @cached_property
    def class_counts(self) -> ClassCounts:
        """On a GPU, asked for the first time, the host waits for it."""
        counts = {
            name: tuple(torch.bincount(split.labels, minlength=self.classes).tolist())
            for name, split in self.splits.items()
        }
        return ClassCounts(counts["train"], counts.get("validation", ()), counts["test"])
