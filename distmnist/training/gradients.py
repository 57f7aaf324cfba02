"""How the gradients of all shards become the gradient of the global batch, in plain PyTorch.

One process has it after backward; DistributedDataParallel averages it over the ranks while backward runs; a tree adds
it up in an order that does not depend on the number of processes.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distmnist.distributed.world import World
from distmnist.training.loss import loss_sums

BUCKET_MIB = 25
"""Given explicitly, it also replaces DDP's first bucket of 1 MiB: both nets' gradients then travel as one message."""

BUILD_SECONDS = 60.0
"""How long DDP may take to be built: it imports torch's compiler, which takes a second, and many on a busy machine."""

MESSAGE = 2**23
"""Numbers that the tree gathers from every rank at a time, 32 MiB: what one rank holds of each other's gradients."""


class Gradients:
    """One process, one shard: the gradient is what backward leaves.

    For each step: `clear`; for each shard of this rank `start_shard`, for each of its micro-batches forward by `module`
    and backward within `micro_batch`, `collect`; `finish`.
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

    def start_shard(self, images: int) -> None:
        """Before the first forward of a shard of so many images."""

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of a micro-batch. last: of this rank's in the step."""
        return nullcontext()

    def collect(self, stats: Tensor) -> None:
        """Takes note of a shard after its last backward. stats: float [3], the shard's StepStats, on the device."""
        self.stats = stats

    def finish(self) -> Tensor:
        """Leaves the global batch's gradient in the parameters. Returns the sum of all shards' stats, float [3]."""
        return self.stats


class DDPGradients(Gradients):
    """DistributedDataParallel, and one small all-reduce for the statistics.

    DDP orders its buckets anew after the first backward pass, and gloo's ring adds in an order that depends on the
    place in the bucket. Without warming up, a resumed run would add up its first step otherwise than the run that
    was not interrupted.

    The gradients are reduced in the backward of the step's last micro-batch, which every rank has, even if empty.
    """

    WARM_UPS = 2

    def __init__(
        self, model: nn.Module, world: World, classes: int, unused: Collection[str] = (), micro_batches: bool = False
    ) -> None:
        super().__init__(model, world, unused)
        self.world = world
        self.average = world.size
        self.ddp = wrap(ShardModel(model, classes, self.parameters), world, unused, micro_batches)
        self.module = self.ddp

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        return nullcontext() if last else self.ddp.no_sync()

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


def wrap(
    module: nn.Module, world: World, unused: Collection[str] = (), micro_batches: bool = False
) -> DistributedDataParallel:
    """`module`, already on the rank's device, as all ranks train it together.

    unused: names of parameters that get no gradient, which DDP has to look for in every step; micro_batches: whether a
    step may have several backward passes, which a static graph may not. DDP gives all ranks rank 0's buffers before the
    first forward of a step, so that a run that is resumed from rank 0's goes on as if it had not stopped.
    """
    with world.heartbeat.busy("building DistributedDataParallel", BUILD_SECONDS):
        return DistributedDataParallel(
            module,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            bucket_cap_mb=BUCKET_MIB,
            gradient_as_bucket_view=True,
            find_unused_parameters=bool(unused),
            static_graph=not unused and not micro_batches,
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
        self.sums = TreeSum()
        self.buffers = BufferTree(model, world) if any(True for _ in model.buffers()) else None

    def start_shard(self, images: int) -> None:
        if self.buffers:
            self.buffers.start_shard(images)

    def collect(self, stats: Tensor) -> None:
        pieces = [gradient_or_zero(parameter).reshape(-1) for parameter in self.parameters]
        self.sums.add(torch.cat([*pieces, stats]))
        self.clear()

    def finish(self) -> Tensor:
        sizes = [parameter.numel() for parameter in self.parameters]
        total = torch.cat([tree_sum(self.all_gather(piece)) for piece in self.sums.take().split(MESSAGE)])
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
        self.sums = TreeSum()
        self.before: Tensor | None = None
        self.first: Tensor | None = None
        self.images = 0

    def start_shard(self, images: int) -> None:
        """Before the first forward of each shard."""
        if self.before is None:
            self.before = self._flat(*self.means, *self.others)
        else:
            self._collect()
            self._fill(self.before)
        self.images = images

    def finish(self) -> None:
        """After the step's last shard."""
        self._collect()
        sums = self.sums.take()
        others = self.first if self.first is not None else self._flat(*self.others)
        everyone = self.world.all_gather(torch.cat((sums, others)))
        total = tree_sum([each[: len(sums)] for each in everyone])
        others = next(each[len(sums) :] for each in everyone if each[len(sums) - 1])
        self._fill(torch.cat((total[:-1] / total[-1], others)))
        self.before = self.first = None

    def _collect(self) -> None:
        """Takes note of what the last shard has left, if it has images; the last number counts such shards."""
        values = self._flat(*self.means)
        if self.images:
            self.first = self.first if self.first is not None else self._flat(*self.others)
        else:
            values.zero_()  # not times 0: a mask of attention holds infinities
        self.sums.add(torch.cat((values, values.new_full((1,), float(self.images > 0)))))

    def _flat(self, *tensors: Tensor) -> Tensor:
        """All their numbers, float64 [n], which holds counters up to 2**53."""
        nothing = torch.empty(0, dtype=torch.float64, device=self.world.device)
        return torch.cat([nothing, *(tensor.detach().double().reshape(-1) for tensor in tensors)])

    @torch.no_grad()
    def _fill(self, values: Tensor) -> None:
        buffers = [*self.means, *self.others]
        for buffer, piece in zip(buffers, values.split([each.numel() for each in buffers]), strict=True):
            buffer.copy_(piece.view(buffer.shape))


class TreeSum:
    """Adds up 2^n tensors along a binary tree as they come, so that it never holds more than n + 1 of them."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.count = 0

    def add(self, leaf: Tensor) -> None:
        self.count += 1
        number = self.count
        while number % 2 == 0:  # a left neighbour of the same size is there
            leaf = self.sums.pop() + leaf
            number //= 2
        self.sums.append(leaf)

    def take(self) -> Tensor:
        """The sum of all, after which it starts anew."""
        (total,) = self.sums
        self.sums, self.count = [], 0
        return total


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
    total = TreeSum()
    for leaf in leaves:
        total.add(leaf)
    return total.take()


def build_gradients(
    model: nn.Module,
    world: World,
    virtual_ranks: int,
    classes: int,
    unused: Collection[str] = (),
    micro_batches: bool = False,
) -> Gradients:
    """The tree for exact training on `virtual_ranks` shards; else DDP, or nothing to reduce in one process.

    classes: numbers that the model's output has for each image; micro_batches: whether shards may be cut.
    """
    if virtual_ranks:
        return TreeGradients(model, world, classes, unused)
    if world.size > 1:
        return DDPGradients(model, world, classes, unused, micro_batches)
    return Gradients(model, world, unused)
