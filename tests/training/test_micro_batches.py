"""--micro-batch-size: the gradient of the whole, one reduction a step, exact against itself."""

import re

import pytest
import torch
from any_models import Mixed
from digits import few_digits
from ranks import run_ranks
from test_any_model import IDLE, SMALL, trained
from torch import nn

from distmnist.config import TrainConfig
from distmnist.data.loader import Shard, split
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.training.batches import check_batches, forward_sizes, micro_batches
from distmnist.training.gradients import TreeSum, tree_sum
from distmnist.training.trainer import Trainer, fit


@pytest.mark.parametrize(
    ("count", "shards", "size", "pieces"), [(64, 1, 0, 1), (64, 1, 64, 1), (65, 1, 64, 2), (9, 4, 1, 3)]
)
def test_all_shards_of_a_batch_are_cut_into_as_many_pieces_as_the_largest_needs(count, shards, size, pieces):
    assert micro_batches(count, shards, size) == pieces


def test_a_shard_is_cut_in_order_into_pieces_that_differ_by_one_image_at_most():
    shard = Shard(3, torch.arange(7), torch.rand(7, 1, 2, 2), torch.arange(7) % 3)
    pieces = split(shard, 3)
    assert [len(piece.labels) for piece in pieces] == [3, 2, 2] and all(piece.part == 3 for piece in pieces)
    for field in ("indices", "images", "labels"):
        assert torch.equal(torch.cat([getattr(piece, field) for piece in pieces]), getattr(shard, field))
    assert forward_sizes(7, 7, 1, 3) == {2, 3} and forward_sizes(9, 8, 4, 0) == {0, 1, 2}


class Spy(nn.Module):
    """Notes how many images each forward pass has."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.sizes = inner, []

    def forward(self, images):
        self.sizes.append(len(images))
        return self.inner(images)


def first_gradient(world, options):
    """Of the first step of a fit, and the sizes of its forward passes."""
    config = TrainConfig(**{"model": "mlp", "batch_size": 44, "amp": "off", "fast": "off", **options})
    trainer = Trainer(config, few_digits(), world)
    trainer.warm_up()
    spy = Spy(trainer.gradients.module)
    trainer.gradients.module = spy
    trainer.optimizer.step = lambda: None
    epoch = trainer.sampler.batches(0)
    data = trainer.train.batch
    shards = [Shard(share.part, share.indices, *data(share.indices)) for share in next(epoch)]
    trainer.step(shards, trainer.sampler.plan.count(0))
    return [parameter.grad.clone() for parameter in trainer.gradients.parameters], spy.sizes


@pytest.mark.parametrize("options", [{}, {"virtual_ranks": 4}, {"grad_clip": 0.01}, {"class_weights": "balanced"}])
@pytest.mark.parametrize("size", [1, 2])
def test_the_gradient_is_that_of_the_whole_batch_up_to_rounding(size, options):
    cut = {**options, "micro_batch_size": 5}
    runs = [[first_gradient(World(), o)] if size == 1 else run_ranks(first_gradient, size, o) for o in (options, cut)]
    for (whole, forwards), (pieces, smaller) in zip(*runs, strict=True):
        assert max(forwards) > 5 >= max(smaller) and sum(forwards) == sum(smaller)
        for one, other in zip(whole, pieces, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-7) and one.any()


@pytest.mark.parametrize("options", [{"model_args": "rate=0.3"}, {"virtual_ranks": 4}])
@pytest.mark.parametrize("size", [1, 2])
def test_a_resumed_run_with_micro_batches_ends_with_the_same_bits(size, options):
    options = {**options, "micro_batch_size": 6}
    whole, resumed = (
        [trained(World(), options, at)] if size == 1 else run_ranks(trained, size, options, at) for at in (None, 9)
    )
    assert whole == resumed


def test_virtual_ranks_with_micro_batches_give_one_digest_at_any_world_size():
    options = {"virtual_ranks": 4, "micro_batch_size": 3, "model_args": "rate=0.3"}
    alone = trained(World(), options)
    for size in (2, 4):
        assert run_ranks(trained, size, options) == [alone] * size


def reductions(world, size):
    """How often DDP reduces a bucket, in two steps on shards of 22 images."""
    trainer = Trainer(TrainConfig(**{**SMALL, "micro_batch_size": size, "max_steps": 2}), few_digits(), world)
    made = []

    def reduce(state, bucket):
        made.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(world.sum_(bucket.buffer()) / world.size)
        return future

    trainer.gradients.ddp.register_comm_hook(None, reduce)
    trainer.run()
    return made


def test_gradients_are_reduced_once_a_step_however_many_micro_batches_it_has():
    whole, cut = (run_ranks(reductions, 2, size) for size in (0, 5))
    assert whole == cut and whole[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"micro_batch_size": 1}, r"--micro-batch-size 1: .* use 2 or more$"),
        ({"micro_batch_size": 2, "batch_size": 45}, r"micro-batch is a single image.* use --batch-size 44$"),
    ],
)
def test_a_micro_batch_of_one_image_is_refused_for_a_batch_norm(options, told):
    with pytest.raises(UsageError) as error:
        fit(TrainConfig(**{**SMALL, **options}), few_digits())
    assert re.search(told, str(error.value))


def test_with_synchronized_batch_norm_a_batch_that_leaves_a_rank_without_images_is_refused():
    """Written down for four shards; torch has it on GPUs alone, so nothing is trained here."""
    config = TrainConfig(**{**SMALL, "batch_size": 100, "sync_bn": True})
    with pytest.raises(UsageError, match=r"none of the last batch, and --sync-bn .* use --batch-size 99$"):
        check_batches(config, Mixed(), (1, 28, 28), 402, 4)
    for count in (400, 404):
        check_batches(config, Mixed(), (1, 28, 28), count, 4)


def test_a_tree_sum_holds_few_tensors_and_adds_neighbours():
    leaves = [torch.tensor([10.0**number]) for number in range(16)]
    total, most = TreeSum(), 0
    for leaf in leaves:
        total.add(leaf)
        most = max(most, len(total.sums))
    assert most <= 4 and torch.equal(total.take(), tree_sum(leaves))
    pairs = [one + other for one, other in zip(leaves[::2], leaves[1::2], strict=True)]
    assert torch.equal(tree_sum(leaves), tree_sum(pairs))


def test_idle_parameters_stay_without_a_gradient_under_micro_batches():
    config = TrainConfig(**{**SMALL, "micro_batch_size": 6, "max_steps": 1})
    trainer = Trainer(config, few_digits(), World())
    trainer.run()
    assert all(dict(trainer.model.named_parameters())[name].grad is None for name in IDLE)
