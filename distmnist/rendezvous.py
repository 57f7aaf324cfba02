"""How the processes of one attempt find each other in a store that may still hold the words of earlier attempts.

torchrun hands one store to every attempt of an elastic job, and no variable tells the attempts apart on every node: a
node that only sees its peers change does not count a restart. A process that trusts what it finds there meets the
dead. So nobody proceeds before rank 0 has seen this very process, and it this very rank 0.
"""

import json
import time
import uuid

import torch.distributed as dist

from distmnist.config import RunError

POLL = 0.02
"""Seconds between two looks at the store."""


def meet(store: dist.Store, rank: int, size: int, timeout: float) -> dist.Store:
    """Waits for rank 0, and rank 0 for all. Returns a store that only the processes of this attempt know.

    Raises RunError after `timeout` seconds; it names the ranks that did not come.
    """
    store = dist.PrefixStore("distmnist", store)
    deadline = time.monotonic() + timeout
    name = lead(store, size, deadline) if rank == 0 else follow(store, rank, deadline)
    return dist.PrefixStore(name, store)


def follow(store: dist.Store, rank: int, deadline: float) -> str:
    """Says hello; once rank 0's roll lists this very process, says here. Returns the attempt's name."""
    me = uuid.uuid4().hex
    store.set(f"hello/{rank}", me)
    while time.monotonic() < deadline:
        if store.check(["roll"]):
            roll = json.loads(store.get("roll"))
            if roll["members"].get(str(rank)) == me:
                store.set(f"{roll['name']}/here/{rank}", "")
                return roll["name"]
        time.sleep(POLL)
    raise RunError(f"rank 0 did not call rank {rank} within the --timeout; is it running?")


def lead(store: dist.Store, size: int, deadline: float) -> str:
    """Calls the roll, anew after each new hello, until all have answered. Returns the attempt's name."""
    name = uuid.uuid4().hex
    members: dict[str, str] = {}
    missing = set(range(1, size))
    while missing:
        if time.monotonic() > deadline:
            late = ", ".join(str(rank) for rank in sorted(missing))
            raise RunError(f"rank {late} of {size} did not come within the --timeout; was every node started?")
        greeted = {str(rank): f"hello/{rank}" for rank in missing if store.check([f"hello/{rank}"])}
        hellos = {rank: store.get(key).decode() for rank, key in greeted.items()}
        if hellos.items() - members.items():
            members |= hellos
            store.set("roll", json.dumps({"name": name, "members": members}))
        missing = {rank for rank in missing if not store.check([f"{name}/here/{rank}"])}
        if missing:
            time.sleep(POLL)
    return name
