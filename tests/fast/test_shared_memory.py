"""Memory that ranks share gathers as a collective does, at any speed of the ranks, or is had by none of them."""

import os
import time
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from shards import add_shard

from distmnist.distributed.world import World
from distmnist.errors import RunError
from distmnist.fast import gradients, shared_memory
from distmnist.fast.shared_memory import share_memory
from distmnist.models.build import build_model

ROUNDS = 20


def gather_at_different_speeds(world):
    """What each round gathered, read only after the other ranks had time to go on; rank 0 dawdles."""
    memory = share_memory(world, slot=4 * 1000)
    found = []
    for number in range(ROUNDS):
        size, dtype = [(1000, torch.float32), (7, torch.float32), (500, torch.float64)][number % 3]
        everyone = memory.all_gather(torch.full((size,), 100.0 * number + world.rank, dtype=dtype))
        if world.is_main:
            time.sleep(0.005)
        found.append([(theirs.shape[0], theirs.dtype, theirs.unique().tolist()) for theirs in everyone])
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_reads_what_every_rank_wrote_however_fast_the_others_are(size):
    found = run_ranks(gather_at_different_speeds, size)
    for number, everyone in enumerate(found[0]):
        length, dtype = [(1000, torch.float32), (7, torch.float32), (500, torch.float64)][number % 3]
        assert everyone == [(length, dtype, [100.0 * number + rank]) for rank in range(size)]
    assert all(theirs == found[0] for theirs in found)


def share_where_rank_1_is_elsewhere(world):
    shared_memory.SETUP_SECONDS = 0.5
    if world.rank == 1:
        shared_memory.address = lambda name, rank: f"\0elsewhere-{name}-{rank}".encode()
    return share_memory(world, slot=4) is None


def test_where_one_rank_cannot_reach_the_others_no_rank_shares_memory():
    assert run_ranks(share_where_rank_1_is_elsewhere, 3) == [True, True, True]


def gather_when_rank_1_has_left(world):
    memory = share_memory(world, slot=4)
    memory.all_gather(torch.zeros(1))
    if world.rank == 1:
        for peer in memory.peers:
            peer.close()
        return "left"
    with pytest.raises(RunError, match="the connection to another rank was lost"):
        memory.all_gather(torch.zeros(1))
    return "noticed"


def test_a_lost_rank_is_noticed_at_once():
    assert run_ranks(gather_when_rank_1_has_left, 2) == ["noticed", "left"]


@pytest.mark.parametrize("world", [World(), World(size=2, local_size=1), World(size=2, device=torch.device("cuda"))])
def test_alone_on_several_machines_and_on_gpus_there_is_none(world):
    assert share_memory(world, slot=4) is None


def what_is_open(world):
    """Mappings of the memory, and sockets, while it is used and after."""
    counts = []
    before = sockets()
    memory = share_memory(world, slot=4)
    for _ in range(2):
        maps = Path("/proc/self/maps").read_text().count("memfd:distmnist")
        counts.append((maps, sockets() - before))
        memory = None
    return memory, counts


def sockets():
    """How many Unix sockets are open. (gloo takes a while to close the others that it only needed to connect.)"""
    unix = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(link.removeprefix("socket:[").rstrip("]") in unix for link in links if link.startswith("socket:"))


def test_memory_and_sockets_go_with_their_last_user():
    assert run_ranks(what_is_open, 3) == [(None, [(1, 2), (0, 0)])] * 3


def gradient(world, shared):
    """The stats' sum and the gradient of three ranks' different digits, over shared memory or over gloo."""
    if not shared:
        gradients.share_memory = lambda world, slot: None
    model = build_model("mlp")
    own = gradients.build_fast_gradients(model, world)
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(world.rank))
    own.clear()
    add_shard(own, images, torch.arange(4), torch.zeros(2), 4 * world.size)
    sums = own.finish()
    return torch.cat([sums, *(parameter.grad.flatten() for parameter in model.parameters())])


def test_the_gradient_is_glooss_within_rounding_and_the_same_on_all_ranks():
    mine, theirs = (run_ranks(gradient, 3, shared) for shared in (True, False))
    assert all(torch.equal(mine[0], other) for other in mine)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(mine[0], theirs[0]), "three ranks' sums round otherwise in gloo's ring: was it used at all?"
