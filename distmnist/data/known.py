"""A known data set, read and verified: MNIST and others that torchvision downloads, or the sample of MNIST.

known_sets.py has the table, known_files.py finds the files, download.py gets them.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from distmnist.config import expand
from distmnist.data import audit, idx
from distmnist.data.dataset import Dataset, DatasetFacts, LabelledImages
from distmnist.data.download import fetch, objection
from distmnist.data.known_files import elsewhere, find
from distmnist.data.known_sets import (
    KNOWN_SETS,
    NAMES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    KnownSet,
    known_set,
    option_of,
)
from distmnist.errors import UsageError

__all__ = [
    "KNOWN_SETS",
    "NAMES",
    "KnownSet",
    "NotFound",
    "elsewhere",
    "fetch",
    "find",
    "find_dataset",
    "known_set",
    "load",
    "load_or_sample",
    "load_sample",
    "not_found",
    "objection",
    "option_of",
    "provide",
    "sample_may_replace",
    "substituted",
]


class NotFound(UsageError):
    """The data set is not there."""


def provide(name: str, directory: Path, chosen: bool, say: Callable[[str], None]) -> str | None:
    """Downloads the data set `name`, a value of --data, if it is neither here nor in `directory`.

    Returns why it is not there, in one line. Raises NotFound instead unless the sample may replace it.
    """
    wanted = known_set(name)
    reason = None if name == "sample" else fetch(directory, say, wanted)
    if reason and not sample_may_replace(name, chosen):
        raise not_found(directory, reason, wanted)
    return reason


def sample_may_replace(name: str, chosen: bool) -> bool:
    """Whether the sample stands in for the data set `name` if that cannot be had: for MNIST, where the data were not
    `chosen`: see `config.data_is_chosen`."""
    return name == "mnist" and not chosen


def substituted(directory: Path, reason: str) -> str:
    """The warning that the sample stands in for MNIST; reason: why, as `provide` returns it."""
    return (
        f"NOT MNIST but the 5,000-digit SAMPLE is trained on, because there is no MNIST in {directory}: {reason}."
        f" For the full set put its four IDX files into {directory / KNOWN_SETS['mnist'].folder}"
    )


def not_found(directory: Path, reason: str, wanted: KnownSet) -> NotFound:
    return NotFound(
        f"no {wanted.title} in {directory}: {reason}; choose a different directory with --data-dir, or --data sample"
    )


def load(name: str, directory: Path) -> Dataset:
    """The data set `name`, a value of --data: from `directory`, verified, or the sample.

    Raises NotFound if it is not there, and UsageError if a file of it is damaged or missing.
    """
    if name == "sample":
        return load_sample()
    wanted = known_set(name)
    files = find(directory, wanted)
    if not files:
        raise not_found(directory, elsewhere(directory, wanted) or not_there(wanted), wanted)
    folder = next(iter(files.values())).parent
    train, test = read_idx(files, wanted) if wanted.idx_files else read_cifar(directory, wanted)
    return described(wanted, f"{folder}, digests verified", train, test)


def not_there(wanted: KnownSet) -> str:
    if not wanted.idx_files:
        return f"there is no {wanted.folder}"
    kind = "four .gz files" if any(file.packed for file in wanted.idx_files.values()) else "four files"
    return f"its {kind} are neither there nor in {wanted.folder}"


def read_idx(files: dict[str, Path], wanted: KnownSet) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images, uint8 [n, 1, 28, 28], of a set of IDX files. Raises UsageError: see `idx.read`."""
    arrays = {name: idx.read(files[name], file, wanted.title) for name, file in wanted.idx_files.items()}
    train = labelled(arrays[TRAIN_IMAGES][:, None], arrays[TRAIN_LABELS], wanted)
    return train, labelled(arrays[TEST_IMAGES][:, None], arrays[TEST_LABELS], wanted)


