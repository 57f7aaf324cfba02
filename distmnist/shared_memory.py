"""A gathering of tensors between processes of one machine, through memory that they share instead of over TCP.

gloo copies every byte through the kernel, with threads of its own that take the cores from the net. Here each rank
writes where all can read, and says so with one byte to each other rank, over a Unix socket that ends with its process:
a peer that is lost is noticed at once.
"""

import mmap
import os
import secrets
import socket

import torch
from torch import Tensor

from distmnist.config import RunError
from distmnist.distributed import PATIENCE, World


class SharedMemory:
    """Two boards with a slot for each rank. While one is still read, the next is written: one message is enough."""

    def __init__(self, world: World, memory: Tensor, peers: list[socket.socket]) -> None:
        """memory: uint8 [2 * world size * bytes in a slot], the same on all ranks; peers: one to each other rank."""
        self.rank, self.size, self.peers = world.rank, world.size, peers
        self.board, self.other = memory.view(2, world.size, -1)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one shape and dtype, contiguous and no larger than a slot, in the order of ranks.

        They lie in the shared memory: not to be written to, and valid until the next call. Raises RunError if a rank
        is lost.
        """
        self.board, self.other = self.other, self.board
        slots = self.board[:, : tensor.nbytes].view(tensor.dtype).view(-1, *tensor.shape)
        slots[self.rank].copy_(tensor)
        self._meet()
        return list(slots)

    def _meet(self) -> None:
        """Returns when all ranks are here."""
        try:
            for peer in self.peers:
                peer.send(b".")
            if all(peer.recv(1) for peer in self.peers):
                return
        except OSError as error:
            raise RunError(f"another process of this run was lost: {error}") from error
        raise RunError("another process of this run was lost: it closed its socket")


def share_memory(world: World, slot: int) -> SharedMemory | None:
    """Memory with slots of `slot` bytes for all ranks, or None where they have none in common: then none gets it.

    Only on Linux, on the CPU, and where all ranks say they are on one machine. Neither memory nor sockets have a name
    in any file system: they go when the last process goes, however that ends.
    """
    if world.device.type != "cpu" or not 1 < world.size == world.local_size or not hasattr(os, "memfd_create"):
        return None
    slot = -(-slot // mmap.PAGESIZE) * mmap.PAGESIZE
    name = world.broadcast(f"distmnist-{secrets.token_hex(8)}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(address(name, world.rank))
        listener.listen(world.size)
        world.gather(0)  # all listen
        try:
            peers = [connect(name, rank) for rank in range(world.rank)]
            peers += [listener.accept()[0] for _ in range(world.rank + 1, world.size)]
            memory = make_memory(2 * world.size * slot, peers) if world.is_main else receive_memory(peers[0])
            shared = SharedMemory(world, memory, peers)
        except OSError:  # their network namespaces differ, or memory is short
            shared = None
    return shared if all(world.gather(shared is not None)) else None


def address(name: str, rank: int) -> bytes:
    """In Linux's abstract namespace, which is no file system: unix(7)."""
    return f"\0{name}-{rank}".encode()


def connect(name: str, rank: int) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(address(name, rank))
    return peer


def make_memory(size: int, peers: list[socket.socket]) -> Tensor:
    """uint8 [size], zeros; every peer is sent it."""
    file = os.memfd_create("distmnist")
    try:
        os.truncate(file, size)
        for peer in peers:
            socket.send_fds(peer, [b"."], [file])
        return map_memory(file)
    finally:
        os.close(file)


def receive_memory(peer: socket.socket) -> Tensor:
    _, files, _, _ = socket.recv_fds(peer, 1, 1)
    if not files:
        raise ConnectionResetError("rank 0 gave up")
    try:
        return map_memory(files[0])
    finally:
        os.close(files[0])


def map_memory(file: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.uint8)
