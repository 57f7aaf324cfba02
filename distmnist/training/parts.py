"""What a fit is made of: plain PyTorch, or what fast/ has instead. `choose_parts` is the only place that chooses."""

import dataclasses
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import torch
from torch import nn

from distmnist.config import TrainConfig, is_custom
from distmnist.data.loader import Shard
from distmnist.distributed.world import World
from distmnist.training.gradients import Gradients, build_gradients
from distmnist.training.loss import Loss, loss_sums
from distmnist.training.optimizer import Optimizer, build_optimizer

if TYPE_CHECKING:
    from distmnist.training.trainer import Trainer


@dataclasses.dataclass
class Parts:
    """net: computes the model's logits, with its parameters. replacements: what is not plain PyTorch, in words."""

    net: nn.Module
    optimizer: Optimizer
    gradients: Gradients
    step: "Callable[[Trainer, list[Shard], int], None] | None" = None
    """Stands for `Trainer.plain_step`."""
    replacements: tuple[str, ...] = ()


def choose_parts(
    model: nn.Module,
    config: TrainConfig,
    world: World,
    amp: str,
    classes: int,
    loss: Loss = loss_sums,
    unused: Collection[str] = (),
) -> Parts:
    """The parts for `model`, which lies on `world.device`; all ranks call it alike. amp: "off", "bf16" or "fp16".

    classes: numbers that it puts out for an image; loss: what the trainer's plain step calls, for the replacements that
    call it themselves; unused: names of parameters that get no gradient. Models of the user's own are trained in plain
    PyTorch: what fast/ saves a step is nothing beside what larger models take. It knows no micro-batches, either.
    """
    net, replacement = choose_forward(model, config, world.device, amp)
    if is_plain(config):
        optimizer = build_optimizer(model.parameters(), config)
        micro_batches = config.micro_batch_size > 0
        gradients = build_gradients(net, world, config.virtual_ranks, classes, unused, micro_batches)
        return Parts(net, optimizer, gradients)

    from distmnist.fast.gradients import build_fast_gradients
    from distmnist.fast.optimizer import build_fused_optimizer
    from distmnist.fast.step import fast_step

    names = ["autograd engine", "fused optimizer kernel", *([replacement] if replacement else [])]
    fused = build_fused_optimizer(model.parameters(), config)
    fast_gradients = build_fast_gradients(net, world, config.virtual_ranks, loss)
    return Parts(net, fused, fast_gradients, fast_step, (*names, *fast_gradients.replacements))


def is_plain(config: TrainConfig) -> bool:
    """Whether a model is trained in plain PyTorch alone."""
    plain = config.fast == "off" or is_custom(config.model) or config.micro_batch_size > 0 or bool(config.freeze)
    return plain or not fast_is_there()


def choose_forward(
    model: nn.Module, config: TrainConfig, device: torch.device, amp: str
) -> tuple[nn.Module, str | None]:
    """What computes the logits of `model`, in training and in evaluation; and what it is, unless plain PyTorch.

    Whoever evaluates the model with it gets the figures that the training had, bit for bit.
    """
    if not is_plain(config):
        from distmnist.fast.forward import select_forward

        if faster := select_forward(model, device, amp):
            return faster, faster.name
    return model.to(memory_format=torch.channels_last), None  # what tensor cores want, and oneDNN under autocast


def fast_is_there() -> bool:
    """Whether the optional package distmnist.fast is installed."""
    try:
        import distmnist.fast  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "distmnist.fast":
            raise
        return False
    return True
