"""Reads one IDX file of MNIST, raw or gzipped, and believes nothing in it that it has not checked."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from distmnist.errors import UsageError

FILES = {
    "train-images-idx3-ubyte": ((60_000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ((60_000,), "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ((10_000, 28, 28), "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ((10_000,), "27ae3e4e09519cfbb04c329615203637"),
}
"""name -> shape and the MD5 of the uncompressed file: MNIST as Y. LeCun, C. Cortes and C. J. C. Burges published it."""


def published_name(name: str) -> str:
    """The name in `FILES` of a file that may be called otherwise: gzipped, or train-images.idx3-ubyte, as unpacked."""
    return name.removesuffix(".gz").replace(".idx", "-idx")


class NotMnist(UsageError):
    """The file is not the one that was published. problem: what is wrong with it, after its name.

    The advice is not to delete it: it may be somebody's own, of another data set with files of the same names.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}; choose a different directory with --data-dir, or --data sample")
        self.problem = f"{path.name} {problem}"


def read(path: Path) -> np.ndarray:
    """The uint8 array in `path`, a file of `FILES`, gzipped if it ends in `.gz`: see `published_name`.

    Raises NotMnist for anything but the published content: damaged gzip, magic number, shape, length, labels over
    9, digest. Never holds more than the published size and a byte.
    """
    shape, md5 = FILES[published_name(path.name)]
    header = b"".join(number.to_bytes(4, "big") for number in (0x800 + len(shape), *shape))
    size = len(header) + int(np.prod(shape))
    content = bytearray(size + 1)  # filled in place, and the array is a view of it: 47 MB are not held twice
    length = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while count := file.readinto(memoryview(content)[length:]):
                length += count
    except (OSError, EOFError, zlib.error) as error:
        raise NotMnist(path, f"cannot be read: {error}") from error
    del content[length:]
    if length >= 4 and content[:4] != header[:4]:
        raise NotMnist(path, f"is not the IDX file it should be: magic {content[:4].hex()}, not {header[:4].hex()}")
    if length != size:
        found = f"{length}" if length < size else f"more than {size}"
        raise NotMnist(path, f"holds {found} bytes, not {size}")
    if content[: len(header)] != header:
        raise NotMnist(path, f"announces another shape than {shape}")
    array = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    if len(shape) == 1 and array.max() > 9:
        raise NotMnist(path, f"holds the label {array.max()}, and MNIST's are 0 to 9")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise NotMnist(path, f"is not MNIST as published: its MD5 is not {md5}")
    return array
