"""Runs a function on several ranks, as torchrun would, in well under a second: processes forked from a warm server.

In a test module, with the function at its top level:

    def total(world, mine):
        return world.sum_(torch.tensor([mine])).item()

    assert run_ranks(total, 3, 2) == [6, 6, 6]
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import runpy
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distmnist.distributed.world import join

PATHS = (str(Path(__file__).parents[2]), str(Path(__file__).parent))
PRELOAD = ["pytest", "torch", "torch._dynamo", "distmnist.runs.job", "ranks"]
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
    comes from `join` and is connected, unless `connect` is false. `patience`: seconds that ranks
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
            agent = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
            variables = _variables(rank, world_size, {**agent, **(environment or {})})
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


@dataclasses.dataclass
class Ended:
    """What is left of a rank: exit code, lines on standard output and error, seconds from its start to its end.

    The code of a rank that had to be killed at last is None.
    """

    code: int | None
    out: list[str]
    err: list[str]
    seconds: float


def end_processes(
    function: Callable[..., int],
    world_size: int,
    *args: Any,
    timeout: float = 60.0,
    torchrun: bool = True,
    terminate: bool = True,
    environment: Mapping[str, str] | None = None,
) -> list[Ended]:
    """Runs function(*args), which returns an exit code, on each rank to the end of its process, however that comes.

    torchrun: the launcher hosts the store and, as soon as one rank has failed, sends the others SIGTERM, as torchrun
    does, unless `terminate` is false; else rank 0 hosts the store and nobody interferes. After `timeout` seconds what
    still runs is killed.
    """
    context = _server()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if torchrun else None
    variables = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "test"} if torchrun else {}
    variables |= {"MASTER_PORT": str(store.port if store else free_port()), **(environment or {})}
    work = pickle.dumps((function, args))
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            began = time.monotonic()
            for rank in range(world_size):
                own = _variables(rank, world_size, variables)
                processes.append(context.Process(target=_run_to_end, args=(Path(folder), own, work), daemon=True))
                processes[-1].start()
            ended = _wait_for_ends(processes, began, timeout, terminate=torchrun and terminate)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
        texts = [[Path(folder, f"{name}-{rank}").read_text() for name in ("out", "err")] for rank in range(world_size)]
    return [
        Ended(
            processes[rank].exitcode if rank in ended else None,
            out.splitlines(),
            err.splitlines(),
            ended.get(rank, timeout),
        )
        for rank, (out, err) in enumerate(texts)
    ]


def _wait_for_ends(processes: list[Any], began: float, timeout: float, *, terminate: bool) -> dict[int, float]:
    """Rank -> seconds, of those that have ended in time."""
    ended: dict[int, float] = {}
    running = {process.sentinel: rank for rank, process in enumerate(processes)}
    while running and (left := began + timeout - time.monotonic()) > 0:
        for sentinel in connection.wait(list(running), left):
            rank = running.pop(sentinel)
            ended[rank] = time.monotonic() - began
            if terminate and processes[rank].exitcode:
                terminate = False
                for other in running.values():
                    processes[other].terminate()
    return ended


def _run_to_end(folder: Path, variables: dict[str, str], work: bytes) -> None:
    os.environ.update(variables)
    rank = variables["RANK"]
    _redirect(folder / f"out-{rank}", folder / f"err-{rank}")
    torch.set_num_threads(1)
    function, args = pickle.loads(work)
    code = function(*args)
    sys.stdout.flush()
    os._exit(code)


def _redirect(out: Path, err: Path, encoding: str | None = None) -> None:
    """Has this process write its standard output and error to files."""
    for descriptor, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False, encoding=encoding)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding=encoding)  # noqa: SIM115


def run_module(
    module: str,
    *arguments: str | Path,
    folder: Path,
    out: Path | None = None,
    before: Callable[[], None] | None = None,
    timeout: float = 60.0,
    **variables: str,
) -> Ended:
    """`python -m module arguments`, run in `folder` in a process that is forked: it need not import torch, which takes
    seconds. The interpreter is not started anew: what happens as it starts or ends needs a process of its own.

    out: a file that takes its standard output, such as /dev/full; before: called first, in that process; variables:
    of the environment, beside those of this process.
    """
    environment = {**os.environ, **variables}
    work = module, list(map(str, arguments)), folder, before
    with tempfile.TemporaryDirectory() as name:
        files = out or Path(name, "out"), Path(name, "err")
        process = _server().Process(target=_run_module, args=(files, environment, *work), daemon=False)
        began = time.monotonic()
        process.start()
        process.join(timeout)
        seconds = time.monotonic() - began
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        said = [] if out else files[0].read_text().splitlines()
        return Ended(code, said, files[1].read_text().splitlines(), seconds)


def _run_module(
    files: tuple[Path, Path],
    environment: dict[str, str],
    module: str,
    arguments: list[str],
    folder: Path,
    before: Callable[[], None] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    _redirect(*files, encoding=environment.get("PYTHONIOENCODING"))
    os.chdir(folder)
    if before:
        before()
    sys.argv[1:] = arguments
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _variables(rank: int, world_size: int, more: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would set for this rank; "{rank}" in a value is replaced."""
    variables = {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        **more,
    }
    return {name: str(value).replace("{rank}", str(rank)) for name, value in variables.items()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _collect(pipes: list[connection.Connection], processes: list[Any], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    dead: list[int] = []
    waiting = dict(zip(pipes, range(len(pipes)), strict=True))
    while waiting:
        ready = connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready and not dead:
            late = ", ".join(str(rank) for rank in waiting.values())
            raise RankFailed(f"no result in time from rank {late} of {len(pipes)}")
        if not ready:
            break
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                fine, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                # A rank ends without an answer when another has failed: that one's answer tells more.
                dead.append(rank)
                deadline = min(deadline, time.monotonic() + 3)
                continue
            if not fine:
                raise RankFailed(f"on rank {rank}:\n{value}")
            results[rank] = value
    if dead:
        processes[dead[0]].join()
        raise RankFailed(f"rank {dead[0]} died with exit code {processes[dead[0]].exitcode}")
    return [results[rank] for rank in range(len(pipes))]


def _server() -> Any:
    """The forkserver's context; the first call starts the server, whose children find torch imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command sets it before it imports torch
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
            world.connect()
        return function(world, *args)
