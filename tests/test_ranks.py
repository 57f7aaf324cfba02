"""The tests' own means of running ranks."""

import os
import time

import pytest
import torch
from ranks import RankFailed, run_ranks


def total(world, numbers):
    return world.rank, world.sum_(numbers * (world.rank + 1)), torch.get_num_threads(), os.environ["COLOUR"]


def fail_on_last(world):
    if world.rank == world.size - 1:
        raise LookupError("not here")
    world.sum_(torch.ones(1))


def die_on_last(world):
    if world.rank == world.size - 1:
        os._exit(7)
    time.sleep(60)


def sleep_on_last(world):
    if world.rank == world.size - 1:
        time.sleep(60)


def test_ranks_are_connected_and_return_their_results_in_order():
    answers = run_ranks(total, 3, torch.arange(4.0), environment={"COLOUR": "red{rank}"})
    for rank, (own, tensor, threads, colour) in enumerate(answers):
        assert (own, threads, colour) == (rank, 1, f"red{rank}")
        assert torch.equal(tensor, 6 * torch.arange(4.0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail_on_last, "on rank 1:\n.*LookupError: not here"),
        (die_on_last, "rank 1 died with exit code 7"),
        (sleep_on_last, "no result in time from rank 0, 1 of 2"),  # rank 0 waits for the others to leave
    ],
)
def test_a_rank_that_raises_dies_or_is_late_fails_the_test_and_is_named(function, message):
    with pytest.raises(RankFailed, match=f"(?s){message}"):
        run_ranks(function, 2, timeout=2 if function is sleep_on_last else 30)
