"""Finds, reads and holds the digits: MNIST from disk or a download, else the 5,000 real digits that come along.

Digits stay in memory as uint8 and are normalised a batch at a time on the device. Your data: edit this file.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from distmnist import idx
from distmnist.config import UsageError
from distmnist.seeds import generator

MEAN, STD = 0.1307, 0.3081
"""Of MNIST's training pixels scaled to 0..1, as the published work rounds them."""

MIRROR_TIMEOUT = 5.0
"""Seconds without an answer. torchvision tries each mirror over https, then over http: 10 seconds a mirror."""


@dataclasses.dataclass(frozen=True)
class Digits:
    """images: uint8 [n, 28, 28], ink high; labels: int64 [n], 0 to 9; both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Digits":
        return Digits(self.images.to(device), self.labels.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices, int64 [b], on the digits' device -> normalised images, float32 [b, 1, 28, 28], and labels [b]."""
        return normalise(self.images.index_select(0, indices)), self.labels.index_select(0, indices)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """name: "mnist" or "mnist-sample"; origin: where it came from, for people."""

    name: str
    origin: str
    train: Digits
    test: Digits

    def to(self, device: torch.device) -> "Dataset":
        return dataclasses.replace(self, train=self.train.to(device), test=self.test.to(device))

    def describe(self) -> dict[str, str | int]:
        """What summary.json and the snapshots say of it."""
        return {"name": self.name, "train": len(self.train), "test": len(self.test)}


def normalise(images: Tensor) -> Tensor:
    """Pixels, uint8 [n, 28, 28] -> float32 [n, 1, 28, 28]: divided by 255, then by the published mean and deviation.

    The same three operations, in the same order, as torchvision's ToTensor and Normalize: equal bit for bit.
    """
    return images.unsqueeze(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def hold_out(train: Digits, fraction: float) -> tuple[Digits, Digits]:
    """Splits `fraction` of the training digits off for validation: the same digits whatever the random seed."""
    count = round(fraction * len(train))
    if fraction and not 0 < count < len(train):
        raise UsageError(f"--val-fraction {fraction} of {len(train)} training digits leaves one side empty")
    order = torch.randperm(len(train), generator=generator("held out"))
    held, kept = (part.sort().values.to(train.labels.device) for part in (order[:count], order[count:]))
    return Digits(train.images[kept], train.labels[kept]), Digits(train.images[held], train.labels[held])


def find(directory: Path) -> dict[str, Path] | None:
    """The four files below `directory`, in MNIST/raw/ or flat, raw before `.gz`; None if there is none of them."""
    for folder in (directory / "MNIST" / "raw", directory):
        found = {}
        for name in idx.FILES:
            candidates = (folder / name, folder / f"{name}.gz")
            if path := next((c for c in candidates if c.is_file()), None):
                found[name] = path
        if missing := found and idx.FILES.keys() - found.keys():
            raise UsageError(f"{folder} lacks {', '.join(sorted(missing))}; add them, or delete the others to download")
        if found:
            return found
    return None


def fetch(directory: Path, say: Callable[[str], None]) -> str | None:
    """Downloads MNIST into `directory` if it is not there: one process a machine, the others wait at a lock.

    Returns None when the files are there, else the reason in one line. UsageError: the directory cannot be written.
    """
    if find(directory):
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".download.lock"), temporary_directory(directory) as scratch:
            if find(directory):
                return None
            say(f"no MNIST in {directory}: downloading it")
            if reason := download(scratch):
                return reason
            raw = directory / "MNIST" / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            for name in idx.FILES:
                idx.read(scratch / "MNIST" / "raw" / name)
                os.replace(scratch / "MNIST" / "raw" / name, raw / name)
    except OSError as error:
        raise UsageError(
            f"--data-dir {directory} cannot be written: {error.strerror or error}; name another"
        ) from error
    return None


@contextlib.contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=".download-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def download(directory: Path) -> str | None:
    """torchvision's download of MNIST into `directory`/MNIST/raw. Returns the reason if it did not come."""
    from torchvision.datasets import MNIST  # 1.5 s to import, needed here alone

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            MNIST(directory, download=True)
    except (OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    finally:
        socket.setdefaulttimeout(before)
    return None


def load(directory: Path) -> Dataset:
    """MNIST from `directory`, verified, or the sample where it is not there."""
    if files := find(directory):
        arrays = {name: idx.read(path) for name, path in files.items()}
        folder = next(iter(files.values())).parent
        train, test = (
            digits(arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"])
            for part in ("train", "t10k")
        )
        return Dataset("mnist", f"{folder}, digests verified", train, test)
    return load_sample()


def load_sample() -> Dataset:
    """The embedded sample: 4,000 digits to train on and 1,000 to test on, all from MNIST's training set."""
    with np.load(Path(__file__).with_name("sample.npz")) as arrays:
        train, test = (digits(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset("mnist-sample", "the sample that comes with distmnist", train, test)


def digits(images: np.ndarray, labels: np.ndarray) -> Digits:
    return Digits(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))
