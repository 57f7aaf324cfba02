"""A data set in arrays: those of an npz file, or those that a function of the user's returns."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from distmnist.data.listing import check_class_names
from distmnist.errors import UsageError
from distmnist.importing import import_callable, told
from distmnist.text import shown, some

STYLES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
"""How the images and the labels of a split are called in Keras' mnist.npz, and in MedMNIST's files."""

T = TypeVar("T")

Part = tuple[np.ndarray, np.ndarray]
"""Images and labels of one split, see `Arrays`."""


@dataclass(frozen=True)
class Arrays:
    """Images: uint8 [n, C, H, W], C is 1 or 3, the same C, H, W in every split; labels: int64 [n].

    Both are C-contiguous and writable, as torch.from_numpy wants them: read-only ones are copied.

    There are two or more classes, numbered from 0, and each has training images. validation: None if there is none.
    """

    class_names: tuple[str, ...]
    train: Part
    validation: Part | None
    test: Part


def load_npz(path: Path) -> Arrays:
    """The data set in an npz file: see `from_mapping` for names, shapes and what is refused. No pickle is ever loaded.

    Raises UsageError, too, for a file that cannot be read as npz.
    """
    return read_npz(path, from_mapping)


def read_npz(path: Path, read: Callable[[str, Mapping[str, object]], T]) -> T:
    """What `read` makes of the name and the arrays of an npz file. Raises UsageError: see `load_npz`."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UsageError(f"{shown(path)} is not an npz file; write one with numpy.savez")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return read(shown(path), arrays)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(
            f"cannot read {shown(path)}: {error.strerror}; choose another file with --data, or --data sample"
        ) from error
    except Exception as error:  # zipfile and numpy raise many types where an archive is damaged
        raise UsageError(f"{shown(path)} is a damaged npz file: {told(error)}; write it anew") from error


def load_function(spec: str) -> Arrays:
    """The data set that `package.module:function` returns when called without arguments: see `from_mapping`.

    Raises UsageError, too, if there is no such function, or if it raises.
    """
    return call_function(spec, from_mapping)


def call_function(spec: str, read: Callable[[str, Mapping[str, object]], T]) -> T:
    """What `read` makes of the arrays that the function returns. Raises UsageError: see `load_function`."""
    function = import_callable("--data", spec)
    try:
        arrays = function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"--data {shown(spec)} raised {told(error)}; correct the function") from error
    if not isinstance(arrays, Mapping):
        raise UsageError(
            f"--data {shown(spec)} returned an object of type {type(arrays).__name__}; return a dict of train_images,"
            " train_labels, test_images and test_labels"
        )
    return read(f"--data {shown(spec)}", arrays)


def from_mapping(source: str, arrays: Mapping[str, object]) -> Arrays:
    """The data set in named arrays, or in what numpy.asarray makes arrays of. source: where from, for messages.

    Names: train_images, train_labels, test_images, test_labels, perhaps val_images and val_labels; or x_train, y_train,
    x_test, y_test, x_val, y_val. Images: uint8 [n, H, W] or [n, H, W, C], C is 1 or 3. Labels: integers from 0 on, [n]
    or [n, 1]. class_names: str [classes], by default the numbers. Other names are ignored.

    Raises UsageError, with the array's name, for everything else, and for a class without training images.
    """
    styles = [style for style in STYLES if style[0].format("train") in arrays]
    if len(styles) != 1:
        problem = "both" if styles else f"neither among its arrays {some([str(name) for name in arrays])}"
        raise UsageError(f"{source} must have either x_train or train_images, and has {problem}; rename its arrays")
    names = {split: [pattern.format(split) for pattern in styles[0]] for split in ("train", "val", "test")}
    if not any(name in arrays for name in names["val"]):
        del names["val"]
    parts = {split: _part(source, arrays, *pair) for split, pair in names.items()}
    (images, labels), (image_name, label_name) = parts["train"], names["train"]
    classes = np.unique(labels)
    gaps = np.flatnonzero(classes != np.arange(len(classes)))
    if len(gaps):
        raise UsageError(
            f"{source}: {label_name} lacks the class {gaps[0]}, but has {classes[-1]}; number the classes from 0, "
            "without gaps, and give each training images"
        )
    if len(classes) == 1:
        raise UsageError(f"{source}: {label_name} has one class only; add images of another class")
    for split, (others, other_labels) in parts.items():
        if others.shape[1:] != images.shape[1:]:
            raise UsageError(
                f"{source}: the channels, height and width of {names[split][0]} are {others.shape[1:]}, those of"
                f" {image_name} {images.shape[1:]}; make them equal"
            )
        if other_labels.max() >= len(classes):
            raise UsageError(
                f"{source}: {names[split][1]} has the class {other_labels.max()}, which {label_name} lacks; add"
                " training images of it, or correct the label"
            )
    class_names = (
        _class_names(source, arrays, len(classes)) if "class_names" in arrays else map(str, range(len(classes)))
    )
    return Arrays(tuple(class_names), parts["train"], parts.get("val"), parts["test"])


