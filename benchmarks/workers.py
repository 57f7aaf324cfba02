"""Starts the ranks of a real training by torchrun, or as a launcher of one's own, with a fault on one of them.

As a script it is one such rank: python -m benchmarks.workers EVENTS FAULT [options of distmnist.train]
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks.faults import Fault, Witness, few_digits, strike
from distmnist import streams, train
from distmnist.data import known


def start(
    size: int, arguments: list[str], folder: Path, *, torchrun: bool, fault: Fault | None = None, restarts: int = 0
) -> list[subprocess.Popen]:
    """The processes started: torchrun's, or one a rank. They note events in folder/events and write to folder/err."""
    worker = [folder / "events", json.dumps(dataclasses.asdict(fault)) if fault else "", *arguments]
    script = ["benchmarks.workers", *map(str, worker)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / "err").open("ab") as err:
        options = {"stdout": subprocess.DEVNULL, "stderr": err, "start_new_session": True}
        if torchrun:
            elastic = [
                "--standalone",
                "--local-addr=127.0.0.1",
                f"--nproc-per-node={size}",
                f"--max-restarts={restarts}",
            ]
            command = [sys.executable, "-m", "torch.distributed.run", *elastic, "-m", *script]
            return [subprocess.Popen(command, env=environment, **options)]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        processes = []
        for rank in range(size):
            ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
            own = {
                name: str(value) for name, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()
            }
            command = [sys.executable, "-m", *script]
            processes.append(subprocess.Popen(command, env=environment | own, **options))
        return processes


def end(processes: list[subprocess.Popen]) -> None:
    """Kills what still runs of them, torchrun's workers included."""
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for process in processes:
        process.wait()


def main() -> None:
    events, fault, *arguments = sys.argv[1:]
    known.load, known.fetch = few_digits, lambda *_: None
    if fault and (mine := Fault(**json.loads(fault))).rank == int(os.environ["RANK"]):
        strike(mine, Path(events))
    code = train.main(arguments, [Witness(Path(events))])
    streams.settle()
    os._exit(code)  # as the command does: torch takes long to go


if __name__ == "__main__":
    main()
