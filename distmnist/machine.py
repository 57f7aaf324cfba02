"""What this machine is and gives a process: its processor, cores, threads, native bf16, the loopback interface.

python -m distmnist.machine [PROCESSES]    prints two numbers: how many processes to start here, and threads for each
"""

import ctypes
import importlib
import os
import platform
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from distmnist import __version__


def hardware(device: torch.device) -> str:
    """The name of what computes: the GPU's, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor(root: Path = Path("/")) -> str:
    """The processor's name: on Linux, where it has one there, from /proc/cpuinfo; elsewhere what Python says."""
    try:
        found = re.search(r"^model name\s*: (.+)$", (root / "proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def usable_cores(root: Path = Path("/")) -> int:
    """Cores this process may use: its affinity mask, cut by a cgroup's CPU quota (rounded down, at least 1)."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *cgroup_quotas(root)])))


def cgroup_quotas(root: Path) -> list[float]:
    """CPU quotas in cores, of this process's cgroup and those above it; version 2, then version 1. Linux only."""
    quotas: list[float] = []
    try:
        own = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return quotas
    path = next((line[3:].strip("/") for line in own if line.startswith("0::")), "")
    for folder in (Path(path), *Path(path).parents):
        quotas += quota(root / "sys/fs/cgroup" / folder / "cpu.max")
    v1 = root / "sys/fs/cgroup/cpu"
    return quotas + quota(v1 / "cpu.cfs_quota_us", v1 / "cpu.cfs_period_us")


def quota(*files: Path) -> list[float]:
    """[quota / period] from the two numbers in `files`, or [] where they are absent or say "no limit"."""
    try:
        used, period = " ".join(file.read_text() for file in files).split()
        return [int(used) / int(period)] if int(used) > 0 else []
    except (OSError, ValueError):
        return []


def default_threads(processes: int) -> int:
    """Usable cores shared out over the processes of this machine.

    A smaller OMP_NUM_THREADS is respected, but for the 1 that torchrun itself sets when there are several processes.
    """
    threads = max(1, usable_cores() // processes)
    wish = os.environ.get("OMP_NUM_THREADS", "")
    set_by_torchrun = wish == "1" and "TORCHELASTIC_RUN_ID" in os.environ and processes > 1
    return min(threads, int(wish)) if wish.isdigit() and int(wish) and not set_by_torchrun else threads


def default_processes() -> int:
    """How many processes suit this machine: one a GPU, else a power of two up to its cores, so that V can divide.

    4 at most on the CPU: of the default batch of 64 each then has 16 digits, and the other cores become its threads.
    """
    return torch.cuda.device_count() or min(4, 1 << (usable_cores().bit_length() - 1))


def has_native_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16, AMX or Arm BF16); emulation is slower than float32."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def versions(*more: str) -> dict[str, str]:
    """Of all that a result may depend on: this project, torch, numpy, Python, and the packages `more`."""
    named = {name: str(importlib.import_module(name).__version__) for name in ("torch", "numpy")}
    others = {name: str(importlib.import_module(name).__version__) for name in more}
    return {"distmnist": __version__, **named, "python": platform.python_version(), **others}


def flush_denormals() -> bool:
    """Has the processor take numbers below 1e-38 for 0. Returns False where it cannot.

    Late in training many gradients and moments are that small, and an operation on one takes a hundred times as long:
    a CNN step 12.6 ms instead of 9.5 ms. Threads that are started later inherit it, hence before the first operation.
    """
    return torch.set_flush_denormal(True)


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed. Returns False where the C library is another one, and changes nothing.

    By default it gives each large activation back to the kernel, which hands it out again a step later, page by page:
    up to 40 % of a CNN step. The constants are those of mallopt(3).
    """
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((m_mmap_threshold, 1 << 30), (m_trim_threshold, (1 << 31) - 1), (m_top_pad, 64 << 20))
    return all(mallopt(name, value) for name, value in settings)


def keep_float32() -> None:
    """Has cuDNN round no float32 convolution to TF32, as it does by default, and choose algorithms that repeat."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def be_deterministic() -> None:
    """Has torch use algorithms that give the same bits each time, or raise where there is none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch.use_deterministic_algorithms asks for
    torch.set_deterministic_debug_mode("error")  # without the second that torch's compiler takes to import


def die_with_parent() -> None:
    """Has Linux end this process when the one that started it ends: a killed torchrun leaves no orphans."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os.kill(os.getpid(), signal.SIGKILL)


def loopback() -> str | None:
    """The loopback interface's name, None where there is none to be found."""
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    return next((name for name in ("lo", "lo0") if name in names), None)


def main(arguments: Sequence[str]) -> int:
    """Prints what the scripts in launch/ give torchrun. arguments: the number of processes, or nothing: what suits."""
    if len(arguments) > 1 or not all(re.fullmatch("[1-9][0-9]*", text) for text in arguments):
        print(f"distmnist: {' '.join(arguments)!r} is not a number of processes from 1 on", file=sys.stderr)
        return 2
    processes = int(arguments[0]) if arguments else default_processes()
    print(processes, default_threads(processes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
