"""The processes that train together: who this one is, how they meet, and the few things they say to each other."""

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distmnist.config import RunError, UsageError
from distmnist.machine import agent, loopback
from distmnist.rendezvous import POLL, meet

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, and what a launcher of one's own has to set."""

PATIENCE = 10.0


@dataclasses.dataclass
class World:
    """This process among its peers. Without arguments: the only one, on the CPU."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = torch.device("cpu")
    store: dist.Store | None = None
    rounds: int = 0
    agents: set[str] = dataclasses.field(default_factory=lambda: {agent()})
    """Who started these processes, as `machine.agent` names them. Complete on rank 0 after the first agreement."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    @contextlib.contextmanager
    def agreement(self) -> Iterator[dict[str, Any]]:
        """Runs the block on every rank, then waits for all; the block fills in the dict it is given.

        Raises the same UsageError on every rank if some block raised one, naming the rank, or if the dicts differ.
        Goes through the store, so it needs no process group: rank 0 reads all and answers all, O(size) messages.
        """
        statement: dict[str, Any] = {}
        error = None
        try:
            yield statement
        except UsageError as raised:
            error = raised
        if self.store is None:
            if error:
                raise error
            return
        mine = {"host": socket.gethostname(), "agent": agent(), "error": error and str(error), "says": statement}
        self.rounds += 1
        key = f"agreement/{self.rounds}"
        self.store.set(f"{key}/{self.rank}", json.dumps(mine))
        if self.is_main:
            self.store.set(key, self._objection(key, mine))
        if objection := self._wait(key, "rank 0").decode():
            raise UsageError(objection) from error

    def announce(self, value: Any) -> Any:
        """Rank 0's JSON value, on every rank; the others' are ignored. For small things before `connect`."""
        if self.store is None:
            return value
        self.rounds += 1
        key = f"announcement/{self.rounds}"
        if self.is_main:
            self.store.set(key, json.dumps(value))
        return json.loads(self._wait(key, "rank 0"))

    def _objection(self, key: str, mine: dict[str, Any]) -> str:
        """What the first rank that objects or differs should be told, "" if all agree. Rank 0 only."""
        if mine["error"]:
            return mine["error"]
        for rank in range(1, self.size):
            theirs = json.loads(self._wait(f"{key}/{rank}", f"rank {rank}"))
            self.agents.add(theirs["agent"])
            where = f"rank {rank} on {theirs['host']}"
            if theirs["error"]:
                return f"{where}: {theirs['error']}"
            for name, value in mine["says"].items():
                if theirs["says"].get(name) != value:
                    told = theirs["says"].get(name)
                    return f"{where} has {name} {told}, rank 0 has {value}; start all processes alike"
        return ""

    def _wait(self, key: str, who: str) -> bytes:
        try:
            return self.store.get(key)
        except dist.DistError as error:
            raise RunError(
                f"{who} of {self.size} did not answer within {self.store.timeout}; is it running?"
            ) from error

    def connect(self, timeout: float) -> None:
        """Forms the process group: nccl on CUDA, bound to this process's GPU; gloo on the CPU.

        A collective fails `PATIENCE` seconds after `timeout`: the heartbeat, which can name the rank, comes first.
        """
        if self.store is not None:
            cuda = self.device.type == "cuda"
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=dist.PrefixStore("group", self.store),
                rank=self.rank,
                world_size=self.size,
                timeout=datetime.timedelta(seconds=timeout + PATIENCE),
                device_id=self.device if cuda else None,
            )

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds up the ranks' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one shape, in the order of ranks."""
        if self.size == 1:
            return [tensor]
        everyone = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(everyone, tensor)
        return everyone

    def gather(self, number: int) -> list[int]:
        """Every rank's number (of 63 bits), in the order of ranks."""
        mine = torch.tensor([number], dtype=torch.int64, device=self.device)
        return [int(theirs) for theirs in self.all_gather(mine)]

    def broadcast_(self, tensor: Tensor) -> None:
        """Overwrites the ranks' tensors with rank 0's."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank; the others' are ignored. For tensors and whatever holds them."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


@contextlib.contextmanager
def join(timeout: float) -> Iterator[World]:
    """Meets the processes that torchrun, or VARIABLES set by hand, speak of; alone without them.

    The process group is formed by `connect`, once all agree, and left at the end of the block: on its clean path
    only, since on an error path some peer may never arrive. Raises UsageError for an environment that cannot be
    understood; RunError if the others do not come, or if one of them is lost inside the block.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        yield World()
        return
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise UsageError(f"RANK or WORLD_SIZE is set but not {', '.join(missing)}; set all of them, or use torchrun")
    rank, size, local_rank, local_size = (number_from_environment(name) for name in VARIABLES[:4])
    if size == 1:
        yield World()
        return
    if local_size == size:
        stay_on_this_machine()
    limit = datetime.timedelta(seconds=timeout)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=limit))
        store.set_timeout(limit)
        store = meet(store, rank, size, timeout)
        yield World(rank, size, local_rank, local_size, store=store)
        leave(store, rank, size)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RunError(f"another process of this run was lost: {str(error).split('. ')[0]}") from error
        raise
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(store: dist.Store, rank: int, size: int) -> None:
    """Without torchrun rank 0 hosts the store: it goes last, unless another has not come for `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    left = store.add("left", 1)
    while rank == 0 and left < size and time.monotonic() < deadline:
        time.sleep(POLL)
        left = store.add("left", 0)


def number_from_environment(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise UsageError(
            f"{name}={os.environ[name]} in the environment is no number; set it, or use torchrun"
        ) from None


def stay_on_this_machine() -> None:
    """Meets at the loopback address: gloo would otherwise look up the host's name, which may not resolve."""
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    if name := loopback():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def choose_device(requested: str, world: World) -> torch.device:
    """`--device` -> this process's device. Raises UsageError: no CUDA, or more processes than GPUs here."""
    available = torch.cuda.is_available()
    if requested == "cpu" or (requested == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise UsageError("--device cuda: this machine has no GPU that torch can use; use --device cpu")
    gpus = torch.cuda.device_count()
    if world.local_size > gpus:
        raise UsageError(
            f"{world.local_size} processes but {gpus} GPUs on {socket.gethostname()};"
            f" use --nproc_per_node={gpus}, or --device cpu"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)
