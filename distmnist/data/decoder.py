"""Decodes image files into memory that it is given: `python -m distmnist.data.decoder`, one of several processes.

It is started by data/decode.py, which writes a `Setting` and then lists of `Task`, one a line, to its standard input,
and reads lists of `Outcome` from its standard output, all as JSON. It ends with its input. It imports no torch, which
takes seconds.
"""

import mmap
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from distmnist.data.pixels import Pixels, examine
from distmnist.data.prepare import ImageError, Preparation, measure, prepare

AT_ONCE = 1 << 26
"""Bytes of a file that is read at once, and opened once. A larger one may be a film, of which the start is enough."""


class Setting(NamedTuple):
    """file: descriptor of memory that from byte `offset` on holds images [n, C, H, W]; any_size: see `decode`."""

    file: int
    offset: int
    preparation: Preparation
    any_size: bool


class Task(NamedTuple):
    """An image to be decoded to row number `row`. path: encoded, see os.fsencode."""

    row: int
    path: bytes


class Outcome(NamedTuple):
    """What came of a file. size: height and width of its image, if it is not that asked for; problem: why there is no
    image, in words."""

    pixels: Pixels | None = None
    size: tuple[int, int] | None = None
    problem: str | None = None


def decode(path: Path, preparation: Preparation, any_size: bool, out: np.ndarray) -> Outcome:
    """Writes the image to `out`, uint8 [C, H, W]. any_size: or else it must have that size itself."""
    try:
        source = path.read_bytes() if path.stat().st_size <= AT_ONCE else path
        if not any_size and (size := measure(source)) != (preparation.height, preparation.width):
            return Outcome(size=size)
        return Outcome(examine(prepare(source, preparation, out, any_size=any_size)))
    except ImageError as error:
        return Outcome(problem=str(error))
    except OSError as error:
        return Outcome(problem=f"cannot be read: {error.strerror}")


def serve(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The setting and the lines of tasks -> the lines of outcomes."""
    file, offset, preparation, any_size = msgspec.json.decode(next(lines), type=Setting)
    pixels = np.frombuffer(mmap.mmap(file, 0), np.uint8, offset=offset)
    images = pixels.reshape(-1, preparation.channels, preparation.height, preparation.width)
    for line in lines:
        tasks = msgspec.json.decode(line, type=list[Task])
        yield msgspec.json.encode(
            [decode(Path(os.fsdecode(path)), preparation, any_size, images[row]) for row, path in tasks]
        )


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # without a word where nobody is there any more to read an answer
    for answer in serve(iter(sys.stdin.buffer.readline, b"")):
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()
