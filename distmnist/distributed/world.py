"""The processes that train together: who this one is, how they meet, and the few things they say to each other."""

import contextlib
import dataclasses
import datetime
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distmnist.distributed.beats import Beat, kill
from distmnist.distributed.failure import PeerLost, describe, exit_code, first_line, wait_until
from distmnist.distributed.heartbeat import Heartbeat
from distmnist.distributed.launcher import (
    Ranks,
    agent_hosts_store,
    attempt,
    from_environment,
    parent_process,
    process_space,
)
from distmnist.distributed.rendezvous import (
    MARGIN,
    check_interface,
    limited,
    meet,
    open_store,
    polls,
    stay_on_this_machine,
)
from distmnist.errors import RunError, UsageError

BACKSTOP = datetime.timedelta(days=1)
"""How long a collective may take. The heartbeat, which can name the rank to blame, ends a wait long before."""

LEAVE = 10.0
"""Seconds for which the rank that hosts the store waits for the others' last words to it."""


@dataclasses.dataclass
class World:
    """This process among its peers. Without arguments: the only one, on the CPU."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = torch.device("cpu")
    store: dist.Store | None = None
    heartbeat: Heartbeat = dataclasses.field(default_factory=Heartbeat)
    """To be told of progress, of waits, and of work that takes long."""
    rounds: int = 0
    agents: set[str] = dataclasses.field(default_factory=lambda: {parent_process()})
    """Who started these processes, as `launcher.parent_process` names them. Complete on rank 0 after an agreement."""
    attempt: int = dataclasses.field(default_factory=attempt)
    """The highest of the ranks' `launcher.attempt`, on rank 0 after an agreement."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    @contextlib.contextmanager
    def agreement(self) -> Iterator[dict[str, Any]]:
        """Runs the block on every rank, then waits for all; the block fills in the dict it is given.

        If a block raised, or if the dicts differ, every rank raises the same error, which names the rank: UsageError
        for a UsageError and for dicts that differ, RunError for any other. Goes through the store, so it needs no
        process group: rank 0 reads all and answers all, O(size) messages.
        """
        statement: dict[str, Any] = {}
        error: Exception | None = None
        try:
            yield statement
        except Exception as raised:
            if self.store is None:
                raise
            error = raised
        if self.store is None:
            return
        mine = {
            "host": socket.gethostname(),
            "agent": parent_process(),
            "attempt": attempt(),
            "error": [describe(error), exit_code(error)] if error else None,
            "says": statement,
        }
        self.rounds += 1
        key = f"agreement/{self.rounds}"
        self.store.set(f"{key}/{self.rank}", json.dumps(mine))
        with self.heartbeat.waiting():
            if self.is_main:
                self.store.set(key, json.dumps(self._objection(key, mine)))
            objection = json.loads(self._wait(key))
        if objection:
            text, code = objection
            raise (UsageError if code == 2 else RunError)(text) from error

    def announce(self, value: Any, leader: int = 0) -> Any:
        """The JSON value of rank `leader`, on every rank that asks for that rank's; the others' are ignored.

        For small things before `connect`.
        """
        if self.store is None:
            return value
        self.rounds += 1
        key = f"announcement/{self.rounds}/{leader}"
        if self.rank == leader:
            self.store.set(key, json.dumps(value))
        with self.heartbeat.waiting():
            return json.loads(self._wait(key))

    def machine_leader(self) -> int:
        """The lowest rank whose processes this one can see; itself where it cannot tell, or is alone on its machine."""
        spaces = self.announce(self.collect(process_space()))
        return spaces.index(spaces[self.rank]) if spaces[self.rank] else self.rank

    def collect(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in the order of ranks, on rank 0; [] on the others. Needs no process group."""
        if self.store is None:
            return [value]
        self.rounds += 1
        key = f"collection/{self.rounds}"
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        with self.heartbeat.waiting():
            ranks = range(self.size) if self.is_main else []
            return [json.loads(self._wait(f"{key}/{rank}")) for rank in ranks]

    def _objection(self, key: str, mine: dict[str, Any]) -> tuple[str, int] | None:
        """What the first rank that failed or differs has to be told, and the exit code. Rank 0 only."""
        if mine["error"]:
            return mine["error"]
        for rank in range(1, self.size):
            theirs = json.loads(self._wait(f"{key}/{rank}"))
            self.agents.add(theirs["agent"])
            self.attempt = max(self.attempt, theirs["attempt"])
            where = f"rank {rank} on {theirs['host']}"
            if theirs["error"]:
                text, code = theirs["error"]
                return f"{where}: {text}", code
            for name, value in mine["says"].items():
                if theirs["says"].get(name) != value:
                    told = theirs["says"].get(name)
                    return f"{where} has {name} {told}, rank 0 has {value}; start all processes alike", 2
        return None

    def _wait(self, key: str) -> bytes:
        """The value that another rank sets. The heartbeat ends the process if that rank hangs or is lost."""
        assert self.store is not None
        for _ in polls():
            if self.store.check([key]):
                break
        return self.store.get(key)

    def connect(self) -> None:
        """Forms the process group: nccl on CUDA, bound to this process's GPU; gloo on the CPU.

        Raises UsageError for a network interface that is not there, RunError if the processes cannot be connected.
        """
        if self.store is None:
            return
        cuda = self.device.type == "cuda"
        with self.agreement():
            if not cuda:
                check_interface()
        try:
            with self.heartbeat.waiting():
                dist.init_process_group(
                    "nccl" if cuda else "gloo",
                    store=dist.PrefixStore("group", self.store),
                    rank=self.rank,
                    world_size=self.size,
                    timeout=BACKSTOP,
                    device_id=self.device if cuda else None,
                )
        except RuntimeError as error:
            name, more = ("NCCL", "; NCCL_DEBUG=INFO says more") if cuda else ("GLOO", "")
            raise PeerLost(
                f"rank {self.rank} on {socket.gethostname()} cannot connect to the others: {first_line(error)}; check"
                f" {name}_SOCKET_IFNAME and the firewalls{more}"
            ) from error

    def collective(self, call: Callable[[], Any]) -> None:
        """Runs a collective of torch.distributed. Raises PeerLost if it fails."""
        try:
            with self.heartbeat.waiting():
                call()
        except RuntimeError as error:
            raise PeerLost(f"the connection to another rank was lost: {first_line(error)}") from error

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds up the ranks' tensors, in place."""
        if self.size > 1:
            self.collective(lambda: dist.all_reduce(tensor))
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one shape, in the order of ranks."""
        if self.size == 1:
            return [tensor]
        everyone = [torch.empty_like(tensor) for _ in range(self.size)]
        self.collective(lambda: dist.all_gather(everyone, tensor))
        return everyone

    def gather(self, number: int) -> list[int]:
        """Every rank's number (of 63 bits), in the order of ranks."""
        mine = torch.tensor([number], dtype=torch.int64, device=self.device)
        return [int(theirs) for theirs in self.all_gather(mine)]

    def broadcast_(self, tensor: Tensor) -> None:
        """Overwrites the ranks' tensors with rank 0's."""
        if self.size > 1:
            self.collective(lambda: dist.broadcast(tensor, src=0))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank; the others' are ignored. For tensors and whatever holds them."""
        box = [value]
        if self.size > 1:
            self.collective(lambda: dist.broadcast_object_list(box, src=0, device=self.device))
        return box[0]


@contextlib.contextmanager
def join(timeout: float) -> Iterator[World]:
    """Meets the processes that torchrun, or VARIABLES set by hand, speak of; alone without them.

    The process group is formed by `connect`, once all agree, and left at the end of the block: on its clean path only,
    since on an error path some rank may never arrive. `timeout`: seconds that a rank may go without progress.

    Raises UsageError for an environment that cannot be understood; RunError if the others do not come. An error that
    ends the block is reported to all ranks and printed by one of them; then it is raised here, with `printed` true.
    """
    ranks = from_environment()
    if ranks is None:
        yield World()
        return
    if ranks.local_size == ranks.size:
        ranks = dataclasses.replace(ranks, address=stay_on_this_machine())
    leader: list[Beat] = []  # rank 0's process, once this one knows it
    shared = open_store(ranks, timeout)
    store = limited(
        lambda: meet(shared, ranks.rank, ranks.size, timeout, leader.append),
        timeout + 2 * MARGIN,
        lambda: give_up_store(ranks, leader),
    )
    host = leader[0] if leader and not agent_hosts_store() else None
    with Heartbeat(store, ranks.rank, ranks.size, timeout, host) as heartbeat:
        try:
            yield World(ranks.rank, ranks.size, ranks.local_rank, ranks.local_size, store=store, heartbeat=heartbeat)
            leave(store, ranks, heartbeat)
            if dist.is_initialized():
                dist.destroy_process_group()
        except Exception as error:
            raise heartbeat.report(error) from error


def give_up_store(ranks: Ranks, leader: list[Beat]) -> str:
    """Says who hosts the store that does not answer. Ends rank 0 if it does, is of this machine, and stands still."""
    if not agent_hosts_store() and leader:
        kill(leader[0], patience=0.0)
    host = "torchrun" if agent_hosts_store() else "rank 0"
    return f"the store at {ranks.address}:{ranks.port}, which {host} hosts, does not answer"


def leave(store: dist.Store, ranks: Ranks, heartbeat: Heartbeat) -> None:
    """All leave together, so that the others notice one that hangs here; the rank that hosts the store goes last."""
    store.add("arrived", 1)
    with heartbeat.waiting():
        for _ in polls():
            if store.add("arrived", 0) >= ranks.size:
                break
    heartbeat.leave()
    store.add("left", 1)
    if ranks.rank == 0 and not agent_hosts_store():
        wait_until(lambda: store.add("left", 0) >= ranks.size, LEAVE)


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
