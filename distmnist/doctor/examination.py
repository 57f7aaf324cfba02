"""One examination by the doctor: each host by itself, then all processes together. Rank 0 reports."""

import dataclasses
import json
import os
import socket
import statistics
import time
import uuid
from pathlib import Path
from typing import Any

import torch

from distmnist import streams
from distmnist.config import Job, TrainConfig
from distmnist.distributed.failure import first_line, print_failure
from distmnist.distributed.world import World, join
from distmnist.doctor import checks, measurements, network
from distmnist.doctor.checks import OK, PROBLEM, WARNING, Finding
from distmnist.doctor.measurements import StepTimes
from distmnist.errors import RunError, UsageError
from distmnist.machine import die_with_parent, versions
from distmnist.runs.job import set_up_machine

SLOW = 1.5
"""A rank whose steps take this many times the ranks' median is called slow."""

CLOCK_SECONDS = 5.0
"""How far apart two hosts' clocks may be. torchrun takes a host for dead whose clock is 15 s behind another's."""


class Report:
    """What was found. Lines are printed as they come, JSON at the end; on ranks other than 0 nothing is."""

    def __init__(self, world: World, as_json: bool) -> None:
        self.as_json, self.silent = as_json, not world.is_main
        self.findings: list[dict[str, str]] = []
        self.measured: dict[str, Any] = {"world_size": world.size}
        self.lost: streams.OutputLost | None = None
        self.home, self.several_hosts = socket.gethostname(), world.size > world.local_size

    def add(self, finding: Finding, host: str | None = None) -> None:
        """Of the hosts other than rank 0's, only what is not ok is printed."""
        self.findings.append({**finding._asdict(), **({"host": host} if host else {})})
        if self.silent or self.as_json or (finding.level == OK and host not in (None, self.home)):
            return
        where = f"{host}: " if host and self.several_hosts else ""
        self._say(f"{finding.level:8} {finding.name:13} {where}{finding.text}")

    def count(self, level: str) -> int:
        return sum(finding["level"] == level for finding in self.findings)

    def close(self) -> int:
        """Prints the sum of it. Returns the exit code."""
        problems, warnings = self.count(PROBLEM), self.count(WARNING)
        status = PROBLEM if problems else WARNING if warnings else OK
        if self.as_json and not self.silent:
            self._say(json.dumps({"schema": 1, "status": status, **self.measured, "findings": self.findings}, indent=2))
        elif not self.silent:
            self._say(f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}")
        if self.lost and not self.lost.printed:
            print_failure(str(self.lost))
        return int(status == PROBLEM) or (self.lost.code if self.lost else 0)

    def _say(self, line: str) -> None:
        """A line that cannot be written does not stop the examination, in which other ranks take part."""
        try:
            streams.say(line)
        except streams.OutputLost as lost:
            self.lost = lost


def run(job: Job, endpoint: str | None, *, as_json: bool) -> int:
    """Examines, with the options that training would get. Returns the exit code; raises UsageError and RunError."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    with join(job.run.timeout) as world:
        report = Report(world, as_json)
        if not look_at_hosts(report, world, job, endpoint):
            return world.announce(report.close())
        config = measurements.steps_config(job.common, world)
        try:
            amp, _ = set_up_machine(world, dataclasses.replace(job, configs=(config,)))
        except UsageError as error:
            report.add(Finding(PROBLEM, "processes", str(error)))
            return world.announce(report.close())
        config = dataclasses.replace(config, amp=amp)
        try:
            try_together(report, world, config)
        except (UsageError, RuntimeError) as error:
            if world.size == 1:
                raise
            report.add(Finding(PROBLEM, "group", trouble(error, world)))
            report.close()
            raise RunError("the processes cannot work together: see the line above") from error
        # One code for all: torchrun's agents wait five minutes for each other when only some of them failed.
        return world.announce(report.close())


def trouble(error: Exception, world: World) -> str:
    backend, variable = ("nccl", "NCCL") if world.device.type == "cuda" else ("gloo", "GLOO")
    advice = f"name the right interface in {variable}_SOCKET_IFNAME, open the hosts' firewalls"
    return f"{backend} failed: {first_line(error)}; {advice}"


def look_at_hosts(report: Report, world: World, job: Job, endpoint: str | None) -> bool:
    """Each host's own findings, and what they tell when laid side by side. Returns whether to go on, on all ranks."""
    if world.local_rank == 0:
        findings = checks.look_at_host(job, endpoint if world.size == 1 else None, world)
    else:
        findings = []
        checks.look_at_device(job.run.device, world)
    mine = {"host": socket.gethostname(), "versions": versions(), "findings": findings}
    everyone = world.collect(mine)
    for rank, theirs in enumerate(everyone):
        for finding in theirs["findings"]:
            report.add(Finding(*finding), theirs["host"])
        for name in ("distmnist", "torch"):
            here, there = everyone[0]["versions"][name], theirs["versions"][name]
            if here != there:
                text = f"rank {rank} has {name} {there}, rank 0 has {here}; install the same on all hosts"
                report.add(Finding(PROBLEM, "versions", text), theirs["host"])
    if world.size > world.local_size:
        compare_clocks(report, world, everyone)
        compare_folders(report, world, job.run.output, everyone)
    return world.announce(report.count(PROBLEM) == 0)


