"""Gradients with less around them: autograd's engine called directly, one message a step, shared memory.

Under DDP a step's statistics travel as the gradient of a parameter of their own, so they cost no message and no
synchronisation beside the gradients'.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from distmnist.distributed.world import World
from distmnist.fast.shared_memory import SharedMemory, share_memory
from distmnist.training.gradients import DDPGradients, Gradients, TreeGradients, gradient_of, wrap
from distmnist.training.loss import Loss, loss_sums
from distmnist.training.stats import StepStats


class ShardLoss(nn.Module):
    """A model and its loss: what is differentiated, and what DDP wraps."""

    def __init__(self, model: nn.Module, loss: Loss = loss_sums) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
        """Images, float [n, C, H, W]; labels, int64 [n]; requests, float [2]; n may be 0.

        Returns the sum of the losses, float32, and the shard's StepStats, float [3].
        """
        loss_sum, cross_entropy = self.loss(self.model(images), labels)
        return loss_sum, torch.cat((cross_entropy.reshape(1), requests))


def differentiate(
    outputs: tuple[Tensor, ...], weights: tuple[Tensor, ...], inputs: tuple[Tensor, ...] = ()
) -> tuple[Tensor, ...]:
    """Adds the gradient of the weighted sum of `outputs` to the parameters'; with `inputs`, returns it, for them alone.

    What torch.autograd's backward and grad do, by the engine below them: the same bits. Around it they add a tenth of
    an mlp step, and they import sympy if there are weights. Its name is private to torch: a test holds it against both.
    """
    engine = torch.autograd.Variable._execution_engine
    options = {"keep_graph": False, "create_graph": False, "accumulate_grad": not inputs}
    return engine.run_backward(outputs, weights, inputs=inputs, **options)


class FastGradients(Gradients):
    """One process. `module` is a ShardLoss, and `backward` takes the place of the loss's own."""

    def __init__(self, model: nn.Module, world: World, loss: Loss = loss_sums) -> None:
        super().__init__(model, world)
        self.module = ShardLoss(model, loss).to(world.device)

    def backward(self, loss_sum: Tensor, weight: Tensor, stats: Tensor) -> None:
        """Takes a shard's sum of losses, a scalar, to differentiate, its weight, and the shard's stats, float [3]."""
        differentiate((loss_sum,), (weight,))
        self.collect(stats)


class FastDDPGradients(FastGradients):
    """DistributedDataParallel with the statistics in its message, and that in shared memory where there is some."""

    def __init__(self, model: nn.Module, world: World, loss: Loss = loss_sums) -> None:
        super().__init__(model, world, loss)
        self.average = world.size
        shard_loss = self.module
        self.stats_parameter = nn.Parameter(torch.zeros(len(StepStats._fields), device=world.device))
        shard_loss.stats_parameter = self.stats_parameter
        self.parameters = [self.stats_parameter, *self.parameters]
        self.module = wrap(shard_loss, world)
        self.memory = share_memory(world, sum(parameter.nbytes for parameter in self.parameters))
        if self.memory:
            self.module.register_comm_hook(self.memory, sum_in_shared_memory)
            self.average = 1
        shared = ("gradients in shared memory",) if self.memory else ()
        self.replacements = ("statistics in the gradients' message", *shared)

    def warm_up(self, images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager]) -> None:
        nothing = self.stats_parameter.detach()
        for _ in range(DDPGradients.WARM_UPS):
            self.clear()
            with autocast():
                loss_sum, stats = self.module(images, labels, nothing[1:])
            self.backward(loss_sum, torch.ones_like(loss_sum), stats)
        self.clear()

    def backward(self, loss_sum: Tensor, weight: Tensor, stats: Tensor) -> None:
        differentiate((loss_sum, self.stats_parameter), (weight, stats))  # the parameter's gradient is the stats

    def finish(self) -> Tensor:
        return gradient_of(self.stats_parameter) * self.average


def sum_in_shared_memory(memory: SharedMemory, bucket: dist.GradBucket) -> Future[Tensor]:
    """DDP's communication hook; it leaves the sum where DDP itself would leave the mean."""
    future: Future[Tensor] = Future()
    future.set_result(sum_over_ranks(memory, bucket.buffer()))
    return future


def sum_over_ranks(memory: SharedMemory, tensor: Tensor) -> Tensor:
    """In place: added up in the order of ranks, so the same bits on all of them, wherever a number stands."""
    first, second, *rest = memory.all_gather(tensor)
    torch.add(first, second, out=tensor)
    for other in rest:
        tensor += other
    return tensor


class FastTreeGradients(FastGradients, TreeGradients):
    """The tree, in shared memory where there is some."""

    def __init__(self, model: nn.Module, world: World, loss: Loss = loss_sums) -> None:
        super().__init__(model, world, loss)
        size = sum(parameter.numel() for parameter in self.parameters) + len(StepStats._fields)
        self.memory = share_memory(world, size * torch.float32.itemsize)
        if self.memory:
            self.all_gather = self.memory.all_gather
            self.replacements = ("gradients in shared memory",)

    def backward(self, loss_sum: Tensor, weight: Tensor, stats: Tensor) -> None:
        gradients = differentiate((loss_sum,), (weight,), tuple(self.parameters))
        self.sums.add(torch.cat([*(gradient.reshape(-1) for gradient in gradients), stats]))


def build_fast_gradients(
    model: nn.Module, world: World, virtual_ranks: int = 0, loss: Loss = loss_sums
) -> FastGradients:
    """What stands for `distmnist.training.gradients.build_gradients`."""
    if virtual_ranks:
        return FastTreeGradients(model, world, loss)
    return (FastDDPGradients if world.size > 1 else FastGradients)(model, world, loss)
