"""Which digit goes where: the plan of an epoch as a value, and the DistributedSampler that is its thin face."""

import dataclasses
from collections.abc import Iterator, Sized
from functools import cached_property
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from distmnist.seeds import generator


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch, cut into global batches: a function of its four fields and of nothing else."""

    seed: int
    epoch: int
    size: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Global batches in the epoch; the last one holds what is left."""
        return -(-self.size // self.batch_size)

    @cached_property
    def order(self) -> Tensor:
        """int64 [size]: every digit once."""
        return torch.randperm(self.size, generator=generator(self.seed, "order", self.epoch))

    def count(self, step: int) -> int:
        """Digits in the global batch of `step`."""
        return min(self.batch_size, self.size - step * self.batch_size)

    def bounds(self, step: int, part: int, parts: int) -> tuple[int, int]:
        """Where in the order share `part` of the batch lies, when it is cut into `parts` that differ by one at most."""
        count, start = self.count(step), step * self.batch_size
        return start + count * part // parts, start + count * (part + 1) // parts


class Share(NamedTuple):
    """Share number `part` of a global batch: indices, int64 [0 or more]."""

    part: int
    indices: Tensor


class GlobalBatchSampler(DistributedSampler[int]):
    """A DistributedSampler without padding: each global batch is shared out over the replicas, no digit twice.

    Iterated over, it yields this replica's digits of the epoch set by `set_epoch`. The order depends on seed and
    epoch only, never on the number of replicas.
    """

    def __init__(
        self, dataset: Sized, *, batch_size: int, num_replicas: int, rank: int, seed: int, parts: int | None = None
    ) -> None:
        """`parts`: how many shares each batch is cut into, a multiple of the replicas; default one a replica."""
        # torch's sampler asks a data set for nothing but its length.
        known = cast("Dataset[int]", dataset)
        super().__init__(known, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=False)
        self.batch_size = batch_size
        self.parts = parts or num_replicas
        each = self.parts // num_replicas
        self.mine = range(rank * each, (rank + 1) * each)

    @property
    def plan(self) -> EpochPlan:
        """The plan of the epoch set by `set_epoch`."""
        return EpochPlan(self.seed, self.epoch, len(cast(Sized, self.dataset)), self.batch_size)

    def batches(self, start: int = 0, device: torch.device | str = "cpu") -> Iterator[list[Share]]:
        """This replica's shares of each global batch, from step `start` on. Holds this replica's digits alone."""
        plan, own, taken = self.plan, self._own(start).to(device), 0
        for step in range(start, plan.steps):
            shares = []
            for part in self.mine:
                first, stop = plan.bounds(step, part, self.parts)
                shares.append(Share(part, own[taken : taken + stop - first]))
                taken += stop - first
            yield shares

    def _own(self, start: int) -> Tensor:
        """This replica's digits from step `start` on, int64, in a tensor of their own: the whole order can go."""
        plan, first, last = self.plan, self.mine[0], self.mine[-1]
        steps = range(start, plan.steps)
        bounds = [(plan.bounds(s, first, self.parts)[0], plan.bounds(s, last, self.parts)[1]) for s in steps]
        return torch.cat([plan.order[:0], *(plan.order[slice(*own)] for own in bounds)])

    def __iter__(self) -> Iterator[int]:
        for shares in self.batches():
            for share in shares:
                yield from share.indices.tolist()

    def __len__(self) -> int:
        plan = self.plan
        bounds = (plan.bounds(step, part, self.parts) for step in range(plan.steps) for part in self.mine)
        return sum(stop - start for start, stop in bounds)