def read_cifar(directory: Path, wanted: KnownSet) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images, uint8 [n, 3, 32, 32], of CIFAR-10 or CIFAR-100 below `directory`, by torchvision.

    torchvision compares the MD5 of every file with the published one before it unpickles any. Raises UsageError if one
    differs or cannot be read.
    """
    from torchvision import datasets  # 1.5 s to import

    source = getattr(datasets, wanted.torchvision)
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy's, of how CIFAR's pickles describe their arrays
            parts = [source(directory, train=train) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        published = f"is not {wanted.title} as published: the MD5 of a file differs"
        problem = f"cannot be read: {error}" if isinstance(error, OSError) else published
        raise UsageError(
            f"{directory / wanted.folder} {problem}; choose a different directory with --data-dir, or --data sample"
        ) from error
    for part in parts:
        assert tuple(part.classes) == wanted.class_names, "the verified file of the names says so"
    train, test = (labelled(part.data.transpose(0, 3, 1, 2), np.array(part.targets), wanted) for part in parts)
    return train, test


def load_sample() -> Dataset:
    """The embedded sample: 4,000 digits to train on and 1,000 to test on, all from MNIST's training set."""
    wanted = KNOWN_SETS["sample"]
    with np.load(Path(__file__).with_name("sample.npz")) as arrays:
        train, test = (
            labelled(arrays[f"{part}_images"][:, None], arrays[f"{part}_labels"], wanted) for part in ("train", "test")
        )
    return described(wanted, "the sample that comes with distmnist", train, test)


def labelled(images: np.ndarray, labels: np.ndarray, wanted: KnownSet) -> LabelledImages:
    """images: uint8 [n, C, H, W]; labels: integers [n]."""
    pixels, classes = torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    return LabelledImages(pixels, classes, wanted.mean, wanted.std)


def described(wanted: KnownSet, origin: str, train: LabelledImages, test: LabelledImages) -> Dataset:
    """The data set with its digest and duplicates: from the table, or else computed, which takes 4 s for 70,000 images
    on 2 cores."""
    dataset = Dataset(
        wanted.name,
        origin,
        train,
        test,
        wanted.class_names,
        stratified=wanted.stratified,
        digest=wanted.digest,
        duplicates=wanted.duplicates,
    )
    return dataset if wanted.digest else examined(dataset)


def examined(dataset: Dataset) -> Dataset:
    """The data set with its digest and duplicates, computed; the images are called train[0], train[1], ..., test[0]."""
    items = [
        audit.Item(split, f"{split}[{number}]", label, pixels)
        for split, part in dataset.splits.items()
        for number, (label, pixels) in enumerate(
            zip(part.labels.tolist(), audit.examine_all(part.images.numpy()), strict=True)
        )
    ]
    digest = audit.digest(items, dataset.train.shape, dataset.class_names)
    return dataclasses.replace(dataset, digest=digest, duplicates=audit.find_duplicates(items))


def load_or_sample(name: str, directory: Path, chosen: bool) -> Dataset:
    """The data set `name`, or the sample if it is not there and that may replace it: see `sample_may_replace`."""
    try:
        return load(name, directory)
    except NotFound:
        if not sample_may_replace(name, chosen):
            raise
        return load("sample", directory)


def find_dataset(wanted: DatasetFacts, directory: Path | None, noted: Sequence[Path], purpose: str) -> Dataset:
    """The data set that a finished run describes, normalised as it was there; purpose: what for, in words.

    It must be in `directory`, or else $DISTMNIST_DATA, if that is given; otherwise it may be in any of the places that
    runs have noted, or in ./data. Nothing is downloaded or made. Raises UsageError: it is not there, or damaged, or is
    described otherwise.
    """
    found = _load_from(wanted.name, directory, noted, purpose)
    dataset = found.map(lambda split: dataclasses.replace(split, mean=wanted.mean, std=wanted.std))
    if difference := dataset.describe().difference(wanted):
        raise UsageError(f"{dataset.origin}: {difference}: {purpose}")
    return dataset


def _load_from(name: str, directory: Path | None, noted: Sequence[Path], purpose: str) -> Dataset:
    """The data set called `name`: see `find_dataset`."""
    option = option_of(name)
    if option == "sample":
        return load_sample()
    named = os.environ.get("DISTMNIST_DATA")
    chosen = directory or (expand(named) if named else None)
    places = [chosen] if chosen else list(dict.fromkeys([*noted, Path("data")]))
    damage = None
    for place in places:
        try:
            return load(option, place)
        except NotFound:
            continue
        except UsageError as error:
            damage = damage or error
    if damage:
        raise damage
    looked = ", ".join(map(str, places))
    known = next(filter(None, (elsewhere(place, KNOWN_SETS[option]) for place in places)), None)
    raise NotFound(
        f"no {name} in {looked}: {purpose}{f', and {known}' if known else ''}; choose its directory with --data-dir"
    )
