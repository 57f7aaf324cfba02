"""Finds and reads MNIST, from disk or a download, and the 5,000 real digits that come with distmnist."""

import contextlib
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from distmnist.config import expand
from distmnist.data import idx
from distmnist.data.dataset import DIGITS, MNIST_MEAN, MNIST_STD, Dataset, DatasetFacts, LabelledImages
from distmnist.errors import UsageError

MIRROR_TIMEOUT = 5.0
"""Seconds without an answer. torchvision tries each mirror over https, then over http: 10 seconds a mirror."""


NAMES = {"mnist": "mnist", "sample": "mnist-sample"}
"""Value of --data -> name of the data set, in summaries and checkpoints."""

LOCK_SECONDS = 1800.0
"""How long one process waits while another one downloads: 11 MB over a slow line."""


def option_of(name: str) -> str:
    """The value of --data for the data set called `name` in a run. Raises UsageError: there is none."""
    for option, known in NAMES.items():
        if known == name:
            return option
    raise UsageError(f"the data set {name!r} is unknown; this distmnist has {', '.join(NAMES.values())}")


class NotFound(UsageError):
    """The data set is not there."""


def find(directory: Path) -> dict[str, Path] | None:
    """The four files below `directory`, in MNIST/raw/ or flat, raw before `.gz`; None if there is none of them.

    They may be called as archives call them: see `idx.published_name`.
    Raises UsageError if there are some of them.
    """
    for folder in (directory / "MNIST" / "raw", directory):
        found = {}
        for name in idx.FILES:
            names = (name, name.replace("-idx", ".idx"))
            candidates = (folder / f"{stem}{suffix}" for suffix in ("", ".gz") for stem in names)
            # os.path.isfile: Path's raises where the directory may not be read
            if path := next((c for c in candidates if os.path.isfile(c)), None):
                found[name] = path
        if missing := found and idx.FILES.keys() - found.keys():
            raise UsageError(
                f"{folder} lacks {', '.join(sorted(missing))}; add them, choose a different directory with --data-dir,"
                " or --data sample"
            )
        if found:
            return found
    return None


def elsewhere(directory: Path) -> str | None:
    """Why MNIST is not found in `directory` although it may be there: it cannot be read, or lies deeper. None: neither.

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
            if depth and (files := find(Path(folder))):
                idx.read(files["t10k-labels-idx1-ubyte"])
                return f"it is one directory too high, for the files are in {folder}"
    return None


def provide(name: str, directory: Path, chosen: bool, say: Callable[[str], None]) -> str | None:
    """Downloads the data set `name`, a value of --data, if it is neither here nor in `directory`.

    Returns why it is not there, in one line. Raises NotFound instead if the data were `chosen`: see `data_is_chosen`.
    """
    reason = None if name == "sample" else fetch(directory, say)
    if reason and chosen:
        raise not_found(directory, reason)
    return reason


def substituted(directory: Path, reason: str) -> str:
    """The warning that the sample stands in for MNIST; reason: why, as `provide` returns it."""
    return (
        f"NOT MNIST but the 5,000-digit SAMPLE is trained on, because there is no MNIST in {directory}: {reason}."
        f" For the full set put its four IDX files into {directory / 'MNIST' / 'raw'}"
    )


def not_found(directory: Path, reason: str) -> NotFound:
    return NotFound(
        f"no MNIST in {directory}: {reason}; choose a different directory with --data-dir, or --data sample"
    )


def fetch(directory: Path, say: Callable[[str], None]) -> str | None:
    """Downloads MNIST into `directory` if it is not there: one process a machine, the others wait at a lock.

    Returns None when the files are there, else the reason in one line. The set appears by one rename, complete and
    verified, and a missing directory with it; a download that fails leaves nothing behind. Raises UsageError if
    `directory` holds a part of the set.
    """
    if find(directory):
        return None
    if reason := elsewhere(directory) or objection(directory):
        return reason
    place = directory if directory.is_dir() else directory.parent
    try:
        with lock(place / f".{directory.name}.download.lock"), scratch(place, directory.name) as new:
            if find(directory):
                return None
            say(f"no MNIST in {directory}: downloading it")
            if reason := download(new):
                return f"the download failed: {reason}"
            try:
                for name in idx.FILES:
                    idx.read(new / "MNIST" / "raw" / name)
            except idx.NotMnist as error:
                return f"the download is damaged: {error.problem}"
            install(new, directory)
    except Timeout:
        return f"another process has been downloading it for {LOCK_SECONDS / 60:.0f} minutes"
    except OSError as error:
        return f"{place} cannot be written: {error.strerror or error}"
    return None


def objection(directory: Path) -> str | None:
    """Why nothing may be downloaded into `directory`; None if it may: it is empty, or can be made in its parent.

    Hidden files do not count.
    """
    if not os.path.isdir(directory):
        if os.path.lexists(directory):
            return "that is not a directory"
        return None if os.path.isdir(directory.parent) else f"{directory.parent} is not a directory"
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if other := next((name for name in files if not name.startswith(".")), None):
            return f"it holds other files, {os.path.relpath(os.path.join(folder, other), directory)} for one"
    return None


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds `path` locked; the file is gone afterwards. Raises filelock.Timeout after `LOCK_SECONDS`."""
    with FileLock(path, timeout=LOCK_SECONDS):
        try:
            yield
        finally:
            with contextlib.suppress(PermissionError):  # Windows, where the lock itself deletes it
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(place: Path, name: str) -> Iterator[Path]:
    """A directory in `place` to download into. Under the lock: what is left of such directories is of killed ones."""
    prefix = f".{name}.download-"
    for left in place.iterdir():
        if left.name.startswith(prefix):
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        (path / "data").mkdir()  # with the usual rights; mkdtemp's own directory is the owner's alone
        yield path / "data"
    finally:
        shutil.rmtree(path, ignore_errors=True)


