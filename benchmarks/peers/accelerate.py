"""Accelerate: the published loop with everything passed through `Accelerator.prepare`."""

import accelerate
import torch
from accelerate.state import AcceleratorState
from torch.nn import functional

from benchmarks.peers import published
from benchmarks.peers.case import LR, Case, Run
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World


def prepare(case: Case, digits: LabelledImages, _: World) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision otherwise
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16" if case.bf16 else "no")
    torch.manual_seed(case.seed)
    bare = case.build()
    optimizer = torch.optim.Adam(bare.parameters(), lr=LR)
    net, optimizer, batches = accelerator.prepare(bare, optimizer, published.loader(case, digits))

    def run() -> dict[str, torch.Tensor]:
        net.train()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(images), labels)
            accelerator.backward(loss)
            optimizer.step()
        return accelerator.unwrap_model(net, keep_fp32_wrapper=False).state_dict()

    return run
