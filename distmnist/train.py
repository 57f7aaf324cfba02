"""The command: torchrun --nproc_per_node=N -m distmnist.train [options], or python -m distmnist.train with one process.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 SIGINT, 143 SIGTERM. torchrun answers 1 for any but 0.
"""

import os
from collections.abc import Sequence
from typing import NoReturn

from distmnist import streams
from distmnist.commandline import answer, parse


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments), ranks=True)


def work(arguments: Sequence[str] | None) -> int:
    given = parse(arguments)
    # torch's C++ code would fill standard error with warnings when a rank is lost: our own line says which.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from distmnist import job  # imports torch: 2 s that a mistyped option need not take

    return job.run(given)


def command() -> NoReturn:
    """Runs `main`, then ends the process at once: all is written by then, and torch would take half a second to go."""
    code = main()
    streams.settle()
    os._exit(code)


if __name__ == "__main__":
    command()
