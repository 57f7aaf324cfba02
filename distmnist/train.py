"""The command: torchrun --nproc_per_node=N -m distmnist.train [options], or python -m distmnist.train with one process.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 SIGINT, 143 SIGTERM. torchrun answers 1 for any but 0.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from distmnist.commandline import parse
from distmnist.config import RunError, UsageError

PATIENCE = 3.0
"""Seconds that the other ranks leave to rank 0 to speak: torchrun ends them all as soon as one has left."""


def main(arguments: Sequence[str] | None = None) -> int:
    rank, local_rank = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK"))
    try:
        with contextlib.nullcontext() if rank == "0" else contextlib.redirect_stdout(io.StringIO()):
            given = parse(arguments)
    except UsageError as error:
        # Every node's first process speaks: the nodes may have been started with different options.
        return fail(str(error), 2, speak=local_rank == "0", wait=rank != "0")
    try:
        from distmnist import job  # imports torch: 2 s that a mistyped option need not take

        return job.run(given)
    except UsageError as error:
        return fail(str(error), 2, speak=rank == "0", wait=rank != "0")
    except RunError as error:
        return fail(str(error), 1, speak=rank == "0", wait=rank != "0")
    except KeyboardInterrupt:
        return 130


def fail(message: str, code: int, *, speak: bool, wait: bool) -> int:
    if wait:
        time.sleep(PATIENCE)
    if speak:
        print(f"distmnist: {message}", file=sys.stderr, flush=True)
    return code


def command() -> NoReturn:
    """Runs `main`, then ends the process at once: all is written by then, and torch would take half a second to go."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
