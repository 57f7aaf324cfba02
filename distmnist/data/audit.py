"""What is found out about images before training: their digest and statistics, duplicates, and uneven classes."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import numpy as np

from distmnist.data.dataset import Dataset, Duplicates
from distmnist.data.pixels import Pixels, examine
from distmnist.machine import usable_cores
from distmnist.text import shown, some

EXAMPLES = 3
"""Pairs of duplicates that are named."""

FEW, IMBALANCE = 2, 10
"""A class with fewer training images, and classes of which the largest has so many times the images of the smallest,
are spoken of."""


BLOCK = 256
"""Images that a thread examines at a time: a small image takes less than to hand it to a thread."""


class Item(NamedTuple):
    """One labelled image. name: relative to the data set; where images have none, split[number]."""

    split: str
    name: str
    label: int
    pixels: Pixels


def examine_all(images: np.ndarray) -> list[Pixels]:
    """images: uint8 [n, C, H, W]. On all cores: hashing and adding release the interpreter's lock."""
    blocks = [images[start : start + BLOCK] for start in range(0, len(images), BLOCK)]
    with ThreadPoolExecutor(usable_cores()) as threads:
        return list(chain.from_iterable(threads.map(lambda block: list(map(examine, block)), blocks)))


def digest(items: Iterable[Item], shape: Sequence[int], class_names: Sequence[str]) -> str:
    """SHA-256, in hexadecimal, over the shape of the images, and in order over the split, name and class of each and
    the digest of its pixels."""
    whole = hashlib.sha256(repr(tuple(shape)).encode())
    for item in items:
        words = "\0".join((item.split, item.name, class_names[item.label], ""))
        whole.update(words.encode(errors="surrogatepass") + item.pixels.digest)
    return whole.hexdigest()


def mean_and_std(pixels: Iterable[Pixels], numbers: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, over all pixels of the images scaled to 0..1, from exact sums of integers. numbers: pixels an image.

    A channel that is constant has the standard deviation 1.
    """
    count, sums, squares = 0, [0] * 4, [0] * 4
    for one in pixels:
        count += numbers
        for channel, (first, second) in enumerate(zip(one.sums, one.squares, strict=True)):
            sums[channel] += first
            squares[channel] += second
        channels = len(one.sums)
    mean = tuple(total / (255 * count) for total in sums[:channels])
    variances = [count * square - total**2 for square, total in zip(squares, sums, strict=True)]
    std = tuple(math.sqrt(each) / (255 * count) if each else 1.0 for each in variances[:channels])
    return mean, std


def find_duplicates(items: Sequence[Item]) -> Duplicates:
    """The images that are in training and in another split, and those with more than one label.

    The names are `shown`: they go into JSON files, which hold no undecodable bytes.
    """
    groups: defaultdict[bytes, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.pixels.digest].append(item)
    leaks, contradictions = [], []
    for group in groups.values():
        first = next((item for item in group if item.split == "train"), None)
        leaks += [(first, item) for item in group if first and item.split != "train"]
        other = next((item for item in group if item.label != group[0].label), None)
        contradictions += [(group[0], other)] if other else []
    named = [pair for kind in (leaks, contradictions) for pair in kind[:EXAMPLES]]
    examples = dict.fromkeys(
        (shown(one.name), shown(other.name)) for one, other in named
    )  # a pair may be of both kinds
    return Duplicates(len(leaks), len(contradictions), tuple(examples))


def warnings(data: Dataset) -> list[str]:
    """What the user should know before training, each in one line with what follows from it."""
    lines, counts = [], data.class_counts
    if (found := data.duplicates) and (found.across_splits or found.two_labels):
        pairs = "; ".join(f"{one} = {other}" for one, other in found.examples)
        lines.append(
            f"images with the same pixels: {found.across_splits:,} for testing or validation are training images as"
            f" well, {found.two_labels:,} have two labels ({pairs}); the test figures are better than they should be,"
            " or worse: remove the copies"
        )
    if few := [name for name, count in zip(data.class_names, counts.train, strict=True) if count < FEW]:
        lines.append(f"fewer than {FEW} training images of {some(few)}: expect no good figures of them")
    if lacking := [name for name, count in zip(data.class_names, counts.test, strict=True) if not count]:
        lines.append(f"no test images of {some(lacking)}: the test figures say nothing of them")
    smallest, largest = min(counts.train), max(counts.train)
    if largest >= IMBALANCE * max(smallest, 1):
        lines.append(
            f"the classes have from {smallest:,} to {largest:,} training images: look at the balanced accuracy, and"
            " consider --class-weights balanced"
        )
    return lines
