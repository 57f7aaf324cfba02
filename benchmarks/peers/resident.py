"""Eager PyTorch with the digits in memory as normalised floats, indexed by whole batches: no DataLoader."""

import torch
from torch.nn import functional

from benchmarks.peers.case import LR, Case, Run
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World


def prepare(case: Case, digits: LabelledImages, _: World) -> Run:
    torch.manual_seed(case.seed)
    images, labels = digits.normalised(digits.images), digits.labels
    net = case.build()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)

    def run() -> dict[str, torch.Tensor]:
        net.train()
        for rows in torch.randperm(len(labels)).split(case.batch):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
                loss = functional.cross_entropy(net(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
        return net.state_dict()

    return run
