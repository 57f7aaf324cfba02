"""A step of our trainer on a model of one's own, beside the step of a plain loop over the same batches.

Both train the model on the same prepared images, from the same weights, with the same fused Adam, in one process, and
take turns, epoch by epoch without evaluation. The plain loop gathers and normalises a batch, and does forward,
cross entropy, backward, step.

Run: python -m benchmarks.own_model_step --data DATA [--image-size 64] [--model torchvision.models:resnet18]
         [--batch-size 32] [--amp off] [--threads 2] [--rounds 7]
"""

import argparse
import contextlib
import statistics
import time

import torch
from torch.nn import functional

from distmnist import load_dataset
from distmnist.config import TrainConfig
from distmnist.data.dataset import Dataset
from distmnist.distributed.world import World
from distmnist.machine import flush_denormals, keep_freed_memory, usable_cores
from distmnist.models.build import build_for
from distmnist.training.trainer import Trainer


class PlainLoop:
    def __init__(self, config: TrainConfig, data: Dataset) -> None:
        self.data, self.size = data.train, config.batch_size
        self.model = build_for(config, data.train.shape, data.classes).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, fused=True)
        self.bf16 = config.amp == "bf16"

    def run_epoch(self) -> None:
        for rows in torch.randperm(len(self.data)).split(self.size):
            images, labels = self.data.batch(rows)
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext():
                loss = functional.cross_entropy(self.model(images).float(), labels)
            loss.backward()
            self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", default="64")
    parser.add_argument("--model", default="torchvision.models:resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    flush_denormals()
    data = load_dataset(arguments.data, image_size=arguments.image_size)
    config = TrainConfig(
        model=arguments.model, batch_size=arguments.batch_size, amp=arguments.amp, epochs=10_000, data=arguments.data
    )
    ours, plain = Trainer(config, data, World()), PlainLoop(config, data)
    ours.warm_up()
    seconds: dict[str, list[float]] = {"ours": [], "plain loop": []}
    for number in range(arguments.rounds + 1):
        for name, side in (("ours", ours), ("plain loop", plain)):
            began = time.perf_counter()
            side.run_epoch()
            if number:  # the first round warms caches up
                seconds[name].append(time.perf_counter() - began)
    steps = ours.progress.steps
    for name, each in seconds.items():
        ratio = statistics.median(own / other for own, other in zip(each, seconds["plain loop"], strict=True))
        print(
            f"{name:12} median {1000 * statistics.median(each) / steps:7.2f} ms a step, {ratio:.3f} of the plain loop's"
        )


if __name__ == "__main__":
    main()
