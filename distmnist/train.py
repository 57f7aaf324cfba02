"""The command: torchrun --nproc_per_node=N -m distmnist.train [options], or python -m distmnist.train with one process.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 129 SIGHUP, 130 SIGINT, 143 SIGTERM. torchrun answers 1 for any
but 0.
"""

import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from distmnist import streams
from distmnist.commandline import answer, end, parse
from distmnist.distributed.launcher import refuse_separate_tasks

if TYPE_CHECKING:
    from distmnist.training.callbacks import Callback


def main(arguments: Sequence[str] | None = None, callbacks: Sequence["Callback"] = ()) -> int:
    """Runs the command. Returns its exit code; `callbacks` are called beside its own."""
    return answer(lambda: work(arguments, callbacks), ranks=True)


def work(arguments: Sequence[str] | None, callbacks: Sequence["Callback"]) -> int:
    refuse_separate_tasks()
    asked = parse(arguments)
    # torch's C++ code would fill standard error with warnings when a rank is lost: our own line says which.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from distmnist.runs import job  # imports torch: 2 s that a mistyped option need not take

    return job.run(asked, callbacks)


def command() -> NoReturn:
    """Runs `main`, then ends the process: at once if it has nothing else to do, for torch takes half a second to go."""
    if not is_alone():
        end(main)
    code = main()
    streams.settle()
    os._exit(code)


def is_alone() -> bool:
    """Whether the process is for this command alone: no other program has called it, and none wants its end.

    A profiler or tracer writes what it has found after SystemExit; `python -i` and a caller of runpy go on.
    """
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    tools = monitoring and any(monitoring.get_tool(number) for number in range(6))
    if sys.getprofile() or sys.gettrace() or tools or sys.flags.inspect:
        return False
    frame = inspect.currentframe()
    while frame and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    # Only runpy, which is what `python -m` is made of, may have run the module.
    while frame and (frame := frame.f_back):
        if frame.f_globals.get("__name__") != "runpy":
            return False
    return True


if __name__ == "__main__":
    command()
