"""What the doctor looks at on one host: a finding for each thing that training depends on, with what to do about it."""

import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from distmnist.config import Job, TrainConfig, data_is_chosen, is_own
from distmnist.data import audit, known, sources
from distmnist.distributed.world import World, choose_device
from distmnist.doctor import network
from distmnist.errors import UsageError
from distmnist.machine import default_processes, default_threads, processor, usable_cores, versions
from distmnist.runs.rundir import RUNS
from distmnist.training.precision import choose_amp

OK, WARNING, PROBLEM = "ok", "warning", "problem"

FREE_DISK = 1 << 30
"""Bytes that a run should find free: the checkpoints of both nets take 13 MB, MNIST 55 MB."""

FREE_SHM = 256 << 20
"""Bytes of shared memory that nccl should find free; containers are given 64 MiB (nccl's troubleshooting guide)."""


class Finding(NamedTuple):
    """One line of the report. text: what was found and, unless `level` is OK, what to do about it."""

    level: str
    name: str
    text: str


def look_at_host(job: Job, endpoint: str | None, world: World) -> list[Finding]:
    """All findings of this host that need no other host. Leaves the choice of the device in `world`."""
    config, run, chosen = job.common, job.run, data_is_chosen(job.explicit)
    findings = [look_at_versions(), look_at_device(run.device, world)]
    findings += [
        look_at_precision(config.amp, world.device),
        look_at_cores(run.threads, world),
        look_at_images(config) if is_own(config.data) else look_at_known_set(config.data, run.data_dir, chosen),
        look_at_disk(run.output or RUNS),
        look_at_network(world),
    ]
    if world.device.type == "cuda" and world.local_size > 1:
        findings.append(look_at_shared_memory(Path("/dev/shm")))
    if endpoint:
        findings.append(look_at_endpoint(endpoint))
    return findings


def look_at_versions() -> Finding:
    parts = [f"{name} {version}" for name, version in versions().items()]
    return Finding(OK, "versions", "  ".join([*parts, f"{platform.system()} {platform.machine()}"]))


def look_at_device(requested: str, world: World) -> Finding:
    """Chooses `world.device` as training would."""
    try:
        world.device = choose_device(requested, world)
    except UsageError as error:
        return Finding(PROBLEM, "device", str(error))
    if world.device.type == "cuda":
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        models = ", ".join(f"{gpu.name} {gpu.total_memory >> 30} GiB ({gpu.major}.{gpu.minor})" for gpu in gpus)
        if world.local_size < len(gpus):
            return Finding(
                WARNING,
                "device",
                f"{world.local_size} of {len(gpus)} GPUs used: {models}; use --nproc_per_node={len(gpus)} for all",
            )
        return Finding(OK, "device", models)
    if requested != "cpu" and Path("/dev/nvidia0").exists():
        why = "its driver does not suit it" if torch.version.cuda else "it is a build for the CPU; install one for CUDA"
        return Finding(PROBLEM, "device", f"there is a GPU, but torch {torch.__version__} cannot use it: {why}")
    return Finding(OK, "device", f"cpu: {processor()}")


def look_at_precision(requested: str, device: torch.device) -> Finding:
    amp, why = choose_amp(requested, device)
    native = choose_amp("auto", device)[0] == "bf16"
    kinds = f"bf16 {'native' if native else 'emulated, slow'}, fp16 with gradient scaling"
    if amp == "bf16" and not native:
        return Finding(WARNING, "precision", f"--amp bf16 is emulated on this {device.type}; use --amp auto ({kinds})")
    return Finding(OK, "precision", f"--amp {requested} takes {amp}: {why} ({kinds})")


def look_at_cores(wanted: int | None, world: World) -> Finding:
    """`wanted`: what --threads says."""
    cores, processes = usable_cores(), world.local_size
    threads = wanted or default_threads(processes)
    text = f"{cores} of {os.cpu_count()} usable, {processes} process{'es' if processes > 1 else ''} x {threads} thread"
    text += "s" if threads > 1 else ""
    if processes > cores:
        return Finding(WARNING, "cores", f"{text}: more processes than cores; use --nproc_per_node={cores} or fewer")
    if processes * threads > cores:
        return Finding(WARNING, "cores", f"{text}: more threads than cores; use --threads {cores // processes}")
    if "TORCHELASTIC_RUN_ID" in os.environ and processes > 1:
        return Finding(OK, "cores", f"{text}; torchrun's warning about OMP_NUM_THREADS can be ignored")
    return Finding(OK, "cores", f"{text}; launch/single_node.sh starts {default_processes()}")


