"""What is measured of the pixels of one image. Imports no torch: the processes that decode use it."""

import hashlib
from typing import NamedTuple

import numpy as np


class Pixels(NamedTuple):
    """What is known of one image: the SHA-256 of its pixels, uint8 [C, H, W] in C order; and per channel the sum of its
    pixels and of their squares."""

    digest: bytes
    sums: tuple[int, ...]
    squares: tuple[int, ...]


def examine(image: np.ndarray) -> Pixels:
    """image: uint8 [C, H, W], C-contiguous."""
    flat = image.reshape(len(image), -1)
    wide = flat.astype(np.uint16)  # 255 ** 2 fits, and sums of 16 bits are quick
    squares = np.multiply(wide, wide, out=wide).sum(1, dtype=np.uint64)
    sums = flat.sum(1, dtype=np.uint64)
    return Pixels(hashlib.sha256(image.data).digest(), tuple(sums.tolist()), tuple(squares.tolist()))