def compare_clocks(report: Report, world: World, everyone: list[dict[str, Any]]) -> None:
    world.announce(None)  # all ranks are here within milliseconds of each other
    clocks = world.collect(time.time())
    for rank, clock in enumerate(clocks):
        if abs(clock - clocks[0]) > CLOCK_SECONDS:
            text = f"the clock differs by {clock - clocks[0]:+.0f} s from rank 0's; set both by NTP"
            report.add(Finding(PROBLEM, "clock", text), everyone[rank]["host"])


def compare_folders(report: Report, world: World, output: Path | None, everyone: list[dict[str, Any]]) -> None:
    """Whether all hosts see the folder in which rank 0 would write the run."""
    if output is None:
        return
    mark = checks.existing(output) / f".doctor-{uuid.uuid4().hex}"
    if world.is_main and os.access(mark.parent, os.W_OK):
        mark.touch()
    mark = Path(world.announce(str(mark)))
    seen = world.collect(mark.exists())
    world.announce(None)  # all have looked
    if world.is_main:
        mark.unlink(missing_ok=True)
    for host in sorted({theirs["host"] for theirs, sees in zip(everyone, seen, strict=True) if not sees}):
        text = f"{mark.parent} is not rank 0's: a restart with rank 0 here finds no checkpoint; share --output's folder"
        report.add(Finding(WARNING, "disk", text), host)


def try_together(report: Report, world: World, config: TrainConfig) -> None:
    """The process group, its all-reduces, and training steps: each rank's alone, then all together."""
    if world.size > 1:
        start = time.perf_counter()
        world.connect()
        world.sum_(torch.zeros(1, device=world.device))  # what nccl puts off until it is needed
        backend = torch.distributed.get_backend()
        seconds = time.perf_counter() - start
        report.add(Finding(OK, "group", f"{world.size} processes connected by {backend} in {seconds:.2f} s"))
        reduced = [measurements.try_all_reduce(world, size) for size in measurements.message_sizes()]
        for result in reduced:
            report.add(tell_all_reduce(result))
        report.measured["all_reduce"] = [result._asdict() for result in reduced]

    alone_config = dataclasses.replace(config, batch_size=measurements.share(config, world))
    alone = gather_times(world, measurements.try_steps(alone_config, World(device=world.device)))
    ranks = world.collect({"host": socket.gethostname(), "device": str(world.device), **talks_over(world)})
    usual = statistics.median(times.median for times in alone)
    report.measured["ranks"] = []
    for rank, (about, times) in enumerate(zip(ranks, alone, strict=False)):
        report.add(tell_rank(rank, about, times, usual, alone_config.batch_size))
        report.measured["ranks"].append({"rank": rank, **about, "step_seconds": times._asdict()})
    if world.size > 1:
        together = gather_times(world, measurements.try_steps(config, world))[0]
        report.measured["step_seconds_together"] = together._asdict()
        report.add(tell_together(together, max(times.median for times in alone), config))


def gather_times(world: World, times: StepTimes) -> list[StepTimes]:
    """Every rank's times, in the order of ranks."""
    columns = [world.gather(round(seconds * 1e9)) for seconds in times]
    return [StepTimes(*(nanoseconds / 1e9 for nanoseconds in row)) for row in zip(*columns, strict=True)]


def talks_over(world: World) -> dict[str, str]:
    """The interface that this rank's messages take, as far as one can tell beforehand."""
    if world.device.type == "cuda":
        return {"interface": " or ".join(network.nccl_interfaces())}
    address = network.gloo_address()
    return {"interface": (network.interface_of(address) or address) if address else "loopback"}


def tell_all_reduce(result: measurements.AllReduce) -> Finding:
    size = f"{result.bytes / 2**20:.3g} MiB" if result.bytes >= 1 << 20 else f"{result.bytes >> 10} KiB"
    text = f"{size}: {result.seconds * 1e3:.2f} ms, bus bandwidth {result.bus_bandwidth / 1e9:.3g} GB/s"
    if result.wrong:
        ranks = ", ".join(str(rank) for rank in result.wrong)
        return Finding(PROBLEM, "all-reduce", f"{text}, but the sum is WRONG on rank {ranks}; do not train on these")
    return Finding(OK, "all-reduce", f"{text}, the sum is right on every rank")


def tell_rank(rank: int, about: dict[str, str], times: StepTimes, usual: float, batch: int) -> Finding:
    text = (
        f"{about['host']}  {about['device']}  {about['interface']}  step of {batch} digits alone "
        + " / ".join(f"{seconds * 1e3:.1f}" for seconds in times)
        + " ms (min / median / max)"
    )
    if times.median > SLOW * usual:
        text += f": {times.median / usual:.1f} times the ranks' median; look for other work, heat or fewer cores there"
        return Finding(WARNING, f"rank {rank}", text)
    return Finding(OK, f"rank {rank}", text)


def tell_together(together: StepTimes, alone: float, config: TrainConfig) -> Finding:
    """`alone`: the slowest rank's median, in seconds."""
    text = f"{together.median * 1e3:.1f} ms for a global batch of {config.batch_size}, {alone * 1e3:.1f} ms of it work"
    if together.median > 2 * alone:
        text += (
            ": waiting takes longer than work; raise --batch-size, start fewer processes, or name a faster interface"
        )
        return Finding(WARNING, "step", text)
    return Finding(OK, "step", text)
