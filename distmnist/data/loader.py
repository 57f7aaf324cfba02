"""From the plan's indices to what a net reads: normalised images and labels, of several batches at a time."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from distmnist.data.dataset import Digits
from distmnist.data.sampler import Share

READ_AHEAD = 2048
"""Digits that are gathered and normalised at once: 6.4 MB. Four operations on 64 digits are mostly their overhead, and
each time they evict the weights from the cache."""


class Shard(NamedTuple):
    """A share with its digits: indices, int64 [n]; images, float32 [n, 1, 28, 28]; labels, int64 [n]."""

    part: int
    indices: Tensor
    images: Tensor
    labels: Tensor


def load(digits: Digits, batches: Iterable[list[Share]]) -> Iterator[list[Shard]]:
    """Each batch's shares with their digits, which are views of what was read ahead."""
    block, count = [], 0
    for shares in batches:
        block.append(shares)
        count += sum(len(share.indices) for share in shares)
        if count >= READ_AHEAD:
            yield from read(digits, block)
            block, count = [], 0
    if block:
        yield from read(digits, block)


def read(digits: Digits, block: list[list[Share]]) -> Iterator[list[Shard]]:
    indices = [share.indices for shares in block for share in shares]
    sizes = [len(each) for each in indices]
    images, labels = digits.batch(torch.cat(indices))
    pieces = zip(images.split(sizes), labels.split(sizes), strict=True)
    for shares in block:
        yield [Shard(*share, *next(pieces)) for share in shares]
