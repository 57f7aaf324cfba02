"""How batches are cut, and whether a model can be trained on the pieces."""

from collections.abc import Collection

from torch import nn

from distmnist.config import TrainConfig
from distmnist.data.sampler import EpochPlan
from distmnist.errors import UsageError
from distmnist.models.custom import trains_on_one


def micro_batches(count: int, shards: int, size: int) -> int:
    """How many micro-batches of at most `size` images each shard of a global batch of `count` images is cut into.

    As many as the largest shard needs, so that all ranks have equally many. size: 0 leaves the shards whole.
    """
    largest = -(-count // shards)
    return -(-largest // size) if size else 1


def check_batches(
    config: TrainConfig,
    model: nn.Module,
    shape: tuple[int, int, int],
    count: int,
    shards: int,
    in_eval: Collection[str] = (),
) -> None:
    """Refuses batches that leave a forward pass one image where the model cannot be trained on one: batch norms cannot.

    With --sync-bn one is enough, but there must be one: the rank would not take part in the batch norms' all-gather.

    count: training images; shards: into how many each batch is cut; in_eval: see `freezing.set_training`. Raises
    UsageError, with a batch size that fits.
    """
    size, batch_size = config.micro_batch_size, config.batch_size
    if config.sync_bn and shards > 1:
        wrong, why = 0, "a process has none of the last batch, and --sync-bn needs some on each"
    elif not trains_on_one(model, shape, in_eval):
        piece = "micro-batch" if size else "shard"
        wrong, why = 1, f"a {piece} is a single image, and --model {config.model} has a batch norm over one value"
    else:
        return
    if wrong not in forward_sizes(count, batch_size, shards, size):
        return
    if size == wrong == 1:
        raise UsageError(
            f"--micro-batch-size {size}: --model {config.model} cannot be trained on single images, because it has a"
            " batch norm over one value; use 2 or more"
        )
    others = sorted(range(shards, count + 1), key=lambda other: (abs(other - batch_size), other))
    fits = next((other for other in others if wrong not in forward_sizes(count, other, shards, size)), None)
    raise UsageError(
        f"--batch-size {batch_size} cuts {count:,} images so that {why};"
        f" {f'use --batch-size {fits}' if fits else 'use fewer processes, or more images'}"
    )


def forward_sizes(count: int, batch_size: int, shards: int, micro_batch_size: int) -> set[int]:
    """How many images the forward passes of an epoch have. All batches but the last are cut like the first."""
    plan, found = EpochPlan(seed=0, epoch=0, size=count, batch_size=batch_size), set()
    for step in {0, plan.steps - 1}:
        pieces = micro_batches(plan.count(step), shards, micro_batch_size)
        for part in range(shards):
            start, stop = plan.bounds(step, part, shards)
            found |= {(stop - start) // pieces, -(-(stop - start) // pieces)}
    return found
