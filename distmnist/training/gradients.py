"""How the gradients of all shards become the gradient of the global batch, in plain PyTorch.

One process has it after backward; DistributedDataParallel averages it over the ranks while backward runs; a tree adds
it up in an order that does not depend on the number of processes.
"""

from collections.abc import Callable, Collection
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

    def __init__(self, model: nn.Module, world: World, unused: Collection[str] = ()) -> None:
        """unused: names of parameters that get no gradient."""
        self.module: nn.Module = model
        self.parameters = used(model, unused)

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

    def __init__(self, model: nn.Module, world: World, classes: int, unused: Collection[str] = ()) -> None:
        super().__init__(model, world, unused)
        self.world = world
        self.average = world.size
        self.module = wrap(ShardModel(model, classes, self.parameters), world, unused)

    def warm_up(self, images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        for _ in range(self.WARM_UPS):
            self.clear()
            with autocast():
                loss, _ = loss_sums(self.module(images), labels)
            loss.backward()
        self.clear()

    def finish(self) -> Tensor:
        return self.world.sum_(self.stats)


class ShardModel(nn.Module):
    """A model that is not called for a shard without images, which a batch norm counts and other layers refuse."""

    def __init__(self, model: nn.Module, classes: int, used: list[nn.Parameter]) -> None:
        super().__init__()
        self.model, self.classes = model, classes
        self.used = used

    def forward(self, images: Tensor) -> Tensor:
        """Images, float [n, C, H, W] -> logits, float [n, classes]; n may be 0: then every gradient is zero."""
        if len(images):
            logits: Tensor = self.model(images)
            return logits
        zero = torch.stack([(parameter * 0).sum() for parameter in self.used]).sum()
        return images.new_zeros(0, self.classes) + zero


def wrap(module: nn.Module, world: World, unused: Collection[str] = ()) -> DistributedDataParallel:
    """`module`, already on the rank's device, as all ranks train it together.

    unused: names of parameters that get no gradient, which DDP has to look for in every step. It gives all ranks rank
    0's buffers before each forward, so that a run that is resumed from rank 0's goes on as if it had not stopped.
    """
    with world.heartbeat.busy("building DistributedDataParallel", BUILD_SECONDS):
        return DistributedDataParallel(
            module,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            bucket_cap_mb=BUCKET_MIB,
            gradient_as_bucket_view=True,
            find_unused_parameters=bool(unused),
            static_graph=not unused,
        )


class TreeGradients(Gradients):
    """Adds up the shards' gradients along one binary tree, whoever holds them: the same bits at any world size.

    Each rank sums its own subtree, all exchange their sums, and each sums the rest. Shards, a power of two, are the
    leaves, so the tree does not depend on how many ranks divide them among themselves.
    """

    def __init__(self, model: nn.Module, world: World, classes: int = 0, unused: Collection[str] = ()) -> None:
        super().__init__(model, world, unused)
        self.module = ShardModel(model, classes, self.parameters)
        self.all_gather = world.all_gather
        self.leaves: list[Tensor] = []
        self.buffers = BufferTree(model, world) if any(True for _ in model.buffers()) else None
        if self.buffers:
            self.module.register_forward_pre_hook(self.buffers.start_shard)

    def collect(self, stats: Tensor) -> None:
        pieces = [gradient_or_zero(parameter).reshape(-1) for parameter in self.parameters]
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
        if self.buffers:
            self.buffers.finish()
        return parts[-1]


class BufferTree:
    """A model's buffers under the tree: the same at any world size.

    Every shard starts from the step's buffers. After it, floating-point ones are the mean over the shards that have
    images, added up along the tree in float64; the others, counters say, are what the first such shard leaves.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.world = world
        self.means = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.others = [buffer for buffer in model.buffers() if not buffer.is_floating_point()]
        self.before: Tensor | None = None
        self.leaves: list[Tensor] = []
        self.has_images: list[bool] = []

    def start_shard(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before the forward of each shard."""
        if self.before is None:
            self.before = self._values()
        else:
            self._note()
            self._fill(self.before)
        self.has_images.append(len(inputs[0]) > 0)

    def finish(self) -> None:
        """After the step's last shard."""
        self._note()
        numbers = sum(buffer.numel() for buffer in self.means)
        first = self.leaves[self.has_images.index(True) if True in self.has_images else 0]
        sums = [torch.cat((leaf[:numbers], leaf[-1:])) for leaf in self.leaves]
        mine = torch.cat((tree_sum(sums), first[numbers:]))
        everyone = self.world.all_gather(mine)
        total = tree_sum([each[: numbers + 1] for each in everyone])
        others = next(each[numbers + 1 : -1] for each in everyone if each[-1])
        self._fill(torch.cat((total[:-1] / total[-1], others)))
        self.before, self.leaves, self.has_images = None, [], []

    def _note(self) -> None:
        """What the last shard has left: its values, zeros where it has no images, and whether it has some."""
        values, there = self._values(), self.has_images[-1]
        if not there:
            values.zero_()  # not times 0: a mask of attention holds infinities
        self.leaves.append(torch.cat((values, values.new_full((1,), float(there)))))

    def _values(self) -> Tensor:
        """float64 [numbers in all buffers], which holds counters up to 2**53."""
        return torch.cat([buffer.detach().double().reshape(-1) for buffer in (*self.means, *self.others)])

    @torch.no_grad()
    def _fill(self, values: Tensor) -> None:
        buffers = [*self.means, *self.others]
        for buffer, piece in zip(buffers, values.split([each.numel() for each in buffers]), strict=True):
            buffer.copy_(piece.view(buffer.shape))


def used(model: nn.Module, unused: Collection[str]) -> list[nn.Parameter]:
    """The parameters that are trained and get a gradient."""
    return [p for name, p in model.named_parameters() if p.requires_grad and name not in unused]


def gradient_or_zero(parameter: nn.Parameter) -> Tensor:
    """Zeros for a parameter that had no part in this shard."""
    gradient: Tensor | None = parameter.grad
    return torch.zeros_like(parameter) if gradient is None else gradient


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


def build_gradients(
    model: nn.Module, world: World, virtual_ranks: int, classes: int, unused: Collection[str] = ()
) -> Gradients:
    """The tree for exact training on `virtual_ranks` shards; else DDP, or nothing to reduce in one process.

    classes: numbers that the model's output has for each image.
    """
    if virtual_ranks:
        return TreeGradients(model, world, classes, unused)
    return DDPGradients(model, world, classes, unused) if world.size > 1 else Gradients(model, world, unused)
