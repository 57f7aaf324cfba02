"""Downloads a known data set with torchvision: one process a machine, and whole sets or none appear."""

import contextlib
import io
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from distmnist.data import idx
from distmnist.data.known_files import elsewhere, find
from distmnist.data.known_sets import KNOWN_SETS, KnownSet

MIRROR_TIMEOUT = 5.0
"""Seconds without an answer. torchvision tries each mirror over https, then over http: 10 seconds a mirror."""

LOCK_SECONDS = 1800.0
"""How long one process waits while another one downloads: 170 MB, which CIFAR has, over a slow line."""


def fetch(directory: Path, say: Callable[[str], None], wanted: KnownSet) -> str | None:
    """Downloads `wanted` into `directory` if it is not there: one process a machine, the others wait at a lock.

    Returns None when the files are there, else the reason in one line. The set appears by one rename, complete and
    verified, and a missing directory with it; a download that fails leaves nothing behind. Raises UsageError if
    `directory` holds a part of the set.
    """
    if find(directory, wanted):
        return None
    if reason := elsewhere(directory, wanted) or objection(directory, wanted):
        return reason
    place = directory if directory.is_dir() else directory.parent
    try:
        with lock(place / f".{directory.name}.download.lock"), scratch(place, directory.name) as new:
            if find(directory, wanted):
                return None
            say(f"no {wanted.title} in {directory}: downloading it")
            if reason := download(new, wanted):
                return f"the download failed: {reason}"
            try:
                for name, file in wanted.idx_files.items():
                    idx.read(new / wanted.folder / wanted.on_disk(name), file, wanted.title)
            except idx.NotPublished as error:
                return f"the download is damaged: {error.problem}"
            install(new, directory, wanted)
    except Timeout:
        return f"another process has been downloading it for {LOCK_SECONDS / 60:.0f} minutes"
    except OSError as error:
        return f"{place} cannot be written: {error.strerror or error}"
    return None


def objection(directory: Path, wanted: KnownSet) -> str | None:
    """Why `wanted` may not be downloaded into `directory`; None if it may: there is nothing in it but other known data
    sets in torchvision's layout, or it can be made in its parent.

    Hidden files do not count.
    """
    if not os.path.isdir(directory):
        if os.path.lexists(directory):
            return "that is not a directory"
        return None if os.path.isdir(directory.parent) else f"{directory.parent} is not a directory"
    others = {directory / each.folder for each in KNOWN_SETS.values() if each.folder not in ("", wanted.folder)}
    archives = {directory / each.archive for each in KNOWN_SETS.values() if each.archive}
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(folder, name) not in others]
        strange = (name for name in files if not name.startswith(".") and Path(folder, name) not in archives)
        if other := next(strange, None):
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


def install(new: Path, directory: Path, wanted: KnownSet) -> None:
    """Moves the verified set in `new` to `directory` by one rename: a kill leaves all of it there, or nothing.

    Of what torchvision has left there, that is the files which are read: no archives beside what was unpacked.
    """
    arrived = new / wanted.folder
    kept = set(map(wanted.on_disk, wanted.files))
    for path in arrived.iterdir():
        if path.name not in kept:
            path.unlink()
    if wanted.archive:
        (new / wanted.archive).unlink(missing_ok=True)
    if not directory.is_dir():
        os.rename(new, directory)
        return
    target = directory / wanted.folder
    target.parent.mkdir(exist_ok=True)
    if target.is_dir():
        target.rmdir()  # it is empty: see `objection`
    os.rename(arrived, target)


def download(directory: Path, wanted: KnownSet) -> str | None:
    """torchvision's download of `wanted` into its folder below `directory`. Returns the reason if it did not come.

    torchvision compares the MD5 of what comes, and that of CIFAR's files again when they are unpacked.
    """
    from torchvision import datasets  # 1.5 s to import, needed for this and for CIFAR alone

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    try:  # torchvision reads what it has downloaded; of the warnings: see `known.read_cifar`
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            getattr(datasets, wanted.torchvision)(directory, download=True)
    except (OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    finally:
        socket.setdefaulttimeout(before)
    return None
