"""Labelled image files: their classes and splits, whether a folder or a CSV file lists them."""

import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distmnist.errors import UsageError
from distmnist.text import shown, some

SPLITS = {"val": "validation", "valid": "validation", "validation": "validation"}
SPLITS |= {"train": "train", "training": "train", "test": "test", "testing": "test"}
"""Name of a folder, or value in a CSV's column split, in lower case -> split. Never the name of a class folder."""

UNSPLIT = ""
"""The split of images that have none."""


@dataclass(frozen=True)
class Entry:
    """name: relative to the directory or the CSV's folder, with slashes; label: index into `Listing.class_names`."""

    path: Path
    name: str
    label: int


@dataclass(frozen=True)
class Listing:
    """Two or more classes, and the files of each split, sorted by name, code point by code point.

    Every class has training images; only `validation` may be empty. notes: lines to tell the user once.
    """

    class_names: tuple[str, ...]
    train: tuple[Entry, ...]
    validation: tuple[Entry, ...]
    test: tuple[Entry, ...]
    notes: tuple[str, ...]


class ImageFile(NamedTuple):
    """What a folder or a CSV file says of an image; name: see `Entry`."""

    name: str
    path: Path
    class_name: str


Found = dict[str, list[ImageFile]]
"""Split -> its images, in any order."""


def make_listing(source: Path, found: Found, test_fraction: float, notes: list[str]) -> Listing:
    """found: images without a split are training images, as far as they do not fall in the test set.

    Raises UsageError: a fraction that is not between 0 and 1; no images to train on; one class; class names that do not
    fit on a line; a class that only validation or test has; one that `falls_in_test` leaves without one of its sides.
    """
    where = shown(source)
    if not 0 < test_fraction < 1:
        raise UsageError(f"--test-fraction {test_fraction} is not between 0 and 1; choose 0.2, for example")
    splits = {split or "train": sorted(images) for split, images in found.items() if images}
    if "train" not in splits:
        kind = "training images" if splits else "images"
        raise UsageError(f"{where} has no {kind}; add some, or choose a folder of class folders or a CSV with --data")
    counts = Counter(image.class_name for image in splits["train"])
    class_names = sort_classes(counts)
    check_class_names(where, class_names)
    for split, images in splits.items():
        if missing := sort_classes({image.class_name for image in images} - counts.keys()):
            raise UsageError(
                f"{where}: classes in {split} but not in train: {some(missing)}; add training images of them, or"
                " correct their names"
            )
    if len(counts) == 1:
        raise UsageError(
            f"{where} has one class only, {shown(class_names[0])}; add another, or choose other data with --data"
        )
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes = [*notes, f"{where} has no test set: its validation set, {len(splits['test']):,} images, is used as one"]
    elif "test" not in splits:
        sides: dict[bool, list[ImageFile]] = {False: [], True: []}
        for image in splits["train"]:
            sides[falls_in_test(image.path, test_fraction)].append(image)
        for is_test, images in sides.items():
            if lacking := sort_classes(counts.keys() - {image.class_name for image in images}):
                raise UsageError(
                    f"{where}: --test-fraction {test_fraction} leaves no {'test' if is_test else 'training'} images of"
                    f" {some([f'{name} ({counts[name]:,} in all)' for name in lacking])}; add images, choose another"
                    " fraction, or make the split yourself"
                )
        splits["train"], splits["test"] = sides[False], sides[True]
        held_out = f"{len(sides[True]):,} of {counts.total():,} images are held out as one, chosen by their content"
        notes = [*notes, f"{where} has no test set: {held_out} (--test-fraction {test_fraction})"]
    labels = {name: label for label, name in enumerate(class_names)}
    train, validation, test = (
        tuple(Entry(path, name, labels[class_name]) for name, path, class_name in splits.get(split, []))
        for split in ("train", "validation", "test")
    )
    return Listing(tuple(class_names), train, validation, test, tuple(notes))


def falls_in_test(path: Path, test_fraction: float) -> bool:
    """Whether SHA-256(the file's bytes) / 2**256 < `test_fraction`. Raises UsageError: the file cannot be read.

    The same for every random seed and on every machine. Copies fall on one side, and added files move no others.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UsageError(f"cannot read {shown(path)}: {error.strerror}; repair or remove it") from error
    return int.from_bytes(digest, "big") < test_fraction * 2**256  # exact: the product only shifts the exponent


def objection(path: Path) -> str | None:
    """Why the file `path` cannot be read; None if it can."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not a file"
    except (OSError, ValueError) as error:  # ValueError: a null character
        return error.strerror if isinstance(error, OSError) else str(error)
    return None if os.access(path, os.R_OK) else os.strerror(errno.EACCES)


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sorted by code points, but by value if all are decimal numbers, so that 10 comes after 9."""
    names = list(names)
    if all(re.fullmatch("[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def check_class_names(source: str, names: Iterable[str]) -> None:
    """Raises UsageError for a name that is not one line of text: labels.txt has one on each line."""
    for name in names:
        if not name or {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, name)):
            raise UsageError(f"{source}: the class name '{shown(name)}' is not one line of text; rename the class")
