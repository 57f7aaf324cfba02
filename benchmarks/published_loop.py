"""The published training loop, as its readers would write it: what `whole_job.py` measures ours against.

A DataLoader with per-sample transforms, eager float32, batch 64, Adam with lr 1e-3, then an evaluation; both models in
one process. Other data than MNIST and Fashion-MNIST, as --data of distmnist.train names them, come as tensors that
`load_dataset` has prepared: it is the training that is compared.

Run: python -m benchmarks.published_loop [--data DATA] --data-dir DIR [--epochs 5] [--batch-size 64] [--seed 0]
"""

import argparse
import json
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import datasets, transforms

from distmnist import load_dataset
from distmnist.models.build import MODELS, build_model


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


KNOWN = {"mnist": (datasets.MNIST, 0.1307, 0.3081), "fashion-mnist": (datasets.FashionMNIST, 0.2860, 0.3530)}
"""--data -> torchvision's class, mean and standard deviation."""


def splits(data: str, directory: str, image_size: str | None) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """Training and test set, and the models' arguments."""
    if data in KNOWN:
        kind, mean, std = KNOWN[data]
        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((mean,), (std,))])
        train_set, test_set = (kind(directory, train=train, transform=transform) for train in (True, False))
        return train_set, test_set, {}
    found = load_dataset(data, directory, image_size=image_size)
    train_set, test_set = (
        TensorDataset(split.normalised(split.images), split.labels) for split in (found.train, found.test)
    )
    channels, *size = found.train.shape
    return train_set, test_set, {"num_classes": found.classes, "in_chans": channels, "image_size": (size[0], size[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--image-size")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", default="all", help="mlp, cnn, all for both, or package.module:callable")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train_set, test_set, shape = splits(arguments.data, arguments.data_dir, arguments.image_size)
    torch.manual_seed(arguments.seed)
    for name in MODELS if arguments.model == "all" else [arguments.model]:
        net = MODELS[name](**shape) if name in MODELS else build_model(name, seed=arguments.seed, **shape)
        train_loader = DataLoader(train_set, batch_size=arguments.batch_size, shuffle=True)
        seconds = train(net, train_loader, arguments.epochs)
        result = {
            "test_accuracy": accuracy(net, DataLoader(test_set, batch_size=64)),
            "images_per_second": arguments.epochs * len(train_set) / seconds,
        }
        print(json.dumps({"net": name, **result}), flush=True)


if __name__ == "__main__":
    main()
