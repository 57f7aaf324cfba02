"""Reading ahead changes when digits are gathered, and nothing else."""

import pytest
import torch
from digits import random_digits

from distmnist.data import loader
from distmnist.data.dataset import LabelledImages
from distmnist.data.loader import load
from distmnist.data.sampler import GlobalBatchSampler

DIGITS = random_digits(230)


def sampler(batch_size, rank, replicas, parts=None):
    return GlobalBatchSampler(DIGITS, batch_size=batch_size, num_replicas=replicas, rank=rank, seed=4, parts=parts)


@pytest.mark.parametrize("images", [1, 50, 512])
@pytest.mark.parametrize(
    ("batch_size", "replicas", "parts"), [(64, 1, None), (64, 3, None), (64, 2, 8), (3, 4, None), (230, 2, None)]
)
def test_every_share_has_its_own_digits_in_the_plans_order(monkeypatch, batch_size, replicas, parts, images):
    monkeypatch.setattr(loader, "PREFETCH", images * 784)
    for rank in range(replicas):
        plan = list(sampler(batch_size, rank, replicas, parts).batches(1))
        loaded = list(load(DIGITS, iter(plan)))
        assert [[(shard.part, len(shard.labels)) for shard in shards] for shards in loaded] == [
            [(share.part, len(share.indices)) for share in shares] for shares in plan
        ]
        for shares, shards in zip(plan, loaded, strict=True):
            for share, shard in zip(shares, shards, strict=True):
                pixels, labels = DIGITS.batch(share.indices)
                assert torch.equal(shard.indices, share.indices)
                assert torch.equal(shard.images, pixels) and torch.equal(shard.labels, labels)


@pytest.mark.parametrize(
    ("batch_size", "reads"), [(10, [50, 50, 50, 50, 30]), (64, [64, 64, 64, 38]), (30, [60] * 3 + [50])]
)
def test_no_more_is_read_ahead_than_makes_the_operations_large(monkeypatch, batch_size, reads):
    monkeypatch.setattr(loader, "PREFETCH", 50 * 784)
    seen = []
    batch = LabelledImages.batch
    monkeypatch.setattr(
        LabelledImages, "batch", lambda self, indices: seen.append(len(indices)) or batch(self, indices)
    )
    steps = load(DIGITS, sampler(batch_size, 0, 1).batches())
    next(steps)
    assert seen == reads[:1]
    list(steps)
    assert seen == reads


def test_without_batches_nothing_is_read():
    assert list(load(DIGITS, iter([]))) == []
