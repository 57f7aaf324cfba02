"""What the launcher said of this process, and which process this is. Imports nothing heavy."""

import dataclasses
import os
import socket
from pathlib import Path

from distmnist.errors import UsageError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, and what a launcher of one's own has to set."""


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process's place among those that a launcher has started."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int


def from_environment() -> Ranks | None:
    """What the launcher's variables say; None for a process on its own. An empty variable counts as unset.

    Raises UsageError for variables that are incomplete or contradict each other.
    """
    values = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if "RANK" not in values and "WORLD_SIZE" not in values:
        return None
    if missing := [name for name in VARIABLES if name not in values]:
        raise UsageError(f"RANK or WORLD_SIZE is set but not {', '.join(missing)}; set all of them, or use torchrun")
    rank, size, local_rank, local_size = (number(name, values[name]) for name in VARIABLES[:4])
    if size == 1:
        return None
    for name, fits, must in (
        ("WORLD_SIZE", size >= 1, "at least 1"),
        ("RANK", 0 <= rank < size, f"from 0 to {size - 1}, since WORLD_SIZE={size}"),
        ("LOCAL_WORLD_SIZE", 1 <= local_size <= size, f"from 1 to {size}, since WORLD_SIZE={size}"),
        (
            "LOCAL_RANK",
            0 <= local_rank < local_size,
            f"from 0 to {local_size - 1}, since LOCAL_WORLD_SIZE={local_size}",
        ),
    ):
        if not fits:
            raise UsageError(f"{name}={values[name]} in the environment must be {must}; correct it, or use torchrun")
    port = values["MASTER_PORT"]
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"MASTER_PORT={port} in the environment is not a port, 1 to 65535; set it to a free one on MASTER_ADDR"
            " (Kubernetes sets such variables for a service that is named master)"
        )
    return Ranks(rank, size, local_rank, local_size, values["MASTER_ADDR"], int(port))


def refuse_separate_tasks() -> None:
    """Raises UsageError in each of several SLURM tasks that no launcher has made ranks: each would do all of the work.

    The task with SLURM_PROCID 0 alone prints the line. sbatch and salloc by themselves do not set the variable.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdecimal() or int(tasks) < 2 or os.environ.get("RANK") or os.environ.get("WORLD_SIZE"):
        return
    error = UsageError(
        f"srun started {tasks} tasks without torchrun, and each would do the same work alone; start torchrun in one"
        " task a node, as launch/slurm.sbatch does, or a single task with srun --ntasks=1; where each task has work of"
        " its own, unset SLURM_STEP_NUM_TASKS"
    )
    error.printed = os.environ.get("SLURM_PROCID", "0") != "0"
    raise error


def number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name}={text} in the environment is not a number; correct it, or use torchrun") from None


def agent_hosts_store() -> bool:
    """Whether torchrun's agent, and not rank 0, hosts the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def has_siblings() -> bool:
    """Whether the launcher seems to have started several processes, be its variables right or wrong."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def attempt() -> int:
    """How often torchrun's agent has restarted its workers; 0 without torchrun.

    Not the same on all nodes: an agent that only sees its peers change restarts its workers without counting it.
    """
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def this_process() -> str:
    return name_process(os.getpid())


def parent_process() -> str:
    """Names the process that started this one."""
    return name_process(os.getppid())


def name_process(pid: int) -> str:
    """A name for a process of this machine; on Linux with its start time, since numbers are used again."""
    return f"{socket.gethostname()}:{pid}:{process_started(pid)}"


def process_started(pid: int) -> str:
    """When the process started, in clock ticks since boot (proc(5)); "" if it has ended, and on systems but Linux."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def process_space() -> str:
    """Names this machine and, in a container, the container: where numbers of processes mean the same. Else ""."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
