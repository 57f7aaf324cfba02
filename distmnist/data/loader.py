"""From the plan's indices to what a net reads: normalised images and labels, of several batches at a time."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from distmnist.data.dataset import LabelledImages
from distmnist.data.sampler import Share

PREFETCH = 2048 * 28 * 28
"""Numbers, in whole batches, that are gathered and normalised at once: 6.4 MB. Four operations on 64 small images are
mostly their overhead, and each time they evict the weights from the cache."""


class Shard(NamedTuple):
    """A share with its images: indices, int64 [n]; images, float32 [n, C, H, W], normalised; labels, int64 [n]."""

    part: int
    indices: Tensor
    images: Tensor
    labels: Tensor


def load(data: LabelledImages, batches: Iterable[list[Share]]) -> Iterator[list[Shard]]:
    """Each batch's shares with their images, which are views of what was prefetched."""
    size = math.prod(data.shape)
    block, count = [], 0
    for shares in batches:
        block.append(shares)
        count += size * sum(len(share.indices) for share in shares)
        if count >= PREFETCH:
            yield from read(data, block)
            block, count = [], 0
    if block:
        yield from read(data, block)


def read(data: LabelledImages, block: list[list[Share]]) -> Iterator[list[Shard]]:
    indices = [share.indices for shares in block for share in shares]
    sizes = [len(each) for each in indices]
    images, labels = data.batch(torch.cat(indices))
    pieces = zip(images.split(sizes), labels.split(sizes), strict=True)
    for shares in block:
        yield [Shard(*share, *next(pieces)) for share in shares]


def split(shard: Shard, pieces: int) -> list[Shard]:
    """The shard in so many pieces, whose sizes differ by one image at most."""
    if pieces == 1:
        return [shard]
    parts = zip(*(tensor.tensor_split(pieces) for tensor in shard[1:]), strict=True)
    return [Shard(shard.part, *part) for part in parts]
