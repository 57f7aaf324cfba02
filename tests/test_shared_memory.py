"""Memory that ranks share gathers as a collective does, at any speed of the ranks, or is had by none of them."""

import os
import time
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from distmnist import reducer, shared_memory
from distmnist.distributed import World
from distmnist.models import build_model
from distmnist.shared_memory import share_memory

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


def share_where_rank_1_cannot_open_it(world):
    if world.rank == 1:
        shared_memory.open_memory = lambda name, path: None
    return share_memory(world, slot=4) is None


def test_where_one_rank_cannot_open_the_memory_no_rank_uses_it():
    assert run_ranks(share_where_rank_1_cannot_open_it, 3) == [True, True, True]


def test_another_file_at_the_place_of_the_memory_is_left_alone(tmp_path):
    stranger = tmp_path / "file"
    stranger.write_bytes(b"theirs")
    with open(stranger) as file:
        assert shared_memory.open_memory("distmnist-0", f"/proc/{os.getpid()}/fd/{file.fileno()}") is None
    assert shared_memory.open_memory("distmnist-0", "/proc/0/fd/0") is None
    assert stranger.read_bytes() == b"theirs"


@pytest.mark.parametrize("world", [World(), World(size=2, local_size=1), World(size=2, device=torch.device("cuda"))])
def test_alone_on_several_machines_and_on_gpus_there_is_none(world):
    assert share_memory(world, slot=4) is None


def open_files_and_maps(world):
    """Descriptors and mappings of the memory while it is used, and after."""
    counts = []
    memory = share_memory(world, slot=4)
    for _ in range(2):
        maps = Path("/proc/self/maps").read_text().count("memfd:distmnist")
        names = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        counts.append((maps, sum("memfd:distmnist" in name for name in names)))
        memory = None
    return memory, counts


def test_the_memory_goes_with_its_last_user():
    """Python keeps one descriptor of its own for each mapping."""
    assert run_ranks(open_files_and_maps, 2) == [(None, [(1, 1), (0, 0)])] * 2


def gradient(world, shared):
    """A gradient of three ranks' different losses, over shared memory or over gloo."""
    if not shared:
        reducer.share_memory = lambda world, slot: None
    reducing = reducer.build_reducer(build_model("mlp"), world)
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(world.rank))
    reducing.start()
    loss_sum, ballot = reducing.module(images, torch.arange(4), torch.zeros(2))
    reducing.backward(loss_sum + ballot)
    reducing.finish()
    return torch.cat([parameter.grad.flatten() for parameter in reducing.shard_loss.parameters()])


def test_the_gradient_is_glooss_within_rounding_and_the_same_on_all_ranks():
    mine, theirs = (run_ranks(gradient, 3, shared) for shared in (True, False))
    assert all(torch.equal(mine[0], other) for other in mine)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(mine[0], theirs[0]), "three ranks' sums round otherwise in gloo's ring: was it used at all?"
