"""Small data for the tests: a few digits of the sample, and synthetic MNIST files whose sizes a test chooses."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch

from distmnist.data.dataset import Dataset, Digits
from distmnist.data.known import load_sample


def few_digits(train: int = 300, test: int = 120) -> Dataset:
    """The first digits of the sample, in its order."""
    sample = load_sample()
    return Dataset(
        "mnist-sample",
        "a few digits of the sample",
        Digits(sample.train.images[:train], sample.train.labels[:train]),
        Digits(sample.test.images[:test], sample.test.labels[:test]),
    )


def random_digits(count: int, seed: int = 0) -> Digits:
    """`count` images of noise with labels of noise."""
    generator = torch.Generator().manual_seed(seed)
    return Digits(
        torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator),
        torch.randint(10, (count,), generator=generator),
    )


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array: magic number 0x8nn for nn dimensions, big-endian shape, content."""
    return b"".join(n.to_bytes(4, "big") for n in (0x800 + array.ndim, *array.shape)) + array.tobytes()


def synthetic_files(train: int = 30, test: int = 20, seed: int = 0) -> dict[str, bytes]:
    """The names of MNIST's four files -> content with fewer digits."""
    draw = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(draw.integers(0, 256, (count, 28, 28), np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(draw.integers(0, 10, count, np.uint8))
    return files


def published(files: dict[str, bytes]) -> dict[str, tuple[tuple[int, ...], str]]:
    """What `idx.FILES` would say if `files` were MNIST: name -> shape and MD5."""
    table = {}
    for name, content in files.items():
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        table[name] = (tuple(int(n) for n in shape), hashlib.md5(content).hexdigest())
    return table


def put(folder: Path, files: dict[str, bytes], *, zipped: bool = False) -> Path:
    """Writes the files into `folder`, as `.gz` if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder
