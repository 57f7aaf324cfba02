"""A gathering of tensors between processes of one machine, through memory that they share instead of over TCP.

gloo copies every byte through the kernel, with threads of its own that take the cores from the net. Here each rank
writes where all can read, and says so with one byte to each other rank, over a Unix socket that ends with its process:
a peer that is lost is noticed at once.
"""

import contextlib
import mmap
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distmnist.distributed.failure import PeerLost
from distmnist.distributed.world import World

SETUP_SECONDS = 10.0
"""Seconds for which a socket waits while the memory is set up, if the time-out is not shorter."""


class SharedMemory:
    """Two boards with a slot for each rank. While one is still read, the next is written: one message is enough."""

    def __init__(self, world: World, memory: Tensor, peers: list[socket.socket]) -> None:
        """memory: uint8 [2 * world size * bytes in a slot], the same on all ranks; peers: one to each other rank."""
        self.rank, self.heartbeat, self.peers = world.rank, world.heartbeat, peers
        self.board, self.other = memory.view(2, world.size, -1)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one shape and dtype, contiguous and no larger than a slot, in the order of ranks.

        They lie in the shared memory: not to be written to, and valid until the next call. Raises PeerLost if a
        rank is lost.
        """
        self.board, self.other = self.other, self.board
        slots = self.board[:, : tensor.nbytes].view(tensor.dtype).view(-1, *tensor.shape)
        slots[self.rank].copy_(tensor)
        self._meet()
        return list(slots)

    def _meet(self) -> None:
        """Returns when all ranks are here. The heartbeat ends the process if one hangs."""
        try:
            with self.heartbeat.waiting():
                for peer in self.peers:
                    peer.send(b".")
                if all(peer.recv(1) for peer in self.peers):
                    return
        except OSError as error:
            raise PeerLost(f"the connection to another rank was lost: {error}") from error
        raise PeerLost("the connection to another rank was lost: it closed its socket")


def share_memory(world: World, slot: int) -> SharedMemory | None:
    """Memory with slots of `slot` bytes for all ranks, or None where they have none in common: then none gets it.

    Only on Linux, on the CPU, and where all ranks say they are on one machine. Neither memory nor sockets have a name
    in any file system: they go when the last process goes, however that ends.
    """
    if world.device.type != "cpu" or not 1 < world.size == world.local_size or not hasattr(os, "memfd_create"):
        return None
    slot = -(-slot // mmap.PAGESIZE) * mmap.PAGESIZE
    name = world.broadcast(f"distmnist-{secrets.token_hex(8)}")
    patience = min(SETUP_SECONDS, world.heartbeat.timeout / 2)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as sockets:
        # After each step all say whether it succeeded: where it fails on one rank, all give up.
        listening = attempt(lambda: listen(listener, address(name, world.rank), world.size, patience))
        if not all(world.gather(listening is not None)):
            return None
        peers = attempt(lambda: meet_peers(listener, name, world, sockets, patience))
        if not all(world.gather(peers is not None)):
            return None
        # Sent before anyone receives: a message that carries a file waits in the socket.
        memory = attempt(lambda: make_memory(2 * world.size * slot, peers)) if world.is_main else None
        if not all(world.gather(memory is not None or not world.is_main)):
            return None
        if not world.is_main:
            memory = attempt(lambda: receive_memory(peers[0]))
        if not all(world.gather(memory is not None)):
            return None
        for peer in peers:
            peer.settimeout(None)
        sockets.pop_all()  # they stay open
        assert memory is not None
        return SharedMemory(world, memory, peers)


def attempt(step: Callable[[], Any]) -> Any:
    """What the step returns; None if the system refuses it: network namespaces differ, or memory is short, say."""
    try:
        return step()
    except OSError:
        return None


def listen(listener: socket.socket, where: bytes, size: int, patience: float) -> bool:
    listener.settimeout(patience)
    listener.bind(where)
    listener.listen(size)
    return True


def meet_peers(
    listener: socket.socket, name: str, world: World, sockets: contextlib.ExitStack, patience: float
) -> list[socket.socket]:
    """A socket to each other rank, in the order of ranks; `sockets` closes them."""
    peers = [sockets.enter_context(connect(name, rank)) for rank in range(world.rank)]
    peers += [sockets.enter_context(listener.accept()[0]) for _ in range(world.rank + 1, world.size)]
    for peer in peers:
        peer.settimeout(patience)
    return peers


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
