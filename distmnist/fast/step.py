"""The trainer's step with autograd's engine called directly; `Trainer.plain_step` says what it does."""

from typing import TYPE_CHECKING, cast

import torch

from distmnist.data.loader import Shard

if TYPE_CHECKING:
    from distmnist.fast.gradients import FastGradients
    from distmnist.training.trainer import Trainer


def fast_step(trainer: "Trainer", shards: list[Shard], count: int) -> None:
    """One optimizer step on a global batch of `count` images, of which `shards` are this rank's."""
    gradients, precision = cast("FastGradients", trainer.gradients), trainer.precision
    gradients.clear()
    weight = precision.scale(torch.full((), gradients.average / count, device=trainer.world.device))
    for shard in shards:
        trainer.world.heartbeat.advance()
        images = trainer.augmented(shard)
        trainer.seed_draws(shard)
        with precision.autocast():
            loss_sum, stats = gradients.module(images, shard.labels, trainer.requests)
        trainer.world.heartbeat.advance()
        gradients.backward(loss_sum, weight, stats)
    stats = gradients.finish()

    trainer.optimizer.param_groups[0]["lr"] = trainer.learning_rate()
    trainer.progress.advance(precision.step(trainer.optimizer, trainer.parameters))
    trainer.take_note(stats)
