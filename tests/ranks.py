"""Runs a function on several ranks, as torchrun would, in well under a second: processes forked from a warm server.

In a test module, with the function at its top level:

    def total(world, mine):
        return world.sum_(torch.tensor([mine])).item()

    assert run_ranks(total, 3, 2) == [6, 6, 6]
"""

import contextlib
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distmnist.distributed import join

PATHS = (str(Path(__file__).parents[1]), str(Path(__file__).parent))
PRELOAD = ["pytest", "torch", "torch._dynamo", "distmnist.job", "ranks"]
"""Imported once, by the server. DDP imports torch._dynamo when it is made: 1.2 s a process."""


class RankFailed(Exception):
    """A rank raised, died or was late. The message holds its traceback."""


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 60.0,
    patience: float = 30.0,
    connect: bool = True,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Calls function(world, *args) on `world_size` gloo ranks of one thread each. Returns what they return, by rank.

    The function, its arguments and results must pickle; the function has to lie at the top level of a module. `world`
    comes from `distmnist.distributed.join` and is connected, unless `connect` is false. `patience`: seconds that ranks
    wait for each other. `environment`: variables beside torchrun's; "{rank}" in a value is replaced.
    Raises RankFailed with the traceback of the first rank that fails; after `timeout` seconds in all, too. No process
    outlives the call.
    """
    return run_processes(
        _on_rank, world_size, function, args, patience, connect, timeout=timeout, environment=environment
    )


def run_processes(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """`run_ranks` without joining: calls function(*args) in processes that have torchrun's environment."""
    context = _server()
    # As torchrun does it, the store is the launcher's, on a port that is free because it is bound at once.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, pipes = [], []
    try:
        for rank in range(world_size):
            variables = {
                "RANK": rank,
                "WORLD_SIZE": world_size,
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": world_size,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": store.port,
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                **(environment or {}),
            }
            variables = {name: str(value).replace("{rank}", str(rank)) for name, value in variables.items()}
            mine, theirs = context.Pipe(duplex=False)
            pipes.append(mine)
            # Pickled here: multiprocessing would send tensors as shared memory that dies with its owner.
            work = pickle.dumps((function, args))
            process = context.Process(target=_worker, args=(theirs, variables, work), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
        return _collect(pipes, processes, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def _collect(pipes: list[connection.Connection], processes: list[Any], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = dict(zip(pipes, range(len(pipes)), strict=True))
    while waiting:
        ready = connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            late = ", ".join(str(rank) for rank in waiting.values())
            raise RankFailed(f"no result in time from rank {late} of {len(pipes)}")
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                fine, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                processes[rank].join()
                raise RankFailed(f"rank {rank} died with exit code {processes[rank].exitcode}") from None
            if not fine:
                raise RankFailed(f"on rank {rank}:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _server() -> Any:
    """The forkserver's context; the first call starts the server, whose children find torch imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def _worker(pipe: connection.Connection, variables: dict[str, str], work: bytes) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        function, args = pickle.loads(work)
        answer = pickle.dumps((True, function(*args)))
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    with contextlib.suppress(BrokenPipeError):  # the test has given up on this rank
        pipe.send_bytes(answer)


def _on_rank(function: Callable[..., Any], args: tuple[Any, ...], patience: float, connect: bool) -> Any:
    with join(patience) as world:
        if connect:
            world.connect(patience)
        return function(world, *args)
