"""The published training loop, as its readers would write it: what `whole_job.py` measures ours against.

A DataLoader with per-sample transforms, eager float32, batch 64, Adam with lr 1e-3, then an evaluation; both nets in
one process. Run: python -m benchmarks.published_loop --data-dir DIR [--epochs 5] [--seed 0]
"""

import argparse
import json
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from distmnist.models.build import MODELS


def train(net: nn.Module, train_loader: DataLoader, epochs: int, bf16: bool = False) -> float:
    """Returns the seconds of training alone. `bf16`: under autocast, which the published loop does without."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    began = time.perf_counter()
    net.train()
    for _ in range(epochs):
        for images, labels in train_loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
    return time.perf_counter() - began


@torch.no_grad()
def accuracy(net: nn.Module, test_loader: DataLoader) -> float:
    net.eval()
    correct = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in test_loader)
    return correct / len(test_loader.dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    train_set, test_set = (datasets.MNIST(arguments.data_dir, train=t, transform=transform) for t in (True, False))
    torch.manual_seed(arguments.seed)
    for name, build in MODELS.items():
        net = build()
        seconds = train(net, DataLoader(train_set, batch_size=64, shuffle=True), arguments.epochs)
        result = {
            "test_accuracy": accuracy(net, DataLoader(test_set, batch_size=64)),
            "images_per_second": arguments.epochs * len(train_set) / seconds,
        }
        print(json.dumps({"net": name, **result}), flush=True)


if __name__ == "__main__":
    main()
