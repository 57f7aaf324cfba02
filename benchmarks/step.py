"""What exactness costs, and augmentation: snapshots, virtual ranks and random views against ordinary training.

The variants take turns, epoch by epoch without evaluation, one thread a process; epochs have 312 steps of batch 64.
Run: python -m benchmarks.exactness_cost [--model cnn] [--rounds 5]        or, for N processes:
     torchrun --nproc_per_node=N -m benchmarks.exactness_cost
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from distmnist import data
from distmnist.config import Config
from distmnist.data import Dataset, Digits
from distmnist.distributed import World, join
from distmnist.log import Silence
from distmnist.machine import flush_denormals, keep_freed_memory
from distmnist.rundir import RunDirectory
from distmnist.signals import no_wish
from distmnist.trainer import Trainer

VARIANTS = {
    "ordinary": {},
    "a snapshot every 100 steps": {"snapshot_steps": 100},
    "8 virtual ranks": {"virtual_ranks": 8},
    "random affine views": {"augment": 1.0},
}


def repeated_sample() -> Dataset:
    """The sample's training digits, five times over."""
    sample = data.load_sample()
    train = Digits(sample.train.images.repeat(5, 1, 1), sample.train.labels.repeat(5))
    return dataclasses.replace(sample, train=train)


def measure(world: World, model: str, rounds: int) -> dict[str, list[float]]:
    """variant -> milliseconds a step, one for each round."""
    digits = repeated_sample()
    with tempfile.TemporaryDirectory() as name:
        directory = RunDirectory(Path(name)) if world.is_main else None
        trainers = {
            variant: Trainer(
                Config(model=model, amp="off", epochs=rounds + 1, **options),
                world,
                digits,
                Silence(),
                directory and directory.saver(model),
                no_wish,
            )
            for variant, options in VARIANTS.items()
        }
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for trainer in trainers.values():
            trainer._warm_up()
        for number in range(rounds + 1):
            for variant, trainer in trainers.items():
                began = time.perf_counter()
                trainer._run_epoch()
                if number:  # the first round warms caches up
                    times[variant].append(1000 * (time.perf_counter() - began) / trainer.steps)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    flush_denormals()
    with join(timeout=60) as world:
        world.connect(timeout=60)
        times = measure(world, arguments.model, arguments.rounds)
        if world.is_main:
            for variant, each in times.items():
                ratios = [own / base for own, base in zip(each, times["ordinary"], strict=True)]
                print(
                    f"{arguments.model}, {world.size} processes, {variant:26} median {statistics.median(each):6.2f} ms"
                    f" a step, {statistics.median(ratios):.3f} of ordinary"
                )


if __name__ == "__main__":
    main()
