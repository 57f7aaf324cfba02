"""The data set that --data names: a known one, or images of the user's own."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from distmnist.config import TrainConfig, Value, expand, from_json, is_function, is_own, lasting, option_flag
from distmnist.data import audit, known
from distmnist.data.arrays import Arrays, load_function, load_npz
from distmnist.data.assemble import Split, assemble, with_mean_and_std
from distmnist.data.dataset import Dataset, DatasetFacts
from distmnist.errors import UsageError
from distmnist.text import shown

FILE_OPTIONS = ("image_size", "channels", "resize_mode", "on_error", "test_fraction")
"""Options of image files, which nothing else has."""


def load(
    config: TrainConfig,
    directory: Path,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """The data set of `config.data`, prepared as the other options say. directory: where known sets are kept.

    say: told, a line each, what was ignored or decided on the way. progress: called with the number of image files that
    were just decoded, and with that of all. Raises UsageError, one line, where the data cannot be
    used, and known.NotFound if a known set is not there.
    """
    check_options(config)
    if not is_own(config.data):
        return with_mean_and_std(known.load(config.data, directory), config)
    if is_function(config.data):
        return from_arrays(load_function(config.data), config, config.data, config.data)
    path = expand(config.data)
    if path.suffix.lower() == ".npz":
        return from_arrays(load_npz(path), config, path.stem, str(path))
    from distmnist.data.files import load_files  # imports Pillow, which the other sources do without

    return load_files(path, config, say, progress)


def load_dataset(data: str | Path = "mnist", directory: str | Path | None = None, **options: Value) -> Dataset:
    """The data set that `data` names, as --data does: load_dataset("photos", image_size="64", channels=1).

    directory: where known sets are kept and downloaded to, by default $DISTMNIST_DATA, else ./data. options: those of
    `TrainConfig` for images, and val_fraction, whose images do not count for mean and std. Raises UsageError where the
    data set can be neither found nor downloaded, or cannot be used, and for an option that there is not.
    """
    if unknown := sorted(options.keys() - TrainConfig().options().keys()):
        raise UsageError(f"load_dataset has no option {', '.join(unknown)}; see TrainConfig")
    config = TrainConfig.of({"data": lasting(str(data))} | options)
    place = expand(str(directory or os.environ.get("DISTMNIST_DATA") or "data"))
    if not is_own(config.data):
        check_options(config)
        known.provide(config.data, place, True, lambda line: None)
    return load(config, place)


def find_dataset(
    wanted: DatasetFacts,
    options: Mapping[str, object],
    data: str | None,
    directory: Path | None,
    noted: Sequence[Path],
    purpose: str,
) -> Dataset:
    """The data set that a finished run describes, to be used again; purpose: what for, in words.

    options: the run's, as JSON has them; data: where images of the user's own are now, if not where the run had them;
    directory, noted: see `known.find_dataset`. Raises UsageError if the data set is not there or is another one.
    """
    if wanted.name in known.NAMES.values():
        return known.find_dataset(wanted, directory, noted, purpose)
    own = {name: value for name, value in options.items() if name in TrainConfig().options()}
    config = TrainConfig.of(from_json(own | ({"data": lasting(data)} if data else {})))
    if is_function(config.data) and not data:
        raise UsageError(
            f"{purpose}, which come from the function {shown(config.data)}; add --data {shown(config.data)}, because no"
            " file of a run chooses what is imported"
        )
    dataset = load(config, Path())
    if difference := dataset.describe().difference(wanted):
        raise UsageError(f"{dataset.origin}: {difference}: {purpose}; choose the right --data")
    return dataset


def from_arrays(arrays: Arrays, config: TrainConfig, name: str, origin: str) -> Dataset:
    parts = {"train": arrays.train, "validation": arrays.validation, "test": arrays.test}
    splits = {}
    for split, part in parts.items():
        if part is not None:
            images, labels = part
            names = [f"{split}[{number}]" for number in range(len(labels))]
            pixels = audit.examine_all(images)
            splits[split] = Split(torch.from_numpy(images), torch.from_numpy(labels), names, pixels)
    return assemble(name, shown(origin), arrays.class_names, splits, config)


def check_options(config: TrainConfig) -> None:
    """Raises UsageError for options of image files where there are none, and for a mean without a deviation."""
    if (config.mean is None) != (config.std is None):
        raise UsageError("--mean and --std belong together: give both or neither")
    files = is_own(config.data) and not is_function(config.data) and not config.data.lower().endswith(".npz")
    given = [name for name in FILE_OPTIONS if getattr(config, name) != getattr(TrainConfig(), name)]
    if given and not files:
        raise UsageError(
            f"{option_flag(given[0])} is for image files, and --data {shown(config.data)} has none; leave it out"
        )
