"""Reads one IDX file of a known data set, raw or gzipped, and believes nothing in it that it has not checked."""

import functools
import gzip
import hashlib
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distmnist.errors import UsageError

md5 = functools.partial(hashlib.md5, usedforsecurity=False)


class IdxFile(NamedTuple):
    """A file as it was published. shape: of its uint8 array, [n, H, W] for images, [n] for labels from 0 to 9.

    md5: of the file without compression; or, where `packed`, of the `.gz` file, because that is the only one known.
    """

    shape: tuple[int, ...]
    md5: str
    packed: bool = False


class NotPublished(UsageError):
    """The file is not the one that was published. problem: what is wrong with it, after its name.

    The advice is not to delete it: it may be somebody's own, of another data set with files of the same names.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}; choose a different directory with --data-dir, or --data sample")
        self.problem = f"{path.name} {problem}"


def read(path: Path, published: IdxFile, title: str) -> np.ndarray:
    """The uint8 array in `path`, gzipped if it ends in `.gz`. title: what messages call the data set.

    Raises NotPublished for anything but the published content: damaged gzip, magic number, shape, length, labels over
    9, digest. Never holds more than the published size and a byte, and unpacks nothing of a `packed` file before its
    digest is right.
    """
    shape, wrong_md5 = published.shape, f"is not {title} as published: its MD5 is not {published.md5}"
    header = b"".join(number.to_bytes(4, "big") for number in (0x800 + len(shape), *shape))
    size = len(header) + int(np.prod(shape))
    content = bytearray(size + 1)  # filled in place, and the array is a view of it: 47 MB are not held twice
    length = 0
    try:
        if published.packed:
            with path.open("rb") as packed:
                if hashlib.file_digest(packed, md5).hexdigest() != published.md5:
                    raise NotPublished(path, wrong_md5)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while count := file.readinto(memoryview(content)[length:]):
                length += count
    except (OSError, EOFError, zlib.error) as error:
        raise NotPublished(path, f"cannot be read: {error}") from error
    del content[length:]
    if length >= 4 and content[:4] != header[:4]:
        raise NotPublished(path, f"is not the IDX file it should be: magic {content[:4].hex()}, not {header[:4].hex()}")
    if length != size:
        found = f"{length}" if length < size else f"more than {size}"
        raise NotPublished(path, f"holds {found} bytes, not {size}")
    if content[: len(header)] != header:
        raise NotPublished(path, f"announces another shape than {shape}")
    array = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    if len(shape) == 1 and array.max() > 9:
        raise NotPublished(path, f"holds the label {array.max()}, and {title}'s are 0 to 9")
    if not published.packed and md5(content).hexdigest() != published.md5:
        raise NotPublished(path, wrong_md5)
    return array