def look_at_images(config: TrainConfig) -> Finding:
    """Reads them, and tells what training would warn of."""
    notes: list[str] = []
    try:
        dataset = sources.load(config, Path(), notes.append)
    except UsageError as error:
        return Finding(PROBLEM, "data", str(error))
    warnings = audit.warnings(dataset)
    channels, height, width = dataset.train.shape
    text = f"{len(dataset.train):,} + {len(dataset.test):,} images of {channels} x {height} x {width}: {dataset.origin}"
    return Finding(WARNING if warnings else OK, "data", "; ".join([text, *notes, *warnings]))


def look_at_known_set(name: str, directory: Path, chosen: bool) -> Finding:
    """Reads and verifies the known data set `name`. Downloads nothing, and makes nothing."""
    try:
        dataset = known.load(name, directory)
    except known.NotFound:
        wanted, falls_back = known.known_set(name), known.sample_may_replace(name, chosen)
        otherwise = (
            "falls back on the sample of 5,000 digits where it cannot" if falls_back else "stops where it cannot"
        )
        if not (reason := known.elsewhere(directory, wanted) or known.objection(directory, wanted)):
            text = f"no {wanted.title} in {directory}: training downloads it, and {otherwise}; put it there"
            return Finding(WARNING, "data", text)
        if falls_back:
            return Finding(WARNING, "data", known.substituted(directory, reason))
        return Finding(PROBLEM, "data", str(known.not_found(directory, reason, wanted)))
    except UsageError as error:
        return Finding(PROBLEM, "data", str(error))
    return Finding(OK, "data", f"{len(dataset.train):,} + {len(dataset.test):,} images: {dataset.origin}")


def look_at_disk(output: Path) -> Finding:
    """Where runs go: `output`, or what of it there is."""
    folder = existing(output)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Finding(PROBLEM, "disk", f"{folder} cannot be written; name another --output, or change its owner")
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:,.1f} GB free for runs in {folder}"
    return Finding(OK, "disk", text) if free >= FREE_DISK else Finding(WARNING, "disk", f"{text}; make room")


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that this user can see."""
    # os.path.exists: Path's raises below a directory that may not be entered
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))


def look_at_shared_memory(path: Path) -> Finding:
    if not path.exists() or (free := shutil.disk_usage(path).free) < FREE_SHM:
        return Finding(WARNING, "shared memory", f"{path} is too small for nccl; give the container 1 GiB (--shm-size)")
    return Finding(OK, "shared memory", f"{free / 1e9:,.1f} GB free in {path}")


def look_at_network(world: World) -> Finding:
    """Which interface the processes would talk over: a problem only if there are others to talk to elsewhere."""
    known = network.interfaces()
    gloo, nccl = network.gloo_address(), network.nccl_interfaces()
    named = os.environ.get("GLOO_SOCKET_IFNAME")
    if named and gloo is None:
        return Finding(
            PROBLEM, "network", f"GLOO_SOCKET_IFNAME={named} has no address here; choose from {', '.join(known)}"
        )
    if not nccl and known:
        wish = os.environ.get("NCCL_SOCKET_IFNAME")
        return Finding(PROBLEM, "network", f"NCCL_SOCKET_IFNAME={wish} fits none of {', '.join(known)}; change it")
    reached = f"gloo takes {network.interface_of(gloo) or 'address'} {gloo}" if gloo else "gloo takes the loopback"
    text = f"{reached}, nccl {' or '.join(nccl) or 'nothing'}; there are {', '.join(known)}"
    several = world.size > world.local_size
    if several and world.device.type == "cpu" and (gloo is None or network.is_loopback(gloo)):
        return Finding(
            PROBLEM,
            "network",
            f"{text}: other hosts cannot reach that; set GLOO_SOCKET_IFNAME to an interface of theirs",
        )
    if several and world.device.type == "cuda" and set(nccl) <= {"lo"}:
        return Finding(PROBLEM, "network", f"{text}: other hosts cannot reach that; set NCCL_SOCKET_IFNAME")
    return Finding(OK, "network", text)


def look_at_endpoint(endpoint: str) -> Finding:
    """HOST:PORT at which several hosts are to meet, seen from here and before they do."""
    try:
        host, port = network.parse_endpoint(endpoint)
        mine = network.route(host)
    except UsageError as error:
        return Finding(PROBLEM, "endpoint", str(error))
    if mine.is_host and network.is_loopback(mine.address):
        return Finding(
            WARNING, "endpoint", f"{host} is the loopback here: good for one host only; name an address of the network"
        )
    if mine.is_host:
        if network.port_is_free(port):
            return Finding(
                OK, "endpoint", f"{host} is this host ({mine.interface} {mine.address}), port {port} is free"
            )
        return Finding(PROBLEM, "endpoint", f"port {port} is in use on this host; end what uses it, or name another")
    over = f"{host} is reached over {mine.interface} {mine.address}"
    if network.answers(host, port):
        return Finding(OK, "endpoint", f"{over}, and port {port} answers")
    return Finding(WARNING, "endpoint", f"{over}, but nobody answers at port {port}; start the job there, or open it")
