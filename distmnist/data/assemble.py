"""Makes a data set of labelled images that were examined."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from distmnist.config import TrainConfig
from distmnist.data import audit
from distmnist.data.dataset import RESERVED, Dataset, LabelledImages
from distmnist.data.memory import SharedImages
from distmnist.data.pixels import Pixels
from distmnist.data.splits import held_out_rows, refuse_second_set
from distmnist.errors import UsageError
from distmnist.text import shown

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, per channel."""


class Split(NamedTuple):
    """images: uint8 [n, C, H, W]; labels: int64 [n]; names and pixels: what is known of each of them."""

    images: Tensor
    labels: Tensor
    names: Sequence[str]
    pixels: Sequence[Pixels]


def assemble(
    name: str,
    origin: str,
    class_names: tuple[str, ...],
    splits: Mapping[str, Split],
    config: TrainConfig,
    *,
    preparation: dict[str, int | str] | None = None,
    decoder: str | None = None,
    skipped: int = 0,
    memory: SharedImages | None = None,
) -> Dataset:
    """The data set of these splits, train, test and perhaps validation: see `Dataset`.

    Its mean and standard deviation are those that were asked for, or those of the images that are trained on: the
    training images without the held-out ones. name: see `own_name`.
    """
    train, shape, name = splits["train"], tuple(splits["train"].images.shape[1:]), own_name(name)
    if "validation" in splits:
        refuse_second_set(name, config.val_fraction)
    kept: Sequence[int] = range(len(train.labels))
    if config.val_fraction:
        kept = held_out_rows(train.labels, config.val_fraction, stratified=True)[0].tolist()
    statistics = asked_for(config, shape[0])
    if statistics is None:
        statistics = audit.mean_and_std([train.pixels[row] for row in kept], math.prod(shape[1:]))
    items = [
        audit.Item(split, *item)
        for split, part in splits.items()
        for item in zip(part.names, part.labels.tolist(), part.pixels, strict=True)
    ]
    images = {split: LabelledImages(part.images, part.labels, *statistics) for split, part in splits.items()}
    return Dataset(
        name,
        origin,
        images["train"],
        images["test"],
        class_names,
        images.get("validation"),
        preparation=preparation,
        digest=audit.digest(items, shape, class_names),
        decoder=decoder,
        duplicates=audit.find_duplicates(items),
        skipped=skipped,
        memory=memory,
    )


def own_name(name: str) -> str:
    """The name for images of one's own, in one line: never that of a known set, which has published figures."""
    name = shown(name) or "images"  # "/" has no name
    return f"own {name}" if name in RESERVED else name


def with_mean_and_std(data: Dataset, config: TrainConfig) -> Dataset:
    """The data set, normalised as was asked for; without, as it is."""
    statistics = asked_for(config, data.train.shape[0])
    if statistics is None:
        return data
    mean, std = statistics
    return data.map(lambda split: dataclasses.replace(split, mean=mean, std=std))


def asked_for(config: TrainConfig, channels: int) -> Statistics | None:
    """The values of --mean and --std, one for each channel. Raises UsageError: another number of them, or std 0."""
    if config.mean is None or config.std is None:
        return None
    found = []
    for option, text in (("--mean", config.mean), ("--std", config.std)):
        values = tuple(map(float, text.split(",")))
        values = values * channels if len(values) == 1 else values
        if len(values) != channels:
            raise UsageError(f"{option} {text} has {len(values)} numbers; the images have {channels} channels")
        found.append(values)
    mean, std = found
    if min(std) <= 0:
        raise UsageError(f"--std {config.std} must be above 0")
    return mean, std
