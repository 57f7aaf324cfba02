"""Labelled images in memory that several processes of a machine share."""

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch

from distmnist.errors import UsageError


class SharedImages:
    """images: uint8 [n, C, H, W]; labels: int64 [n]; zeros at first.

    The memory has no name in any file system: it goes when the last process that has it goes, however that ends. On
    Linux it is anonymous, see memfd_create(2); elsewhere it is a temporary file that is deleted at once.
    """

    def __init__(self, file: int, count: int, shape: Sequence[int]) -> None:
        """file: descriptor of memory of `size_of(count, shape)` bytes, which this object closes at its end."""
        self.file = file
        whole = torch.frombuffer(mmap.mmap(file, size_of(count, shape)), dtype=torch.uint8)
        self.labels = whole[: 8 * count].view(torch.int64)
        self.images = whole[8 * count :].view(count, *shape)

    def __del__(self) -> None:
        os.close(self.file)

    @classmethod
    def make(cls, count: int, shape: Sequence[int]) -> Self:
        """New memory. Raises UsageError if the machine has not that much."""
        size = size_of(count, shape)
        check_memory(size)
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("distmnist-images")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        os.truncate(file, size)
        return cls(file, count, shape)

    @property
    def place(self) -> str:
        """Where other processes of this machine find the memory, for `open`, as long as this object is there."""
        return f"/proc/{os.getpid()}/fd/{self.file}"

    @classmethod
    def open(cls, place: str, count: int, shape: Sequence[int]) -> Self | None:
        """Another process's memory; None where this one cannot reach it: in another container, say."""
        try:
            file = os.open(place, os.O_RDWR)
        except OSError:
            return None
        if os.fstat(file).st_size != size_of(count, shape):
            os.close(file)
            return None
        return cls(file, count, shape)


def size_of(count: int, shape: Sequence[int]) -> int:
    """Bytes of so many images with their labels."""
    channels, height, width = shape
    return count * (8 + channels * height * width)


def check_memory(size: int) -> None:
    """Raises UsageError where so many bytes are not free, as far as the system says.

    Linux would grant them, and kill the process that writes them.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), size)
    if size > free:
        raise UsageError(
            f"the images take {size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB of memory are free; choose a smaller"
            " --image-size, or fewer images"
        )
