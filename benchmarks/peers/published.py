"""The published loop: a DataLoader with per-sample transforms, eager. Lightning and Accelerate use its loader too."""

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks import published_loop
from benchmarks.peers.case import Case, Run
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World


class MNIST(datasets.MNIST):
    """torchvision's data set, with its own per-sample reading, over digits that are in memory already."""

    def __init__(self, digits: LabelledImages) -> None:
        self.data, self.targets = digits.images.squeeze(1), digits.labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(digits.mean, digits.std)])
        self.target_transform = None


def loader(case: Case, digits: LabelledImages) -> DataLoader:
    return DataLoader(MNIST(digits), batch_size=case.batch, shuffle=True)


def prepare(case: Case, digits: LabelledImages, _: World) -> Run:
    torch.manual_seed(case.seed)
    net, batches = case.build(), loader(case, digits)

    def run() -> dict[str, torch.Tensor]:
        published_loop.train(net, batches, epochs=1, bf16=case.bf16)
        return net.state_dict()

    return run
