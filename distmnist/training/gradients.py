"""How the gradients of all shards become the gradient of the global batch, in plain PyTorch.

One process has it after backward; DistributedDataParallel averages it over the ranks while backward runs; a tree adds
it up in an order that does not depend on the number of processes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distmnist.distributed.world import World
from distmnist.training.loss import loss_sums

BUCKET_MIB = 25
"""Given explicitly, it also replaces DDP's first bucket of 1 MiB: both nets' gradients then travel as one message."""

BUILD_SECONDS = 60.0
"""How long DDP may take to be built: it imports torch's compiler, which takes a second, and many on a busy machine."""


class Gradients:
    """One process, one shard: the gradient is what backward leaves.

    For each step: `clear`; for each shard of this rank forward by `module`, backward, `collect`; `finish`.
    """

    average = 1
    """The sum over the shards' gradients is divided by this: a shard's loss must be multiplied by it."""
    replacements: tuple[str, ...] = ()
    """What is not plain PyTorch here, in words."""

    def __init__(self, model: nn.Module, world: World) -> None:
        self.module: nn.Module = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def warm_up(self, images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        """What is to be done before the first step, with a batch of no images; `autocast` as in the steps."""

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def collect(self, stats: Tensor) -> None:
        """Takes note of a shard after its backward. stats: float [3], the shard's StepStats, on the device."""
        self.stats = stats

    def finish(self) -> Tensor:
        """Leaves the global batch's gradient in the parameters. Returns the sum of all shards' stats, float [3]."""
        return self.stats


class DDPGradients(Gradients):
    """DistributedDataParallel, and one small all-reduce for the statistics.

    DDP orders its buckets anew after the first backward pass, and gloo's ring adds in an order that depends on the
    place in the bucket. Without warming up, a resumed run would add up its first step otherwise than the run that
    was not interrupted.
    """

    WARM_UPS = 2

    def __init__(self, model: nn.Module, world: World) -> None:
        super().__init__(model, world)
        self.world = world
        self.average = world.size
        self.module = wrap(model, world)

    def warm_up(self, images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        for _ in range(self.WARM_UPS):
            self.clear()
            with autocast():
                loss, _ = loss_sums(self.module(images), labels)
            loss.backward()
        self.clear()

    def finish(self) -> Tensor:
        return self.world.sum_(self.stats)


def wrap(module: nn.Module, world: World) -> DistributedDataParallel:
    """`module`, already on the rank's device, as all ranks train it together."""
    with world.heartbeat.busy("building DistributedDataParallel", BUILD_SECONDS):
        return DistributedDataParallel(
            module,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            bucket_cap_mb=BUCKET_MIB,
            gradient_as_bucket_view=True,
            static_graph=True,
        )


class TreeGradients(Gradients):
    """Adds up the shards' gradients along one binary tree, whoever holds them: the same bits at any world size.

    Each rank sums its own subtree, all exchange their sums, and each sums the rest. Shards, a power of two, are the
    leaves, so the tree does not depend on how many ranks divide them among themselves.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        super().__init__(model, world)
        self.all_gather = world.all_gather
        self.leaves: list[Tensor] = []

    def collect(self, stats: Tensor) -> None:
        pieces = [gradient_of(parameter).reshape(-1) for parameter in self.parameters]
        self.leaves.append(torch.cat([*pieces, stats]))
        self.clear()

    def finish(self) -> Tensor:
        sizes = [parameter.numel() for parameter in self.parameters]
        total = tree_sum(self.all_gather(tree_sum(self.leaves)))
        self.leaves = []
        parts: tuple[Tensor, ...] = total.split([*sizes, total.numel() - sum(sizes)])
        for parameter, piece in zip(self.parameters, parts[:-1], strict=True):
            # A gradient must be laid out like its parameter (channels last): fused updates walk both as they lie.
            parameter.grad = torch.empty_like(parameter).copy_(piece.view(parameter.shape))
        return parts[-1]


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Of a trained parameter, after backward."""
    gradient: Tensor | None = parameter.grad
    assert gradient is not None
    return gradient


def tree_sum(leaves: list[Tensor]) -> Tensor:
    """The sum of 2^n tensors: of neighbours, then of the neighbouring sums, and so on."""
    while len(leaves) > 1:
        leaves = [left + right for left, right in zip(leaves[::2], leaves[1::2], strict=True)]
    return leaves[0]


def build_gradients(model: nn.Module, world: World, virtual_ranks: int = 0) -> Gradients:
    """The tree for exact training on `virtual_ranks` shards; else DDP, or nothing to reduce in one process."""
    if virtual_ranks:
        return TreeGradients(model, world)
    return (DDPGradients if world.size > 1 else Gradients)(model, world)
