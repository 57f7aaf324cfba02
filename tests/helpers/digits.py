"""Small data for the tests: a few digits of the sample, and synthetic MNIST files whose sizes a test chooses."""

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distmnist.data.dataset import MNIST_MEAN, MNIST_STD, Dataset, DatasetFacts, LabelledImages
from distmnist.data.idx import IdxFile
from distmnist.data.known import load_sample
from distmnist.data.known_sets import KNOWN_SETS, KnownSet


def few_digits(train: int = 300, test: int = 120) -> Dataset:
    """The first digits of the sample, in its order."""
    sample = load_sample()
    return Dataset(
        "mnist-sample",
        "a few digits of the sample",
        sample.train.select(slice(train)),
        sample.test.select(slice(test)),
        sample.class_names,
        stratified=sample.stratified,
    )


def described(name: str, train: int, test: int) -> dict[str, Any]:
    """What JSON files say of MNIST, or of its sample, with so many digits."""
    return json.loads(json.dumps(DatasetFacts(name, train, test).to_json()))


def stored(data: Dataset) -> dict[str, Any]:
    """What JSON files say of the data set."""
    return json.loads(json.dumps(data.describe().to_json()))


def random_digits(count: int, seed: int = 0) -> LabelledImages:
    """`count` images of noise with labels of noise."""
    generator = torch.Generator().manual_seed(seed)
    return LabelledImages(
        torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator),
        torch.randint(10, (count,), generator=generator),
        MNIST_MEAN,
        MNIST_STD,
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


def published(files: dict[str, bytes], packed: bool = False) -> dict[str, IdxFile]:
    """What the table would say of `files` if they were a known set's. packed: with the MD5 of the `.gz` files."""
    table = {}
    for name, content in files.items():
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        md5 = hashlib.md5(zip_up(content) if packed else content).hexdigest()
        table[name] = IdxFile(tuple(int(n) for n in shape), md5, packed)
    return table


def made_of(option: str, files: dict[str, bytes]) -> KnownSet:
    """The known set `option`, as if `files` were it."""
    known = KNOWN_SETS[option]
    packed = any(file.packed for file in known.idx_files.values())
    return dataclasses.replace(known, files=published(files, packed), digest=None, duplicates=None)


def zip_up(content: bytes) -> bytes:
    """Always the same bytes."""
    return gzip.compress(content, mtime=0)


def arriving(files: dict[str, bytes], during: Callable[[], object] = lambda: None) -> Callable[[Path, KnownSet], None]:
    """Stands in for `download.download`: the files arrive where it is told, as torchvision leaves them.

    during: called when one of them is still missing.
    """

    def download(directory: Path, wanted: KnownSet) -> None:
        *first, last = files
        put(directory / wanted.folder, {name: files[name] for name in first})
        during()
        put(directory / wanted.folder, {last: files[last]})

    return download


def put(folder: Path, files: dict[str, bytes], *, zipped: bool = False) -> Path:
    """Writes the files into `folder`, as `.gz` if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(zip_up(content))
        else:
            (folder / name).write_bytes(content)
    return folder
