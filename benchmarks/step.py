"""One step of ours beside the same step with one thing changed: a feature that costs time, or a fast part left out.

The variants take turns, epoch by epoch without evaluation; epochs have 313 steps of batch 64, of the sample.
Run: python -m benchmarks.step [--model cnn] [--threads 1] [--rounds 5]        or, for N processes:
     torchrun --nproc_per_node=N -m benchmarks.step
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from distmnist.config import TrainConfig
from distmnist.data import known, loader
from distmnist.data.dataset import Dataset
from distmnist.distributed.world import World, join
from distmnist.fast import forward, gradients
from distmnist.fast import optimizer as fast_optimizer
from distmnist.machine import be_deterministic, flush_denormals, keep_freed_memory
from distmnist.models.build import MODELS
from distmnist.runs.callbacks import SaveCheckpoints
from distmnist.runs.rundir import RunDirectory
from distmnist.training.loss import Loss, loss_sums
from distmnist.training.optimizer import build_optimizer
from distmnist.training.trainer import Trainer


def backward(outputs: tuple[Tensor, ...], weights: tuple[Tensor, ...], inputs: tuple[Tensor, ...] = ()) -> Any:
    """`fast.gradients.differentiate` by torch.autograd's own functions, on a weighted sum."""
    loss, *rest = (
        torch.dot(*pair) if pair[0].dim() else torch.mul(*pair) for pair in zip(outputs, weights, strict=True)
    )
    total = sum(rest, loss)
    return torch.autograd.grad(total, inputs) if inputs else total.backward()


@dataclasses.dataclass(frozen=True)
class Variant:
    """options: of the TrainConfig; checkpoint_steps: of `fit`; replaced: (module, name, what stands there instead);
    nets and min_ranks: where it changes anything."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint_steps: int = 0
    replaced: tuple[Any, str, Any] | None = None
    nets: tuple[str, ...] = tuple(MODELS)
    min_ranks: int = 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.replaced:
                stack.enter_context(mock.patch.object(*self.replaced))
            if "virtual_ranks" in self.options:
                be_deterministic()  # as the command does
                stack.callback(torch.set_deterministic_debug_mode, "default")
            yield


class SeparateStats(gradients.FastDDPGradients):
    """The statistics are added up by an all-reduce of their own, as in plain PyTorch."""

    def __init__(self, model: nn.Module, world: World, loss: Loss = loss_sums) -> None:
        super().__init__(model, world, loss)
        self.world = world

    def backward(self, loss_sum: Tensor, weight: Tensor, stats: Tensor) -> None:
        super().backward(loss_sum, weight, stats)
        self.stats = stats

    def finish(self) -> Tensor:
        return self.world.sum_(self.stats)


def nothing(*_: Any) -> None:
    """Stands for what then is done in the plain way."""


OURS = "ours"
VARIANTS = {
    OURS: Variant(),
    "a checkpoint every 100 steps": Variant(checkpoint_steps=100),
    "8 virtual ranks": Variant({"virtual_ranks": 8}),
    "random affine views": Variant({"augment": 1.0}),
    "plain PyTorch: --fast off": Variant({"fast": "off"}),
    "channels last, not oneDNN's tensors": Variant(replaced=(forward, "select_forward", nothing), nets=("cnn",)),
    "modules, not bare operations": Variant(replaced=(forward, "select_forward", nothing), nets=("mlp",)),
    "torch.optim.Adam(fused=True)": Variant(replaced=(fast_optimizer, "build_fused_optimizer", build_optimizer)),
    "torch.autograd's backward": Variant(replaced=(gradients, "differentiate", backward)),
    "no images prefetched": Variant(replaced=(loader, "PREFETCH", 1)),
    "a message of their own for the statistics": Variant(
        replaced=(gradients, "FastDDPGradients", SeparateStats), min_ranks=2
    ),
    "gloo, not shared memory": Variant(replaced=(gradients, "share_memory", nothing), min_ranks=2),
}


def variants(model: str, ranks: int) -> dict[str, Variant]:
    """Those that change something here."""
    return {name: each for name, each in VARIANTS.items() if model in each.nets and ranks >= each.min_ranks}


def repeated_sample() -> Dataset:
    """The sample's training digits, five times over."""
    sample = known.load_sample()
    train = sample.train.select(torch.arange(len(sample.train)).repeat(5))
    return dataclasses.replace(sample, train=train)


def prepare(variant: Variant, model: str, world: World, digits: Dataset, run: RunDirectory | None) -> Trainer:
    """A trainer that is ready for the first step of its first epoch."""
    config = TrainConfig(model=model, amp="off", epochs=1000, **variant.options)
    with variant.applied():
        prepared = Trainer(
            config, digits, world, [SaveCheckpoints(run, model)] if run else [], variant.checkpoint_steps
        )
        prepared.warm_up()
    return prepared


def measure(world: World, model: str, rounds: int, digits: Dataset) -> dict[str, list[float]]:
    """variant -> milliseconds a step, one for each round."""
    those = variants(model, world.size)
    with tempfile.TemporaryDirectory() as name:
        run = RunDirectory(Path(name)) if world.is_main else None
        trainers = {name: prepare(variant, model, world, digits, run) for name, variant in those.items()}
        times: dict[str, list[float]] = {name: [] for name in those}
        for number in range(rounds + 1):
            for name, variant in those.items():
                with variant.applied():
                    began = time.perf_counter()
                    trainers[name].run_epoch()
                    seconds = time.perf_counter() - began
                if number:  # the first round warms caches up
                    times[name].append(1000 * seconds / trainers[name].progress.steps)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    flush_denormals()
    with join(timeout=60) as world:
        world.connect()
        times = measure(world, arguments.model, arguments.rounds, repeated_sample())
        if world.is_main:
            print(f"{arguments.model}, {world.size} processes of {arguments.threads} threads, a step of 64 digits:")
            for name, each in times.items():
                ratios = [own / base for own, base in zip(each, times[OURS], strict=True)]
                print(f"{name:36} median {statistics.median(each):6.2f} ms, {statistics.median(ratios):.3f} of ours")


if __name__ == "__main__":
    main()
