"""Labelled images for a trained model: prepared as those that it was trained on, their classes matched by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

import PIL
import torch
from torch import Tensor

from distmnist.config import expand, is_function, is_own
from distmnist.data import known
from distmnist.data.arrays import call_function, read_npz, test_from_mapping
from distmnist.data.assemble import own_name
from distmnist.data.csv_file import find_in_csv
from distmnist.data.dataset import Dataset, DatasetFacts, LabelledImages
from distmnist.data.files import decode_entries, problems_of, unusable
from distmnist.data.folder import find_in_folder
from distmnist.data.listing import UNSPLIT, Entry, sort_classes
from distmnist.data.prepare import Preparation
from distmnist.errors import UsageError
from distmnist.text import shown, some

TO_EVALUATE = ("test", "validation", UNSPLIT, "train")
"""Splits of image files: the first that there is counts."""


def load_for(
    facts: DatasetFacts,
    data: str,
    directory: Path,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """The test images that `data`, a value of --data, names, for a model that was trained on a data set of `facts`.

    The data set has no training images. Shape, mean, std and class names are those of `facts`: nothing is computed
    anew. Of image files the test set counts; without one the validation set; without splits all images. directory:
    where known sets are kept and downloaded to. say, progress: see `sources.load`; `say` is told which images count.

    Raises UsageError, one line: images that cannot be read or have another shape, none at all, and a class that the
    model does not know.
    """
    if is_own(data) and not is_function(data) and not data.lower().endswith(".npz"):
        return from_files(facts, expand(data), say, progress)
    if not is_own(data):
        known.provide(data, directory, True, say)
        found = known.load(data, directory)
        names, images, labels = found.class_names, found.test.images, found.test.labels
        name, origin = found.name, found.origin
    else:
        path = expand(data)
        names, part = call_function(data, test_from_mapping) if is_function(data) else read_npz(path, test_from_mapping)
        images, labels = map(torch.from_numpy, part)
        name, origin = own_name(data if is_function(data) else path.stem), shown(data if is_function(data) else path)
    dataset = with_arrays(facts, name, origin, names, images, labels)
    say(f"evaluating the {len(labels):,} test images of {name if not is_own(data) else origin}")
    return dataset


def with_arrays(
    facts: DatasetFacts, name: str, origin: str, class_names: Sequence[str], images: Tensor, labels: Tensor
) -> Dataset:
    """images: uint8 [n, C, H, W]; labels: int64 [n], indices of `class_names`."""
    shape = tuple(images.shape[1:])
    if shape != facts.shape:
        found, wanted = (" x ".join(map(str, one)) for one in (shape, facts.shape))
        raise UsageError(
            f"{origin} has images of {found} (channels, height, width), and the model takes {wanted}; convert them, or"
            " name image files"
        )
    present = [class_names[label] for label in labels.unique().tolist()]
    index = numbers_of(facts, origin, present)
    mapped = torch.tensor([index.get(one, 0) for one in class_names])[labels]
    return as_test_set(facts, name, origin, images, mapped)


def from_files(
    facts: DatasetFacts, path: Path, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> Dataset:
    """The images in a folder or a CSV file, brought to the model's preparation."""
    if path.is_dir():
        found, notes = find_in_folder(path)
    elif path.suffix.lower() == ".csv":
        found, notes = find_in_csv(path), []
    else:
        problem = "is neither a folder nor a .csv or .npz file" if path.exists() else "does not exist"
        raise UsageError(
            f"--data {shown(path)} {problem}; name a folder of class folders, a .csv or .npz file, a"
            " package.module:function, or a known data set"
        )
    split = next((name for name in TO_EVALUATE if found.get(name)), None)
    if split is None:
        raise UsageError(f"{shown(path)} has no labelled images; name a folder of class folders, or a CSV file")
    files = sorted(found[split])
    for note in notes:
        say(note)
    index = numbers_of(facts, shown(path), [file.class_name for file in files])
    entries = [Entry(file.path, file.name, index[file.class_name]) for file in files]
    memory, outcomes = decode_entries(path, entries, preparation_of(facts), True, progress)
    if problems := problems_of(entries, outcomes):
        raise unusable(problems, len(entries), "", say)
    labels = torch.tensor([entry.label for entry in entries])
    name = path.resolve().stem if path.suffix.lower() == ".csv" else path.resolve().name
    which = f"the {len(files):,} {split}" if split else f"all {len(files):,}"
    say(f"evaluating {which} images of {shown(path)}")
    return as_test_set(facts, own_name(name), shown(path), memory.images, labels, f"Pillow {PIL.__version__}")


def preparation_of(facts: DatasetFacts) -> Preparation:
    """What image files are brought to for the model: its own preparation, or else its shape.

    Raises UsageError for a description that contradicts itself.
    """
    channels, height, width = facts.shape
    try:
        if facts.preparation is None:
            return Preparation(height=height, width=width, resize_mode="squash", channels=channels)
        preparation = Preparation.from_json(facts.preparation)
    except ValueError as error:
        raise UsageError(f"the model's data set has images that no file can be brought to: {error}") from error
    if (preparation.channels, preparation.height, preparation.width) != facts.shape:
        raise UsageError(f"the model's data set contradicts itself: {preparation}, shape {facts.shape}")
    return preparation


def numbers_of(facts: DatasetFacts, origin: str, names: Sequence[str]) -> dict[str, int]:
    """Class name -> the model's number for it. Raises UsageError for a name that the model does not know."""
    index = {name: number for number, name in enumerate(facts.class_names)}
    if unknown := sort_classes(set(names) - index.keys()):
        raise UsageError(
            f"{origin}: the model does not know the class {some(unknown)}; it knows {some(facts.class_names)}: rename"
            " the class, or leave its images out"
        )
    return index


def as_test_set(
    facts: DatasetFacts, name: str, origin: str, images: Tensor, labels: Tensor, decoder: str | None = None
) -> Dataset:
    """images: uint8 [n, C, H, W], of the shape in `facts`; labels: int64 [n], the model's numbers."""
    test = LabelledImages(images, labels, facts.mean, facts.std)
    none = LabelledImages(images[:0], labels[:0], facts.mean, facts.std)
    preparation = None if decoder is None else preparation_of(facts).to_json()
    return Dataset(name, origin, none, test, facts.class_names, preparation=preparation, decoder=decoder)
