"""Models with batch norm and other buffers, dropout of their own, and parameters without a gradient: exact as well."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from any_models import IDLE, Mixed
from digits import few_digits, random_digits
from ranks import run_ranks
from shards import batch_gradient

from distmnist.checkpoint.record import Checkpoint
from distmnist.checkpoint.storage import weights_sha256
from distmnist.config import TrainConfig
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.models.build import build_model
from distmnist.seeds import seed_for
from distmnist.training.callbacks import Callback
from distmnist.training.gradients import ShardModel, build_gradients
from distmnist.training.trainer import fit


def steps(world, momentum, virtual_ranks, counts):
    """Buffers and gradients after these steps."""
    torch.manual_seed(0)
    model = Mixed(momentum=momentum).train()
    gradients = build_gradients(model, world, virtual_ranks, 10, IDLE)
    for number, count in enumerate(counts):
        batch_gradient(gradients, world, count, torch.zeros(2), virtual_ranks=virtual_ranks, seed=number)
    assert all(parameter.grad is None for parameter in model.idle.parameters())
    return {name: value.clone() for name, value in model.named_buffers()}, [p.grad for p in gradients.parameters]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_virtual_ranks_leave_the_same_buffers_and_gradients_at_any_world_size(momentum):
    counts = [40, 8, 17]
    alone = steps(World(), momentum, 4, counts)
    for size in (2, 4):
        for found in run_ranks(steps, size, momentum, 4, counts):
            assert all(torch.equal(found[0][name], alone[0][name]) for name in alone[0])
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[1], alone[1], strict=True))
    assert alone[0]["norm.num_batches_tracked"] == len(counts) and alone[0]["seen"]


def test_floating_point_buffers_are_the_mean_over_the_shards_that_have_images():
    """Written down for one step of two images over four shards, of which two are empty."""
    torch.manual_seed(0)
    model = Mixed().train()
    model.norm.eval()  # a batch norm needs more than one image
    gradients = build_gradients(model, World(), 4, 10, IDLE)
    batch_gradient(gradients, World(), 2, torch.zeros(2), virtual_ranks=4)
    images, _ = random_digits(2).batch(torch.arange(2))
    assert model.mask.tolist() == [0.0, -float("inf")]
    assert torch.allclose(model.wide, images.double().mean().expand(2), rtol=1e-12)
    assert model.seen


def test_a_shard_without_images_does_not_call_the_model_and_has_zero_gradients():
    model = Mixed().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    gradients = build_gradients(model, World(), 0, 10, IDLE)
    logits = ShardModel(model, 10, gradients.parameters)(torch.zeros(0, 1, 28, 28))
    assert logits.shape == (0, 10)
    logits.sum().backward()
    assert all(not p.grad.any() for p in gradients.parameters)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def under_ddp(world, counts):
    """Gradients of the last step, of the used and of the idle parameters, with empty shards on the way."""
    torch.manual_seed(world.rank)  # DDP gives all ranks rank 0's weights and buffers
    model = Mixed().train()
    model.norm.eval()  # so that the gradient is that of the whole batch
    gradients = build_gradients(model, world, 0, 10, IDLE)
    images, labels = torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    gradients.warm_up(images, labels, contextlib.nullcontext)
    for number, count in enumerate(counts):
        batch_gradient(gradients, world, count, torch.zeros(2), seed=number)
    return [p.grad.clone() for p in gradients.parameters], [p.grad for p in model.idle.parameters()]


def test_ddp_trains_around_parameters_without_a_gradient_and_shards_without_images():
    first, *others = run_ranks(under_ddp, 3, [12, 2, 1])
    for used, idle in others:
        assert idle == [None, None]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(used, first[0], strict=True))
    assert any(gradient.any() for gradient in first[0])


SMALL = {"model": "any_models:Mixed", "epochs": 2, "batch_size": 44, "amp": "off", "optimizer": "sgd", "lr": 0.1}
"""300 images make six batches of 44 and one of 36."""


class Keep(Callback):
    def __init__(self) -> None:
        self.found: list[Checkpoint] = []

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.found.append(copy.deepcopy(checkpoint))


def trained(world, options, stop=None):
    """Digest of weights and buffers, losses, counters; with `stop`, resumed from the checkpoint of that step."""
    config, digits = TrainConfig(**{**SMALL, **options}), few_digits()
    kept = Keep()
    result = fit(config, digits, world=world, callbacks=[kept], checkpoint_steps=3)
    if stop:
        (found,) = [one for one in kept.found if one.progress.global_step == stop]
        result = fit(config, digits, world=world, checkpoint=world.broadcast(found))
    counter = int(result.state["norm.num_batches_tracked"])
    return weights_sha256(result.state), [epoch.test_loss for epoch in result.history], counter


@pytest.mark.parametrize("options", [{"model_args": "momentum=None"}, {"model_args": "rate=0.3"}, {"virtual_ranks": 4}])
@pytest.mark.parametrize("size", [1, 2])
def test_a_resumed_run_ends_with_the_same_weights_buffers_and_losses(size, options):
    for stop in (3, 9):
        whole, resumed = (
            [trained(World(), options, at)] if size == 1 else run_ranks(trained, size, options, at)
            for at in (None, stop)
        )
        assert whole == resumed and whole[0][2] == 14


def test_virtual_ranks_train_the_same_model_with_dropout_of_its_own_at_any_world_size():
    options = {"virtual_ranks": 4, "model_args": "rate=0.3", "augment": 1.0}
    alone = trained(World(), options)
    assert trained(World(), options) == alone, "the same command twice"
    for size in (2, 4):
        assert run_ranks(trained, size, options) == [alone] * size


def test_without_virtual_ranks_the_same_command_twice_is_the_same():
    for size in (1, 2):
        first, second = (
            [trained(World(), {"model_args": "rate=0.3"})]
            if size == 1
            else run_ranks(trained, size, {"model_args": "rate=0.3"})
            for _ in range(2)
        )
        assert first == second


def test_a_fit_leaves_its_callers_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    for options in ({"model_args": "rate=0.3"}, {"model": "mlp", "dropout": 0.1}):
        torch.manual_seed(5)
        fit(TrainConfig(**{**SMALL, **options, "max_steps": 2}), few_digits())
        assert torch.equal(torch.rand(3), expected)


def test_a_batch_that_leaves_a_batch_norm_one_value_is_refused_with_a_size_that_fits():
    config = TrainConfig(**{**SMALL, "batch_size": 23})  # 300 = 13 x 23 + 1
    with pytest.raises(UsageError, match=r"--batch-size 23 cuts 300 images .* use --batch-size 22$"):
        fit(config, few_digits())
    fit(TrainConfig(**{**SMALL, "batch_size": 22, "max_steps": 1}), few_digits())
    fit(TrainConfig(**{**SMALL, "batch_size": 23, "max_steps": 1, "model": "mlp"}), few_digits())


def test_a_seed_is_the_same_number_whatever_library_it_is_of():
    assert seed_for(np.int64(3), "order") == seed_for(3, "order")
    same = [build_model("mlp", seed=seed).state_dict()["fc1.weight"] for seed in (3, np.int64(3))]
    assert torch.equal(*same)
