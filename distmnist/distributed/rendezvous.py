"""How the processes of one attempt find each other, in a store that may still hold what earlier attempts wrote.

torchrun hands one store to every attempt of an elastic job, and no variable tells the attempts apart on every node: a
node that only sees its peers change does not count a restart. A process that trusts what it finds there would meet
processes that have ended. So nobody proceeds before rank 0 has seen this very process, and it this very rank 0.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from distmnist.distributed.beats import Beat, first_beat
from distmnist.distributed.failure import POLL, first_line
from distmnist.distributed.launcher import Ranks, agent_hosts_store, attempt, parent_process
from distmnist.errors import RunError, UsageError
from distmnist.machine import loopback

MARGIN = 2.0
"""Seconds beyond the time-out after which a call that has a time-out of its own counts as blocked."""


def limited(work: Callable[[], Any], seconds: float, complaint: Callable[[], str]) -> Any:
    """work(), in a thread that is left behind if it takes longer: the store's calls may block in C for ever.

    Raises what it raises, and RunError(complaint()) after `seconds`.
    """
    outcome: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not outcome:
        raise RunError(complaint())
    return outcome[0]


def open_store(ranks: Ranks, timeout: float) -> dist.Store:
    """The store at MASTER_ADDR:MASTER_PORT, which rank 0 hosts unless torchrun's agent does.

    Raises UsageError if the port is taken; RunError if the store cannot be reached within `timeout` seconds.
    """
    where = f"{ranks.address}:{ranks.port}"
    hosts = ranks.rank == 0 and not agent_hosts_store()
    if not hosts:
        wait_for_listener(ranks, timeout)

    def connect() -> dist.Store:
        limit = datetime.timedelta(seconds=timeout)
        return dist.TCPStore(
            ranks.address, ranks.port, ranks.size, hosts, limit, wait_for_workers=False, multi_tenant=True
        )

    try:
        return limited(
            connect,
            timeout + MARGIN,
            lambda: (
                f"another program than torch's store listens at MASTER_ADDR:MASTER_PORT {where}; choose a free port"
            ),
        )
    except dist.DistError as error:
        if hosts:
            raise UsageError(
                f"rank 0 cannot listen at {where} ({first_line(error)}); choose a free MASTER_PORT on this machine"
            ) from error
        raise RunError(f"the store at {where} cannot be reached: {first_line(error)}") from error


def wait_for_listener(ranks: Ranks, timeout: float) -> None:
    """Returns once something listens at MASTER_ADDR:MASTER_PORT. torch would fill standard error while it waits.

    Raises RunError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((ranks.address, ranks.port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                host = "torchrun's agent" if agent_hosts_store() else "rank 0"
                raise RunError(
                    f"rank {ranks.rank} cannot reach {host} at {ranks.address}:{ranks.port} within {timeout:g} s"
                    f" ({error.strerror or error}); was it started, and are MASTER_ADDR and MASTER_PORT right?"
                ) from error
        time.sleep(0.1)


@dataclasses.dataclass(frozen=True)
class Member:
    """A process that wants to take part. agent: its parent process; attempt: see `launcher.attempt`."""

    id: str
    rank: int
    size: int
    agent: str
    attempt: int

    def is_older_than(self, others: list["Member"]) -> bool:
        """Whether its agent has started a later attempt. Agents do not count alike: two are not compared."""
        return any(other.agent == self.agent and other.attempt > self.attempt for other in others)


def meet(
    store: dist.Store, rank: int, size: int, timeout: float, on_leader: Callable[[Beat], None] = lambda leader: None
) -> dist.Store:
    """Waits for rank 0, and rank 0 for all. Returns a store that only the processes of this attempt know.

    on_leader: called with rank 0's process as soon as the others know it.

    Raises RunError after `timeout` seconds, naming the ranks that did not come; UsageError for a process that was
    started with another WORLD_SIZE than rank 0.
    """
    store = dist.PrefixStore("distmnist", store)
    me = Member(uuid.uuid4().hex, rank, size, parent_process(), attempt())
    store.append("members", json.dumps(dataclasses.asdict(me)) + "\n")  # type: ignore[attr-defined]  # not in the stubs
    deadline = time.monotonic() + timeout
    name = gather_members(store, me, deadline) if rank == 0 else wait_for_leader(store, me, deadline, on_leader)
    return dist.PrefixStore(name, store)


def read_members(store: dist.Store) -> list[Member]:
    """All that ever wanted to take part, the oldest first."""
    return [Member(**json.loads(line)) for line in store.get("members").decode().splitlines()]


def wait_for_leader(store: dist.Store, me: Member, deadline: float, on_leader: Callable[[Beat], None]) -> str:
    """Waits until rank 0's list holds this very process, confirms it, and waits for the others to have done so.

    Returns the attempt's name.
    """
    for _ in polls(deadline + MARGIN):  # rank 0 knows who is missing: let it speak first
        if not store.check(["list"]):
            continue
        found = json.loads(store.get("list"))
        if me.id in found["refused"]:
            raise UsageError(f"{found['refused'][me.id]}; start all processes alike")
        if found["members"].get(str(me.rank)) != me.id or Member(**found["leader"]).is_older_than([me]):
            continue
        on_leader(Beat(**found["process"]))
        store.set(f"{found['name']}/here/{me.rank}", "")
        if found["failed"]:
            raise RunError(found["failed"])
        if found["complete"]:
            return found["name"]
    raise RunError(f"rank 0 of {me.size} did not admit rank {me.rank} within the --timeout; is it running?")


def gather_members(store: dist.Store, me: Member, deadline: float) -> str:
    """Lists the processes that take part, anew after each that comes, until all have confirmed. Returns the name."""
    name = uuid.uuid4().hex
    found: dict[str, Any] = {"name": name, "complete": False, "failed": ""}
    found |= {"leader": dataclasses.asdict(me), "process": dataclasses.asdict(first_beat(me.rank))}
    missing = set(range(1, me.size))
    strangers: dict[str, str] = {}

    def publish(**changes: Any) -> None:
        if not changes.items() <= found.items():
            found.update(changes)
            store.set("list", json.dumps(found))

    for _ in polls(deadline):
        everyone = read_members(store)
        if me.is_older_than(everyone):
            raise RunError("a newer attempt of this run has begun; this process belongs to an older one")
        current = [member for member in everyone if not member.is_older_than(everyone)]
        strangers = {
            other.id: f"rank {other.rank} was started with WORLD_SIZE={other.size}, rank 0 with {me.size}"
            for other in current
            if other.size != me.size
        }
        members = {str(other.rank): other.id for other in current if other.size == me.size}
        # Under torchrun the others may be right, and this rank 0 of an attempt that has been given up.
        refused = {} if "TORCHELASTIC_RUN_ID" in os.environ else strangers
        publish(members=members, refused=refused)
        missing = {rank for rank in missing if not store.check([f"{name}/here/{rank}"])}
        if not missing:
            publish(complete=True)
            return name
    late = ", ".join(str(rank) for rank in sorted(missing))
    also = f" ({next(iter(strangers.values()))})" if strangers else ""
    text = f"rank {late} of {me.size} did not come within the --timeout{also}; was every node started?"
    publish(failed=text)
    raise RunError(text)


def polls(deadline: float = math.inf) -> Iterator[None]:
    """Times at which to look at the store, the first ones close together, until the deadline."""
    pause = POLL / 16
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
        pause = min(2 * pause, POLL)


def stay_on_this_machine() -> str:
    """Has gloo use the loopback interface, and returns its address: a host's own name need not resolve."""
    if name := loopback():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    return "127.0.0.1"


def check_interface() -> None:
    """Raises UsageError if GLOO_SOCKET_IFNAME names an interface that this machine does not have."""
    named = os.environ.get("GLOO_SOCKET_IFNAME", "")
    for name in filter(None, named.split(",")):
        with contextlib.suppress(OSError):
            socket.if_nametoindex(name)
            continue
        there = ", ".join(each for _, each in socket.if_nameindex())
        raise UsageError(
            f"GLOO_SOCKET_IFNAME={named}: {socket.gethostname()} has no interface {name}; choose from {there}"
        )
