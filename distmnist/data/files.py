"""A data set of image files: listed, decoded on all cores, and assembled."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import PIL
import torch
from torch import Tensor

from distmnist.config import TrainConfig
from distmnist.data.assemble import Split, asked_for, assemble
from distmnist.data.csv_file import list_csv
from distmnist.data.dataset import Dataset
from distmnist.data.decode import decode_files
from distmnist.data.decoder import Outcome
from distmnist.data.folder import list_directory
from distmnist.data.listing import Entry, Listing
from distmnist.data.memory import SharedImages
from distmnist.data.prepare import ImageError, Preparation, measure
from distmnist.data.splits import refuse_second_set
from distmnist.errors import UsageError
from distmnist.text import SOME, shown, some

COLOUR = 3
"""Channels unless --channels says otherwise."""


def load_files(
    path: Path, config: TrainConfig, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> Dataset:
    """The images in the folder or CSV file `path`: see `list_directory` and `list_csv`.

    Raises UsageError: what those refuse; files that cannot be decoded, unless they are to be skipped; images of several
    sizes, unless one is given; options that do not fit, before anything is decoded.
    """
    listing = list_files(path, config.test_fraction)
    if listing.validation:
        refuse_second_set(shown(path), config.val_fraction)
    for note in listing.notes:
        say(note)
    entries = [*listing.train, *listing.validation, *listing.test]
    preparation = prepared_as(config, entries)
    asked_for(config, preparation.channels)
    memory, outcomes = decode_entries(path, entries, preparation, config.image_size is not None, progress)
    skipped = report_problems(entries, outcomes, config.on_error, say)
    splits = split_up(listing, outcomes, memory.images)
    check_readable(path, listing, splits)
    return assemble(
        path.resolve().stem if path.suffix.lower() == ".csv" else path.resolve().name,
        shown(path),
        listing.class_names,
        splits,
        config,
        preparation=preparation.to_json(),
        decoder=f"Pillow {PIL.__version__}",
        skipped=skipped,
        memory=memory,
    )


def list_files(path: Path, test_fraction: float) -> Listing:
    """Raises UsageError, too, if there is neither a folder nor a CSV file."""
    if os.path.isdir(path):
        return list_directory(path, test_fraction)
    if path.suffix.lower() == ".csv":
        return list_csv(path, test_fraction)
    problem = "is neither a folder nor a .csv or .npz file" if os.path.lexists(path) else "does not exist"
    raise UsageError(
        f"--data {shown(path)} {problem}; name a folder of class folders, a .csv or .npz file, a"
        " package.module:function, or a known data set, as --data sample does: --help lists them"
    )


def prepared_as(config: TrainConfig, entries: Sequence[Entry]) -> Preparation:
    """The preparation that was asked for; without a size, that of the first image that can be read."""
    if config.image_size:
        height, _, width = config.image_size.partition("x")
        size = int(height), int(width or height)
    else:
        size = next(filter(None, map(size_of, (entry.path for entry in entries))), (1, 1))
    try:
        return Preparation(
            height=size[0], width=size[1], resize_mode=config.resize_mode, channels=config.channels or COLOUR
        )
    except ValueError as error:
        raise UsageError(f"--image-size {config.image_size}: {error}; choose a smaller one") from error


def size_of(path: Path) -> tuple[int, int] | None:
    """Height and width; None for a file that is no image."""
    try:
        return measure(path)
    except (ImageError, OSError):
        return None


def decode_entries(
    path: Path, entries: Sequence[Entry], preparation: Preparation, any_size: bool, progress: Callable[[int, int], None]
) -> tuple[SharedImages, list[Outcome]]:
    """The images, in the order of the entries, and what came of each. any_size: see `decoder.decode`."""
    paths = [entry.path for entry in entries]
    try:
        memory = SharedImages.make(len(entries), (preparation.channels, preparation.height, preparation.width))
    except UsageError as error:  # perhaps because the first image is much larger than the others
        if not any_size and (refusal := several_sizes(path, paths)):
            raise refusal from error
        raise
    outcomes = decode_files(paths, preparation, any_size, memory, lambda done: progress(done, len(entries)))
    if any(outcome.size for outcome in outcomes):
        raise several_sizes(path, paths) or UsageError(f"{shown(path)} was changed while it was read; try again")
    return memory, outcomes


def several_sizes(path: Path, files: Sequence[Path]) -> UsageError | None:
    """Says which sizes the images have; None if it is one."""
    sizes = Counter(filter(None, map(size_of, files)))
    if len(sizes) < 2:
        return None
    first, second = [f"{height}x{width} ({count:,})" for (height, width), count in sizes.most_common(2)]
    more = f" and {len(sizes) - 2:,} more" if len(sizes) > 2 else ""
    return UsageError(
        f"{shown(path)} has images of several sizes, height x width: {first}, {second}{more}; choose one with"
        " --image-size, and see --resize-mode"
    )


def report_problems(
    entries: Sequence[Entry], outcomes: Sequence[Outcome], on_error: str, say: Callable[[str], None]
) -> int:
    """How many files are to be skipped. Raises UsageError if they are not; all of them are said then, a line each."""
    problems = problems_of(entries, outcomes)
    if problems and on_error == "stop":
        raise unusable(problems, len(entries), ", or leave them out with --on-error skip", say)
    if problems:
        say(f"{len(problems):,} of {len(entries):,} image files are skipped: {some(problems)}")
    return len(problems)


def problems_of(entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> list[str]:
    """Each file that cannot be decoded, and why."""
    return [f"{entry.path} {one.problem}" for entry, one in zip(entries, outcomes, strict=True) if one.problem]


def unusable(problems: Sequence[str], files: int, advice: str, say: Callable[[str], None]) -> UsageError:
    """The error for files that cannot be decoded; where they are many, all are said, a line each."""
    for problem in problems if len(problems) > SOME else []:
        say(shown(problem))
    count = f"{len(problems):,} of {files:,} image files"
    return UsageError(f"{count} cannot be used: {some(problems)}; repair or remove them{advice}")


def split_up(listing: Listing, outcomes: Sequence[Outcome], images: Tensor) -> dict[str, Split]:
    """The images of each split, as views of all images, which are moved to close the gaps that skipped ones leave."""
    parts = {"train": listing.train, "validation": listing.validation, "test": listing.test}
    splits, source, target = {}, 0, 0
    for name, entries in parts.items():
        if not entries:
            continue
        kept, first = [], target
        for entry, outcome in zip(entries, outcomes[source : source + len(entries)], strict=True):
            if outcome.pixels:
                if target != source:
                    images[target] = images[source]
                kept.append((entry, outcome.pixels))
                target += 1
            source += 1
        splits[name] = Split(
            images[first:target],
            torch.tensor([entry.label for entry, _ in kept], dtype=torch.int64),
            [entry.name for entry, _ in kept],
            [pixels for _, pixels in kept],
        )
    return splits


def check_readable(path: Path, listing: Listing, splits: Mapping[str, Split]) -> None:
    """Raises UsageError if the files that can be read leave a split empty, or a class without training images."""
    for name, split in splits.items():
        if not len(split.labels):
            raise UsageError(f"{shown(path)}: no {name} images can be read; repair them")
    readable = set(splits["train"].labels.unique().tolist())
    if missing := [name for label, name in enumerate(listing.class_names) if label not in readable]:
        raise UsageError(f"{shown(path)}: no training images of {some(missing)} can be read; repair them")
