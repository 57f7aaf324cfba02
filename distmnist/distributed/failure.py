"""One line that says why a run failed: how it is worded, which rank prints it, and how the others learn of it."""

import contextlib
import errno
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distmnist import streams
from distmnist.distributed.launcher import parent_process
from distmnist.errors import RunError, UsageError

if TYPE_CHECKING:  # importing torch takes two seconds, which a mistyped option need not take
    from torch.distributed import Store

GRACE = 1.5
"""Seconds that the other ranks leave to rank 0 to print the line."""
PRINTING = 3.0
"""Seconds after which a rank that has undertaken to print the line counts as lost: torchrun may have ended it."""
STAGGER = 0.2
"""Seconds that each rank leaves to the one before it, so that the lowest living rank prints."""
POLL = 0.02
"""Seconds between two looks at the store."""
WRONG_PATH = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""What may be wrong with a path that its user has named, and can name otherwise."""
HOLD = 3.0
"""Seconds for which the process that printed the line keeps the others of its machine from printing theirs."""
PACKAGES = {"distmnist", "export"}
"""Folders of our own code, and of its packages."""


class PeerLost(RunError):
    """The connection to another rank broke. That rank's own failure is the cause, if it can be found."""


class Failure(NamedTuple):
    """Why a run failed, in one line; its exit code; and the ranks that are the cause, and may not be able to act."""

    text: str
    code: int = 1
    ranks: tuple[int, ...] = ()


def exit_code(error: BaseException) -> int:
    """2 for what the user can correct, 1 for any other failure."""
    wrong_path = isinstance(error, OSError) and error.filename and error.errno in WRONG_PATH
    return 2 if isinstance(error, UsageError) or wrong_path else 1


def describe(error: BaseException) -> str:
    """The error in one line. An error that is not ours is named by its type, and by the line of ours that met it."""
    text = " ".join(str(error).split())
    if isinstance(error, UsageError | RunError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_ours(frame.filename)]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text[:300]}{where}"


def is_ours(file: str) -> bool:
    """Whether the source file is one of distmnist's."""
    return not PACKAGES.isdisjoint(Path(file).parts[-3:-1])


def first_line(error: Exception) -> str:
    """The first sentence: torch's errors continue with a C++ stack trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]


def print_failure(text: str) -> None:
    """Prints the line on standard error, if that can still be written to."""
    with contextlib.suppress(streams.OutputLost):  # the exit code has to do
        streams.write(sys.stderr, f"distmnist: {text}")


def print_once_a_machine(text: str) -> None:
    """Prints the line unless another process of the same launcher printed one on this machine within `HOLD` seconds.

    For ranks that have not met: all that they have in common is their machine and their parent process. The first to
    bind a name in Linux's abstract socket namespace (unix(7)) prints. Elsewhere every process prints.
    """
    if sys.platform != "linux":
        print_failure(text)
        return
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0distmnist-failure-{os.getuid()}-{parent_process()}".encode())
        except OSError:  # in use: that process prints
            return
        print_failure(text)
        time.sleep(HOLD)


def read_failure(store: "Store") -> Failure | None:
    """The failure that a rank has reported, if one has."""
    if not store.check(["failure"]):
        return None
    text, code, ranks = json.loads(store.get("failure"))
    return Failure(text, code, tuple(ranks))


def settle(store: "Store", rank: int, failure: Failure) -> Failure:
    """Reports the failure to all ranks; the first report counts. Returns it, once one rank has printed it.

    The lowest rank that still can prints it. No rank may end before: torchrun then ends the others.
    """
    text, code, ranks = json.loads(store.compare_set("failure", "", json.dumps(failure)))
    if before := min(rank, 10) - len([cause for cause in ranks if cause < rank]):
        wait_until(lambda: store.check(["printed"]), GRACE + STAGGER * before)
    if not store.check(["printed"]) and store.add("printing", 1) == 1:
        print_failure(text)
        store.set("printed", "")
    if not wait_until(lambda: store.check(["printed"]), PRINTING) and store.add("printing again", 1) == 1:
        print_failure(text)
        store.set("printed", "")
    store.set(f"informed/{rank}", "")
    return Failure(text, code, tuple(ranks))


def all_informed(store: "Store", ranks: Iterable[int]) -> bool:
    """Whether each of the ranks has read the failure, and needs the store no more."""
    return bool(store.check([f"informed/{rank}" for rank in ranks]))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition has come true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
