"""The command: torchrun --nproc_per_node=N -m distmnist.train [options], or python -m distmnist.train with one process.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 SIGINT, 143 SIGTERM. torchrun answers 1 for any but 0.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from distmnist.commandline import answer, fail, parse
from distmnist.config import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        given = parse(arguments)
    except UsageError as error:
        # Every node's first process speaks: the nodes may have been started with different options.
        return fail(str(error), 2, speaker="LOCAL_RANK")
    return answer(lambda: work(given))


def work(given: dict[str, Any]) -> int:
    from distmnist import job  # imports torch: 2 s that a mistyped option need not take

    return job.run(given)


def command() -> NoReturn:
    """Runs `main`, then ends the process at once: all is written by then, and torch would take half a second to go."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