def test_from_mapping(source: str, arrays: Mapping[str, object]) -> tuple[tuple[str, ...], Part]:
    """The class names and the test images in named arrays, which need no others: see `from_mapping`.

    Without class_names the classes are called by their numbers. Raises UsageError.
    """
    styles = [style for style in STYLES if style[0].format("test") in arrays]
    if len(styles) != 1:
        problem = "both" if styles else f"neither among its arrays {some([str(name) for name in arrays])}"
        raise UsageError(f"{source} must have either x_test or test_images, and has {problem}; rename its arrays")
    image_name, label_name = (pattern.format("test") for pattern in styles[0])
    images, labels = _part(source, arrays, image_name, label_name)
    highest = int(labels.max())
    if "class_names" not in arrays:
        return tuple(map(str, range(highest + 1))), (images, labels)
    names = _class_names(source, arrays, len(_array(source, arrays, "class_names")))
    if highest >= len(names):
        raise UsageError(f"{source}: {label_name} has the class {highest}, and class_names has {len(names)}; add names")
    return tuple(names), (images, labels)


def _part(source: str, arrays: Mapping[str, object], image_name: str, label_name: str) -> Part:
    images, labels = _array(source, arrays, image_name), _array(source, arrays, label_name)
    if images.dtype != np.uint8:
        raise UsageError(f"{source}: {image_name} is {images.dtype}, not uint8; convert its pixels to 0 to 255")
    shape = images.shape if images.ndim == 4 else (*images.shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise UsageError(
            f"{source}: {image_name} has the shape {images.shape}; it must be [n, H, W] or [n, H, W, C], C is 1 or 3,"
            " and not empty"
        )
    if labels.dtype.kind not in "iu":
        raise UsageError(
            f"{source}: {label_name} is {labels.dtype}; labels must be integers, the numbers of the classes"
        )
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise UsageError(
            f"{source}: {label_name} has the shape {labels.shape}, and {image_name} has {len(images):,} images; give"
            " one label for each image"
        )
    labels = labels.reshape(-1).astype(np.int64)
    if labels.min() < 0:
        raise UsageError(f"{source}: {label_name} has the label {labels.min()}; number the classes from 0")
    return np.require(images.reshape(shape).transpose(0, 3, 1, 2), requirements=["C", "W"]), labels


def _class_names(source: str, arrays: Mapping[str, object], count: int) -> list[str]:
    names = _array(source, arrays, "class_names")
    if names.dtype.kind != "U" or names.shape != (count,) or len(set(names.tolist())) != count:
        raise UsageError(
            f"{source}: class_names is {names.dtype} {names.shape}; it must be {count} different strings, one for each"
            " class in training"
        )
    check_class_names(source, names.tolist())
    return names.tolist()


def _array(source: str, arrays: Mapping[str, object], name: str) -> np.ndarray:
    if name not in arrays:
        raise UsageError(f"{source} has no {name}; add it")
    try:
        return np.asarray(arrays[name])
    except Exception as error:  # see load_npz; and a mapping of the user's may raise anything
        raise UsageError(f"{source}: {name} cannot be read: {told(error)}; store a plain array") from error
