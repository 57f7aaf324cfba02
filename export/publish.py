"""Puts a proved folder in its place, so that a kill at any moment loses neither it nor the export that was there.

While an export to OUTPUT runs there is a hidden folder beside it, or in it where nothing can be made beside it:

    .OUTPUT-XXXXXXXX/.distmnist-export     a lock, held by the process: whoever can take it knows that it is gone
    .OUTPUT-XXXXXXXX/new                   the folder that is made
    .OUTPUT-XXXXXXXX/old                   the export that was there, between two renames

The next export to OUTPUT finishes, or clears away, what killed ones have left.
"""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from distmnist.checkpoint.storage import sync_directory, write_atomically
from distmnist.errors import RunError, UsageError

from . import folder
from .folder import MANIFEST

LOCK, NEW, OLD = ".distmnist-export", "new", "old"

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `output` at the end of the block, if that ends well.

    A directory that cannot be replaced, because it is a mount point or this process is in it, is given the files
    instead, parity.json last. Raises UsageError if `output` is there and is no export, or cannot be written.
    """
    check_directory(output)
    target = output.resolve()  # "." has no name, and no parent
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            recover(target)
            check_replaceable(output)
            staged = stack.enter_context(workplace(target)) / NEW
            staged.mkdir()
        except OSError as error:
            raise UsageError(
                f"--output {output} cannot be written: {error.strerror}; choose a different directory"
            ) from error
        try:
            yield staged
            check_replaceable(output)
            publish(staged, target)
        except OSError as error:
            raise RunError(
                f"{output} cannot be written: {error.strerror or error}; what was there before is whole"
            ) from error


def check_directory(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"--output {output} is not a directory; choose a different one")


def check_replaceable(output: Path) -> None:
    check_directory(output)
    if not output.is_dir() or (output / MANIFEST).is_file():
        return
    if any(not is_work(path, output.resolve()) for path in output.iterdir()):
        raise UsageError(
            f"--output {output} holds other files than an export (no {MANIFEST}); choose a different directory"
        )


def is_work(path: Path, target: Path) -> bool:
    """Whether `path` is a hidden folder of an export to `target`: by its name, and by all that is in it."""
    if not path.name.startswith(f".{target.name}-") or path.is_symlink() or not path.is_dir():
        return False
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:  # somebody else's
        return False
    return not names or (LOCK in names and names <= {LOCK, NEW, OLD})


@contextlib.contextmanager
def workplace(target: Path, inside: bool = False) -> Iterator[Path]:
    """A locked hidden folder beside `target`; in it if so asked, or if nothing can be made beside it."""
    if target.is_dir():  # read-only, it could not be given the files: say so before the proof
        tempfile.TemporaryFile(dir=target).close()
    if not inside:
        try:
            work, lock = occupy(target.parent, target)
        except OSError as error:
            if error.errno not in UNWRITABLE or not target.is_dir():
                raise
            inside = True
    if inside:
        work, lock = occupy(target, target)
    try:
        yield work
    finally:
        settle(work, target)
        lock.release()


def occupy(place: Path, target: Path) -> tuple[Path, FileLock]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=place))
        lock = FileLock(work / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError):
            continue  # another export took it for a dead one's, in the moment before it was locked
        return work, lock


def recover(target: Path) -> None:
    """Finishes, or clears away, what killed exports to `target` have left."""
    for place in (target.parent, target):
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            continue  # it is not there, or nothing in it can be changed
        for work in sorted(path for path in place.iterdir() if is_work(path, target)):
            with contextlib.suppress(Timeout, FileNotFoundError), FileLock(work / LOCK, timeout=0):
                settle(work, target)  # unless it is in use, or another export has just cleared it away


def settle(work: Path, target: Path) -> None:
    """Removes `work`. Before that, has a whole export be at `target` if there is one in `work` and not there."""
    new, old = work / NEW, work / OLD
    if work.parent == target:
        if (new / MANIFEST).is_file():
            finish(new, target)
    elif not target.exists():
        if is_whole(new):
            os.rename(new, target)
        elif old.is_dir():
            os.rename(old, target)
    for part in (new, old):
        shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):  # the lock, last: without it the folder would not be known for ours
        (work / LOCK).unlink(missing_ok=True)
        work.rmdir()


def is_whole(new: Path) -> bool:
    try:
        return not folder.read(new)[1]
    except UsageError:
        return False


def publish(new: Path, target: Path) -> None:
    """Has the folder `new` be at `target`, durably."""
    sync_files(new)
    if not target.exists():
        os.rename(new, target)
    elif new.is_relative_to(target) or is_here(target):
        put_inside(new, target)
    else:
        try:
            replace(new, target)
        except OSError as error:
            # A mount point, or a directory of a lower layer of an overlay.
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            put_inside(new, target)
    sync_directory(target.parent)


def is_here(target: Path) -> bool:
    """Whether this process is in `target`, and so perhaps the shell: it would be left in a directory without a name."""
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:
        return False


def replace(new: Path, target: Path) -> None:
    """Puts `new` in the place of `target`, in one step where the system has it.

    Elsewhere a kill between two steps leaves both in the hidden folder, from where `settle` takes `new`.
    """
    if exchange(new, target):
        return
    old = new.with_name(OLD)
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Lets two directories change places in one step. False where the system or the file system has no such step."""
    at_fdcwd, rename_exchange = -100, 2  # linux/fcntl.h, linux/fs.h
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # since glibc 2.28
    if renameat2 is None:
        return False
    if renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def put_inside(new: Path, target: Path) -> None:
    """Puts the files of `new` into the directory `target`, which stays the same one."""
    if new.is_relative_to(target):
        finish(new, target)
        return
    with workplace(target, inside=True) as work:  # copies: the other file system may be full, or slow
        copy = work / NEW
        shutil.copytree(new, copy, ignore=lambda _, names: {MANIFEST} & set(names))
        sync_files(copy)
        write_atomically(copy / MANIFEST, (new / MANIFEST).read_bytes())  # last: the copy is complete
        finish(copy, target)


def finish(new: Path, target: Path) -> None:
    """Moves the files of the complete export `new` into `target`, and takes those of an earlier export away.

    parity.json comes last: until then `target` is not what its parity.json says, and this can be done again.
    """
    names = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, target / name)
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    for name in (listed(target) - listed(new)) & there:  # `there`: a manifest could name anything
        path = target / name
        path.unlink()
        for parent in path.relative_to(target).parents[:-1]:
            if not any((target / parent).iterdir()):
                (target / parent).rmdir()
    os.replace(new / MANIFEST, target / MANIFEST)
    sync_directory(target)


def listed(where: Path) -> set[str]:
    """The names of the files in a manifest; none if it cannot be read."""
    try:
        return set(json.loads((where / MANIFEST).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def sync_files(where: Path) -> None:
    for path in where.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
