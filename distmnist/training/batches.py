"""Whether a model can be trained on the batches that there will be."""

from torch import nn

from distmnist.data.sampler import EpochPlan
from distmnist.errors import UsageError
from distmnist.models.custom import trains_on_one


def check_batches(
    model: nn.Module, shape: tuple[int, int, int], count: int, batch_size: int, shards: int, name: str = "the model"
) -> None:
    """Refuses batches that leave a shard one image where the model cannot be trained on one: batch norms cannot.

    count: training images; shards: into how many pieces each batch is cut. Raises UsageError, with a batch size that
    fits.
    """
    if not has_lone_image(count, batch_size, shards) or trains_on_one(model, shape):
        return
    others = sorted(range(1, count + 1), key=lambda size: (abs(size - batch_size), size))
    fitting = next((size for size in others if size >= shards and not has_lone_image(count, size, shards)), None)
    raise UsageError(
        f"--batch-size {batch_size} cuts {count:,} images so that one of {shards} shards is a single image, on which"
        f" {name} cannot be trained: it has a batch norm over one value;"
        f" {f'use --batch-size {fitting}' if fitting else 'use fewer processes, or more images'}"
    )


def has_lone_image(count: int, batch_size: int, shards: int) -> bool:
    """Whether a shard of an epoch's first or last batch has exactly one image; all other batches are like the first."""
    plan = EpochPlan(seed=0, epoch=0, size=count, batch_size=batch_size)
    bounds = [plan.bounds(step, part, shards) for step in (0, plan.steps - 1) for part in range(shards)]
    return any(stop - start == 1 for start, stop in bounds)
