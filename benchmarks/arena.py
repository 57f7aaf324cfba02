"""Starts the contestants of a benchmark one after the other, each in processes of its own, and asks them in turn."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self


class Contestant:
    """The process of one contestant, or its processes: each with torchrun's environment, told the same cases."""

    def __init__(self, name: str, data_dir: Path, errors: Path, processes: int = 1) -> None:
        """`errors`: a new file, which takes what the processes print."""
        self.name, self.errors = name, errors
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "KERAS_BACKEND": "jax",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        with errors.open("w") as file:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.contestant", name, "--data-dir", str(data_dir)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    text=True,
                )
                for rank in range(processes)
            ]

    def ask(self, **job: Any) -> dict[str, Any]:
        """The answer to one job: see contestant.py. Raises RuntimeError with the last lines it printed if it died."""
        try:
            for process in self.processes:
                print(json.dumps(job), file=process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended, and so will not answer
        return self.answer(f"asked {job}")

    def answer(self, when: str) -> Any:
        """The next thing it says, from JSON."""
        if answer := self.processes[0].stdout.readline():
            return json.loads(answer)
        last = self.errors.read_text(errors="replace").splitlines()[-20:]
        raise RuntimeError("\n".join([f"the contestant {self.name} ended while it was {when}:", *last]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and been told what it did not read
                process.stdin.close()  # ends its loop
            if failure:
                process.kill()
        for process in self.processes:
            process.wait()


class Arena(contextlib.ExitStack):
    """While entered, holds contestants; at its end their processes end."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.count = 0

    def start(self, name: str, processes: int = 1) -> Contestant:
        """name: what `benchmarks.contestant` takes. Returns when it is ready, and idle until it is asked."""
        self.count += 1
        errors = self.folder / f"{self.count}.log"
        contestant = self.enter_context(Contestant(name, self.data_dir, errors, processes))
        contestant.answer("started")
        return contestant
