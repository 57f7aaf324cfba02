"""Finds the files of a known data set on disk, and says why they are not where they were looked for."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from distmnist.data import idx
from distmnist.data.known_sets import KNOWN_SETS, TEST_LABELS, KnownSet
from distmnist.errors import UsageError


def find(directory: Path, wanted: KnownSet) -> dict[str, Path] | None:
    """The files of `wanted` below `directory`, by their names in the table; None if there is none of them.

    They lie in the set's folder. IDX files may lie in `directory` itself, too, and be called otherwise: see
    `spellings`. Several sets give their IDX files the same names, so those in `directory` itself are not the wanted
    ones if the MD5 of the test labels is that of another set. Raises UsageError if some of the files are missing.
    """
    for folder in (directory / wanted.folder, *([directory] if wanted.idx_files else [])):
        found = {}
        for name in wanted.files:
            candidates = (folder / spelling for spelling in spellings(wanted, name))
            # os.path.isfile: Path's raises where the directory may not be read
            if path := next((c for c in candidates if os.path.isfile(c)), None):
                found[name] = path
        if folder == directory and TEST_LABELS in found and is_of_another(found[TEST_LABELS], wanted):
            continue
        if missing := found and wanted.files.keys() - found.keys():
            raise UsageError(
                f"{folder} lacks {', '.join(sorted(map(wanted.on_disk, missing)))}; add them, choose a different"
                " directory with --data-dir, or --data sample"
            )
        if found:
            return found
    return None


def spellings(wanted: KnownSet, name: str) -> Iterator[str]:
    """What the file `name` of `wanted` may be called: raw before `.gz`, and as archives call IDX files when unpacked,
    train-images.idx3-ubyte."""
    file = wanted.files[name]
    if file is None:
        yield name
        return
    for suffix in (".gz",) if file.packed else ("", ".gz"):
        for stem in (name, name.replace("-idx", ".idx")):
            yield stem + suffix


def is_of_another(labels: Path, wanted: KnownSet) -> bool:
    """Whether these are the test labels of a known set that is not `wanted`."""
    return any(is_published(labels, other) for other in KNOWN_SETS.values() if other.name != wanted.name)


def is_published(labels: Path, wanted: KnownSet) -> bool:
    """Whether these are the test labels of `wanted`; False if it has no IDX files."""
    file = wanted.files.get(TEST_LABELS)
    if file is None:
        return False
    try:
        idx.read(labels, file, wanted.title)
    except idx.NotPublished:
        return False
    return True


def elsewhere(directory: Path, wanted: KnownSet) -> str | None:
    """Why `wanted` is not found in `directory` although it may be there: it cannot be read, or lies deeper. None:
    neither.

    Three levels are looked into: as deep as MNIST/raw in the directory beside.
    """
    try:
        os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    for folder, folders, _ in os.walk(directory):
        depth = len(Path(folder).relative_to(directory).parts)
        folders[:] = [] if depth == 3 else sorted(name for name in folders if not name.startswith("."))
        with contextlib.suppress(UsageError):  # other data sets have files of the same names
            files = find(Path(folder), wanted) if depth else None
            if files and (not wanted.idx_files or is_published(files[TEST_LABELS], wanted)):
                return f"it is one directory too high, for the files are in {folder}"
    return None
