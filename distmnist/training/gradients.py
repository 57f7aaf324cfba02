"""How the gradients of the processes become one gradient, and their ballots one ballot, in the same message.

A ballot is three numbers that every step needs from all ranks: the sum of the losses, and two votes. Under DDP it
travels as the gradient of a parameter of its own, so it costs no message and no synchronisation beside the gradients'.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from distmnist.distributed.world import World
from distmnist.fast.shared_memory import SharedMemory, share_memory

BUCKET_MIB = 25
"""Given explicitly, it also replaces DDP's first bucket of 1 MiB: both nets' gradients then travel as one message."""

BUILD_SECONDS = 60.0
"""How long DDP may take to be built: it imports torch._dynamo, which takes a second, and many on a busy machine."""


class Ballot(NamedTuple):
    """Summed over the ranks: the loss (nats, over the global batch), votes to stop and votes to keep a snapshot."""

    loss_sum: float
    stop: float
    snapshot: float


class ShardLoss(nn.Module):
    """A net and its loss: what is differentiated, and what DDP wraps."""

    def __init__(self, model: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, images: Tensor, labels: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
        """Images, float [n, 1, 28, 28]; labels, int64 [n]; votes, float [2]; n may be 0.

        Returns the sum of the losses in float32, and the ballot, float [3]. Labels are smoothed in the first alone: the
        ballot tells the cross entropy, which compares with the test loss.
        """
        log_probabilities = functional.log_softmax(self.model(images).float(), 1)
        loss_sum = cross_entropy = functional.nll_loss(log_probabilities, labels, reduction="sum")
        if self.label_smoothing:
            evenly = -log_probabilities.mean(1).sum()
            loss_sum = (1 - self.label_smoothing) * cross_entropy + self.label_smoothing * evenly
        return loss_sum, torch.cat((cross_entropy.detach().reshape(1), votes))


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


class Reducer:
    """One process, one shard: the gradient is what backward leaves."""

    average = 1
    """The sum over the shards' gradients is divided by this."""
    warm_ups = 0
    """Gradients to compute and throw away before the first step."""

    def __init__(self, model: nn.Module, world: World, label_smoothing: float = 0.0) -> None:
        self.module: nn.Module = ShardLoss(model, label_smoothing).to(world.device)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = world.device

    def start(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def weight(self, count: int) -> Tensor:
        """What to multiply a shard's sum of losses by in a global batch of `count` digits: a scalar, on the device."""
        return torch.full((), self.average / count, device=self.device)

    def backward(self, loss_sum: Tensor, weight: Tensor, ballot: Tensor) -> None:
        """Takes a shard's sum of losses, a scalar, to differentiate, its weight, and the shard's ballot, float [3]."""
        differentiate((loss_sum,), (weight,))
        self.ballot = ballot

    def finish(self) -> Tensor:
        """Leaves the global batch's gradient in the parameters. Returns the ballots' sum, float [3], on the device."""
        return self.ballot


class DDPReducer(Reducer):
    """DistributedDataParallel: the gradients are averaged over the ranks while backward still runs.

    It orders its buckets anew after the first backward pass, and gloo's ring adds in an order that depends on the
    place in the bucket. Without warming up, a resumed run would add up its first step otherwise than the run that
    was not interrupted.
    """

    warm_ups = 2

    def __init__(self, model: nn.Module, world: World, label_smoothing: float = 0.0) -> None:
        super().__init__(model, world, label_smoothing)
        self.average = world.size
        shard_loss = self.module
        shard_loss.carrier = self.carrier = nn.Parameter(torch.zeros(len(Ballot._fields), device=world.device))
        self.parameters = [self.carrier, *self.parameters]
        with world.heartbeat.busy("building DistributedDataParallel", BUILD_SECONDS):
            self.module = DistributedDataParallel(
                shard_loss,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                bucket_cap_mb=BUCKET_MIB,
                gradient_as_bucket_view=True,
                static_graph=True,
            )
        if memory := share_memory(world, sum(parameter.nbytes for parameter in self.parameters)):
            self.module.register_comm_hook(memory, add_up_in_shared_memory)
            self.average = 1

    def backward(self, loss_sum: Tensor, weight: Tensor, ballot: Tensor) -> None:
        differentiate((loss_sum, self.carrier), (weight, ballot))  # the carrier's gradient is the ballot

    def finish(self) -> Tensor:
        return self.carrier.grad * self.average


def add_up_in_shared_memory(memory: SharedMemory, bucket: dist.GradBucket) -> Future[Tensor]:
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


class TreeReducer(Reducer):
    """Adds up the shares' gradients along one binary tree, whoever holds them: the same bits at any world size.

    Each rank sums its own subtree, all exchange their sums, and each sums the rest. Shares, a power of two, are the
    leaves, so the tree does not depend on how many ranks divide them among themselves.
    """

    def __init__(self, model: nn.Module, world: World, label_smoothing: float = 0.0) -> None:
        super().__init__(model, world, label_smoothing)
        self.sizes = [*(parameter.numel() for parameter in self.parameters), len(Ballot._fields)]
        self.gather = (share_memory(world, sum(self.sizes) * torch.float32.itemsize) or world).all_gather
        self.leaves: list[Tensor] = []

    def start(self) -> None:
        self.leaves = []

    def backward(self, loss_sum: Tensor, weight: Tensor, ballot: Tensor) -> None:
        gradients = differentiate((loss_sum,), (weight,), tuple(self.parameters))
        self.leaves.append(torch.cat([*(gradient.reshape(-1) for gradient in gradients), ballot]))

    def finish(self) -> Tensor:
        *pieces, ballots = tree_sum(self.gather(tree_sum(self.leaves))).split(self.sizes)
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            # A gradient must be laid out like its parameter (channels last): fused updates walk both as they lie.
            parameter.grad = torch.empty_like(parameter).copy_(piece.view(parameter.shape))
        return ballots


def tree_sum(leaves: list[Tensor]) -> Tensor:
    """The sum of 2^n tensors: of neighbours, then of the neighbouring sums, and so on."""
    while len(leaves) > 1:
        leaves = [left + right for left, right in zip(leaves[::2], leaves[1::2], strict=True)]
    return leaves[0]


def build_reducer(model: nn.Module, world: World, virtual_ranks: int = 0, label_smoothing: float = 0.0) -> Reducer:
    """The tree for exact training on `virtual_ranks` shares; else DDP, or nothing to reduce in one process."""
    if virtual_ranks:
        return TreeReducer(model, world, label_smoothing)
    return (DDPReducer if world.size > 1 else Reducer)(model, world, label_smoothing)


class BallotBox:
    """Brings ballots from the device to the host without making either wait.

    On the CPU each ballot is read at once. On CUDA they collect on the device; every `EVERY` steps a copy is started,
    and the one started `EVERY` steps earlier is read. All ranks read the same ballots at the same step.
    """

    EVERY = 50

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            shape = (self.EVERY, len(Ballot._fields))
            self.window = torch.empty(shape, device=device)
            self.filled = 0
            self.host = torch.empty(shape, pin_memory=True)
            self.copied: torch.cuda.Event | None = None

    def put(self, sums: Tensor) -> list[Ballot]:
        """Takes one step's sums, float [3]. Returns the ballots that became readable, oldest first."""
        if not self.cuda:
            return [Ballot(*sums.tolist())]
        self.window[self.filled] = sums
        self.filled += 1
        if self.filled < self.EVERY:
            return []
        readable = self._read()
        self.host.copy_(self.window, non_blocking=True)
        self.copied = torch.cuda.Event()
        self.copied.record()
        self.filled = 0
        return readable

    def drain(self) -> list[Ballot]:
        """Waits for the device and returns all that is left."""
        if not self.cuda:
            return []
        readable = self._read() + [Ballot(*row) for row in self.window[: self.filled].tolist()]
        self.filled = 0
        return readable

    def _read(self) -> list[Ballot]:
        if self.copied is None:
            return []
        self.copied.synchronize()
        self.copied = None
        return [Ballot(*row) for row in self.host.tolist()]
