"""Which digit goes where: every digit once an epoch, in an order that only the random seed and the epoch decide."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from distmnist.data.sampler import EpochPlan, GlobalBatchSampler
from distmnist.seeds import generator, seed_for

SHAPES = [
    (size, batch, replicas)
    for size, batch, replicas in itertools.product((1, 2, 7, 64, 65, 130, 301), (1, 3, 8, 64, 500), (1, 2, 3, 4, 8))
]


def samplers(size, batch_size, replicas, seed=0, epoch=0, parts=None):
    made = [
        GlobalBatchSampler(range(size), batch_size=batch_size, num_replicas=replicas, rank=rank, seed=seed, parts=parts)
        for rank in range(replicas)
    ]
    for sampler in made:
        sampler.set_epoch(epoch)
    return made


@pytest.mark.parametrize(("size", "batch", "replicas"), SHAPES)
def test_every_global_batch_is_shared_out_whole_and_evenly_and_an_epoch_holds_every_digit_once(size, batch, replicas):
    epoch = []
    for shares in zip(
        *(sampler.batches() for sampler in samplers(size, batch, replicas, seed=3, epoch=2)), strict=True
    ):
        assert all(len(own) == 1 for own in shares)
        counts = [len(own[0].indices) for own in shares]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == min(batch, size - len(epoch))
        epoch += [index for own in shares for index in own[0].indices.tolist()]
    assert sorted(epoch) == list(range(size))
    assert epoch == EpochPlan(seed=3, epoch=2, size=size, batch_size=batch).order.tolist()


@pytest.mark.parametrize(("size", "batch", "replicas"), [(130, 64, 3), (65, 8, 4), (7, 3, 8)])
def test_iteration_length_and_batches_agree(size, batch, replicas):
    for sampler in samplers(size, batch, replicas, epoch=1):
        assert isinstance(sampler, DistributedSampler)
        batched = [index for shares in sampler.batches() for share in shares for index in share.indices.tolist()]
        assert list(sampler) == batched
        assert len(sampler) == len(batched)


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    expected = EpochPlan(5, 4, 200, 64).order
    for batch, replicas in ((64, 1), (10, 2), (200, 8)):
        torch.manual_seed(batch)
        torch.rand(7)
        for sampler in samplers(200, batch, replicas, seed=5, epoch=4):
            assert torch.equal(sampler.plan.order, expected)


def test_the_order_changes_with_every_epoch_and_seed_and_they_do_not_meet():
    orders = {tuple(EpochPlan(seed, epoch, 50, 8).order.tolist()) for seed in range(12) for epoch in range(12)}
    assert len(orders) == 144
    assert tuple(range(50)) not in orders


def test_set_epoch_is_what_changes_the_digits_of_a_replica():
    (sampler,) = samplers(50, 8, 1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first and sorted(sampler) == sorted(first)


@pytest.mark.parametrize(("size", "batch"), [(100, 24), (70, 64), (9, 5)])
def test_the_parts_of_a_batch_are_the_same_whoever_takes_them(size, batch):
    def parts_of_each_step(replicas):
        steps = zip(*(sampler.batches() for sampler in samplers(size, batch, replicas, parts=8)), strict=True)
        return [[(share.part, share.indices.tolist()) for own in step for share in own] for step in steps]

    alone = parts_of_each_step(1)
    assert [part for part, _ in alone[0]] == list(range(8))
    for replicas in (2, 4, 8):
        assert parts_of_each_step(replicas) == alone
    assert len(samplers(size, batch, 4, parts=8)[3]) == sum(
        len(indices) for step in alone for part, indices in step if part >= 6
    )


def test_starting_at_a_step_goes_on_where_the_steps_before_left_off():
    (sampler,) = samplers(100, 16, 1, epoch=3)
    everything = [shares[0].indices.tolist() for shares in sampler.batches()]
    assert [shares[0].indices.tolist() for shares in sampler.batches(start=4)] == everything[4:]
    assert list(sampler.batches(start=7)) == []


def test_the_shares_of_4096_replicas_are_disjoint_and_complete_and_none_holds_more_than_its_own():
    """Held is the storage behind the indices: views of the whole order would be 80 kB a replica, not 24 bytes."""
    size, batch, replicas = 10_000, 6_000, 4096
    seen = torch.zeros(size, dtype=torch.int64)
    for sampler in samplers(size, batch, replicas):
        own = [share.indices for shares in sampler.batches() for share in shares]
        storages = {indices.untyped_storage().data_ptr(): indices.untyped_storage().nbytes() for indices in own}
        assert sum(storages.values()) <= 24
        seen[torch.cat(own)] += 1
    assert torch.equal(seen, torch.ones_like(seen))


@pytest.mark.parametrize("batch", [4096, 8192, 4096 * 64])
def test_the_shares_of_each_step_of_mnist_meet_end_to_end_for_4096_replicas(batch):
    """With 64 digits a replica the batch is larger than an epoch, which then has one step."""
    plan = EpochPlan(seed=0, epoch=0, size=60_000, batch_size=batch)
    end = 0
    for step in range(plan.steps):
        for part in range(4096):
            first, stop = plan.bounds(step, part, 4096)
            assert first == end and 0 <= stop - first - plan.count(step) // 4096 <= 1
            end = stop
    assert end == 60_000


def test_a_plain_data_loader_takes_it():
    for sampler in samplers(100, 16, 3, epoch=1):
        loaded = torch.cat(list(DataLoader(torch.arange(100), batch_size=5, sampler=sampler)))
        assert loaded.tolist() == list(sampler)


def test_seeds_are_32_bits_distinct_by_purpose_and_the_same_in_every_process_and_release():
    seeds = {seed_for(seed, purpose, n) for seed in range(40) for purpose in ("order", "dropout") for n in range(40)}
    assert len(seeds) == 3200
    assert all(0 <= seed < 2**32 for seed in seeds) and max(seeds) > 2**31
    # What earlier snapshots were trained with: resuming them depends on it.
    assert seed_for(0, "order", 0) == 3735503471


def test_a_generator_is_fresh_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))
    assert not torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(2, "x")))
    assert torch.equal(torch.get_rng_state(), before)
