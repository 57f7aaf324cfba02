"""Lines for people, on streams that may be closed, full, in a narrow encoding, or a pipe that nobody reads any more."""

import contextlib
import os
import sys
from typing import TextIO

from distmnist.errors import RunError


class OutputLost(RunError):
    """A line could not be written. code: the exit code of a command that is otherwise done, 0 if nobody reads on.

    A command that trains goes on in silence, its results being files. One that is there for its output says so in one
    line, but not of a closed pipe: `| head` has enough.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"standard output cannot be written: {getattr(error, 'strerror', None) or error}")
        self.code = int(not isinstance(error, BrokenPipeError))
        self.printed = self.code == 0


def say(line: str = "") -> None:
    """Writes a line to standard output, and out of its buffer. Raises OutputLost."""
    write(sys.stdout, line)


def warn(line: str) -> None:
    """Writes a warning to standard error; one that cannot be written is lost, for there is no other place for it."""
    with contextlib.suppress(OutputLost):
        write(sys.stderr, f"WARNING: {line}")


def write(stream: TextIO | None, line: str) -> None:
    """Writes a line; what the stream's encoding lacks is escaped. stream: None if it was closed before Python began.

    Raises OutputLost.
    """
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: closed
        raise OutputLost(error) from error


def settle() -> None:
    """Empties the buffers of both streams at the end of the process; what cannot be written is thrown away.

    Otherwise the interpreter would try once more, complain, and change the exit code to 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # closed, or no file: the interpreter does not flush it
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