def install(new: Path, directory: Path) -> None:
    """Moves the verified set in `new` to `directory` by one rename: a kill leaves all of it there, or nothing."""
    raw = new / "MNIST" / "raw"
    for path in raw.iterdir():
        if path.name not in idx.FILES:  # the .gz files that torchvision unpacked
            path.unlink()
    if not directory.is_dir():
        os.rename(new, directory)
        return
    target = directory / "MNIST" / "raw"
    target.parent.mkdir(exist_ok=True)
    if target.is_dir():
        target.rmdir()  # it is empty: see `objection`
    os.rename(raw, target)


def download(directory: Path) -> str | None:
    """torchvision's download of MNIST into `directory`/MNIST/raw. Returns the reason if it did not come."""
    from torchvision.datasets import MNIST  # 1.5 s to import, needed here alone

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            MNIST(directory, download=True)
    except (OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    finally:
        socket.setdefaulttimeout(before)
    return None


def load(name: str, directory: Path) -> Dataset:
    """The data set `name`, a value of --data: MNIST from `directory`, verified, or the sample.

    Raises NotFound if it is not there, and UsageError if a file of it is damaged or missing.
    """
    if name == "sample":
        return load_sample()
    files = find(directory)
    if not files:
        raise not_found(directory, elsewhere(directory) or "its four files are neither there nor in MNIST/raw")
    arrays = {file: idx.read(path) for file, path in files.items()}
    folder = next(iter(files.values())).parent
    train, test = (
        labelled(arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]) for part in ("train", "t10k")
    )
    return Dataset("mnist", f"{folder}, digests verified", train, test, DIGITS)


def load_dataset(name: str = "mnist", directory: str | Path | None = None) -> Dataset:
    """The data set `name`, a value of --data; MNIST is downloaded into `directory` if it is not there.

    directory: by default $DISTMNIST_DATA, else ./data. Raises UsageError for an unknown name, and if the data set can
    be neither found nor downloaded.
    """
    if name not in NAMES:
        raise UsageError(f"the data set {name!r} is unknown; choose from {', '.join(NAMES)}")
    place = expand(str(directory or os.environ.get("DISTMNIST_DATA") or "data"))
    provide(name, place, True, lambda _: None)
    return load(name, place)


def load_or_sample(name: str, directory: Path, chosen: bool) -> Dataset:
    """The data set `name`, or the sample if it is not there and the data were not `chosen`: see `data_is_chosen`."""
    try:
        return load(name, directory)
    except NotFound:
        if chosen:
            raise
        return load("sample", directory)


def find_dataset(wanted: DatasetFacts, directory: Path | None, noted: Sequence[Path], purpose: str) -> Dataset:
    """The data set that a finished run describes, to be used again; purpose: what for, in words.

    It must be in `directory`, or else $DISTMNIST_DATA, if that is given; otherwise it may be in any of the places that
    runs have noted, or in ./data. Nothing is downloaded or made. Raises UsageError: it is not there, or damaged, or is
    described otherwise.
    """
    dataset = _load_from(wanted.name, directory, noted, purpose)
    if difference := dataset.describe().difference(wanted):
        raise UsageError(f"{dataset.origin}: {difference}: {purpose}")
    return dataset


def _load_from(name: str, directory: Path | None, noted: Sequence[Path], purpose: str) -> Dataset:
    """The data set called `name`: see `find_dataset`."""
    option_of(name)
    if name == NAMES["sample"]:
        return load_sample()
    named = os.environ.get("DISTMNIST_DATA")
    chosen = directory or (expand(named) if named else None)
    places = [chosen] if chosen else list(dict.fromkeys([*noted, Path("data")]))
    damage = None
    for place in places:
        try:
            return load("mnist", place)
        except NotFound:
            continue
        except UsageError as error:
            damage = damage or error
    if damage:
        raise damage
    looked = ", ".join(map(str, places))
    known = next(filter(None, map(elsewhere, places)), None)
    raise NotFound(
        f"no {name} in {looked}: {purpose}{f', and {known}' if known else ''}; choose its directory with --data-dir"
    )


def load_sample() -> Dataset:
    """The embedded sample: 4,000 digits to train on and 1,000 to test on, all from MNIST's training set."""
    with np.load(Path(__file__).with_name("sample.npz")) as arrays:
        train, test = (labelled(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset("mnist-sample", "the sample that comes with distmnist", train, test, DIGITS)


def labelled(images: np.ndarray, labels: np.ndarray) -> LabelledImages:
    """images: uint8 [n, 28, 28], ink high; labels: uint8 [n]."""
    pixels = torch.from_numpy(images).unsqueeze(1)
    return LabelledImages(pixels, torch.from_numpy(labels.astype(np.int64)), MNIST_MEAN, MNIST_STD)
