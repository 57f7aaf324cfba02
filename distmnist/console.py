"""What a person sees: rank 0 speaks, through tqdm on a terminal; the others are silent."""

import contextlib
import sys
import threading

from tqdm import tqdm

from distmnist import streams


class Log:
    """Speaks. Lines go to standard output, warnings and progress bars to standard error.

    What cannot be written is lost, and training goes on: a reader that has gone costs nobody the run.
    """

    def __init__(self) -> None:
        # tqdm's own lock works across processes, for which it starts one and takes semaphores; ours need none.
        tqdm.set_lock(threading.RLock())

    def say(self, line: str = "") -> None:
        with tqdm.external_write_mode(sys.stdout), contextlib.suppress(streams.OutputLost):
            streams.say(line)

    def warn(self, line: str) -> None:
        with tqdm.external_write_mode(sys.stderr):
            streams.warn(line)

    def progress(self, name: str, total: int, done: int = 0, unit: str = "step") -> tqdm:
        """A bar of `total` steps or other units, on a terminal only."""
        hidden = sys.stderr is None or not sys.stderr.isatty()
        return tqdm(total=total, initial=done, desc=name, unit=unit, leave=False, disable=hidden, dynamic_ncols=True)


class Silence(Log):
    """Says nothing: what every rank but the first is given."""

    def say(self, line: str = "") -> None:
        pass

    def warn(self, line: str) -> None:
        pass

    def progress(self, name: str, total: int, done: int = 0, unit: str = "step") -> tqdm:
        return tqdm(disable=True)
