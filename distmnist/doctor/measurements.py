"""What the doctor measures: all-reduces, right or wrong and how fast, and the time of training steps of the cnn."""

import math
import statistics
import time
from typing import NamedTuple

import torch

from distmnist.config import TrainConfig
from distmnist.data.dataset import Dataset
from distmnist.data.known import load_sample
from distmnist.distributed.world import World
from distmnist.models.build import MODELS
from distmnist.training.callbacks import Callback
from distmnist.training.progress import Progress
from distmnist.training.trainer import fit

WARM_UP, STEPS = 10, 40
"""Steps that are not counted, and steps that are."""

TEST_DIGITS = 100
"""Every fit evaluates at its end; this is as few digits as that needs."""


class AllReduce(NamedTuple):
    """seconds: of one, on the slowest rank. bus_bandwidth: bytes a second. wrong: ranks that got a wrong sum."""

    bytes: int
    seconds: float
    bus_bandwidth: float
    wrong: list[int]


class StepTimes(NamedTuple):
    """Seconds a step."""

    minimum: float
    median: float
    maximum: float


def message_sizes() -> list[int]:
    """Bytes: one that shows the latency, the cnn's gradient, one that shows the bandwidth."""
    gradient = 4 * sum(parameter.numel() for parameter in MODELS["cnn"]().parameters())
    return [4 << 10, gradient, 32 << 20]


def try_all_reduce(world: World, size: int) -> AllReduce:
    """Adds up `size` bytes of float32 over all ranks, several times; all ranks call it alike.

    The bus bandwidth is that of nccl-tests (doc/PERFORMANCE.md), 2 (n - 1) / n times the bytes a second: what each
    link carried, whatever the number of ranks, so it compares with what the hardware promises.
    """
    ramp = (torch.arange(size // 4, device=world.device) % 1000).float()
    ours = world.sum_(ramp + world.rank)
    n = world.size
    right = torch.equal(ours, n * ramp + n * (n - 1) // 2)  # whole numbers below 2^24: exact in any order of adding
    wrong = [rank for rank, fine in enumerate(world.gather(int(right))) if not fine]

    repeats = max(3, min(50, (64 << 20) // size))
    ours.zero_()
    synchronize(world.device)
    start = time.perf_counter()
    for _ in range(repeats):
        world.sum_(ours)
    synchronize(world.device)
    mine = round((time.perf_counter() - start) / repeats * 1e9)
    seconds = max(world.gather(mine)) / 1e9
    return AllReduce(size, seconds, 2 * (n - 1) / n * size / seconds, wrong)


def try_steps(config: TrainConfig, world: World) -> StepTimes:
    """Trains the cnn for some steps with the loop of every training, in the batches of `config`, and times them.

    With a world of one on every rank nobody waits for another, and the slow one shows; with the world of all, each
    step is as slow as the slowest and the network together.
    """
    stamps: list[float] = []

    class Clock(Callback):
        def on_step_end(self, progress: Progress) -> None:
            synchronize(world.device)
            stamps.append(time.perf_counter())

    fit(config, digits(config.batch_size), world=world, callbacks=[Clock()])
    seconds = [later - earlier for earlier, later in zip(stamps[WARM_UP:], stamps[WARM_UP + 1 :], strict=False)]
    return StepTimes(min(seconds), statistics.median(seconds), max(seconds))


def steps_config(config: TrainConfig, world: World) -> TrainConfig:
    """`config` with as many steps of the cnn as a trial takes, in one epoch, of a batch that all ranks have part in."""
    batch_size = max(config.batch_size, world.size)
    return TrainConfig(model="cnn", epochs=1, max_steps=WARM_UP + STEPS + 1, batch_size=batch_size, amp=config.amp)


def share(config: TrainConfig, world: World) -> int:
    """The largest share of the global batch that a rank gets."""
    return math.ceil(config.batch_size / world.size)


def digits(batch_size: int) -> Dataset:
    """The embedded sample, repeated until an epoch holds a trial's steps, and few digits to evaluate."""
    sample = load_sample()
    wanted = torch.arange(batch_size * (WARM_UP + STEPS + 2)) % len(sample.train)
    return Dataset(
        sample.name,
        sample.origin,
        sample.train.select(wanted),
        sample.test.select(slice(TEST_DIGITS)),
        sample.class_names,
    )


def synchronize(device: torch.device) -> None:
    """Waits for what was begun on the device: on CUDA the host runs ahead of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
