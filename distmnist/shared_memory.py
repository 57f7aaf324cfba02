"""A gathering of tensors between processes of one machine, through memory that they share instead of over TCP.

gloo copies every byte through the kernel, with threads of its own that take the cores from the net. Here each rank
writes where all can read; the message that says "written" is an ordinary collective of four bytes, so that a peer that
is lost, or hangs, is noticed as it always is.
"""

import mmap
import os
import secrets

import torch
from torch import Tensor

from distmnist.distributed import World


class SharedMemory:
    """Two boards with a slot for each rank. While one is still read, the next is written: one message is enough."""

    def __init__(self, world: World, memory: Tensor) -> None:
        """memory: uint8 [2 * world size * bytes in a slot], the same on all ranks."""
        self.world = world
        self.board, self.other = memory.view(2, world.size, -1)
        self.written = torch.zeros(1)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one shape and dtype, contiguous and no larger than a slot, in the order of ranks.

        They lie in the shared memory: not to be written to, and valid until the next call.
        """
        self.board, self.other = self.other, self.board
        slots = self.board[:, : tensor.nbytes].view(tensor.dtype).view(-1, *tensor.shape)
        slots[self.world.rank].copy_(tensor)
        self.world.sum_(self.written)
        return list(slots)


def share_memory(world: World, slot: int) -> SharedMemory | None:
    """Memory with slots of `slot` bytes for all ranks, or None where they have none in common: then none gets it.

    Only on Linux, on the CPU, and where all ranks say they are on one machine. The memory has no name in any file
    system: it goes when the last process goes, however that ends.
    """
    if world.device.type != "cpu" or not 1 < world.size == world.local_size or not hasattr(os, "memfd_create"):
        return None
    slot = -(-slot // mmap.PAGESIZE) * mmap.PAGESIZE
    name = f"distmnist-{secrets.token_hex(8)}"
    mine = os.memfd_create(name) if world.is_main else None
    if world.is_main:
        os.truncate(mine, 2 * world.size * slot)
    name, path = world.broadcast((name, f"/proc/{os.getpid()}/fd/{mine}"))
    memory = open_memory(name, path)
    everyone = world.gather(memory is not None)
    if world.is_main:
        os.close(mine)
    return SharedMemory(world, memory) if all(everyone) else None


def open_memory(name: str, path: str) -> Tensor | None:
    """The memory of that name, uint8, found at `path` in rank 0's /proc; None if it is not there: containers differ."""
    try:
        if name not in os.readlink(path):
            return None
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.uint8)
    finally:
        os.close(file)
