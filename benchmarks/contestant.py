"""One contestant of `benchmarks.speed`, in a process of its own: reads cases, trains, answers with time and accuracy.

Started by `benchmarks.arena`. Says "ready" on standard output, then a line of JSON for each that it reads.
Run by hand: echo '{"net": "mlp", "batch": 64, "digits": 6400}' | python -m benchmarks.contestant ours --data-dir DIR
"""

import argparse
import functools
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.limits import gemm_peaks
from benchmarks.peers import ours
from benchmarks.peers.case import Case, cut, remainder
from distmnist.data import known
from distmnist.data.dataset import Dataset
from distmnist.distributed.world import World, join
from distmnist.fast.gradients import sum_over_ranks
from distmnist.fast.shared_memory import share_memory
from distmnist.models.build import build_model
from distmnist.training.evaluation import evaluate

WARM_UP = 10
"""Batches that each contestant trains a throw-away net on before it is timed; compilation comes before, too."""

ALL_REDUCES = 50


def measure(name: str, job: dict[str, Any], dataset: Dataset, world: World) -> dict[str, Any]:
    """Trains the case of `job` on its first `digits` digits for one epoch, after a warm-up; evaluates the result."""
    digits = cut(dataset.train, job.pop("digits"))
    case = Case(**job)
    prepare = importlib.import_module(f"benchmarks.peers.{name}").prepare
    prepare(case, cut(digits, remainder(case, len(digits), WARM_UP)), world)()
    run = prepare(case, digits, world)
    began = time.perf_counter()
    state = run()
    seconds = time.perf_counter() - began
    net = build_model(case.net)
    net.load_state_dict(state)
    evaluation = evaluate(net, dataset.test, len(dataset.class_names), world)
    return {
        "dataset": dataset.name,
        "digits": len(digits),
        "seconds": seconds,
        "images_per_second": len(digits) / seconds,
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "test_digits": evaluation.count,
    }


def all_reduce_seconds(world: World, size: int, shared: bool) -> float:
    """The median of `ALL_REDUCES` sums of `size` bytes of float32 over the ranks, after two that are not timed.

    `shared`: in shared memory, as the trainer does it on one machine; else by gloo.
    """
    torch.set_num_threads(1)
    message = torch.zeros(size // 4)
    memory = share_memory(world, size) if shared else None
    reduce = functools.partial(sum_over_ranks, memory) if memory else world.sum_
    times = []
    for _ in range(ALL_REDUCES + 2):
        began = time.perf_counter()
        reduce(message)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def answer(name: str, job: dict[str, Any], dataset: Dataset, world: World) -> dict[str, Any]:
    if name == "limits":
        return gemm_peaks()
    if name == "loader":
        digits = cut(dataset.train, job.pop("digits"))
        return {"seconds": min(ours.loader_seconds(Case(**job), digits) for _ in range(2))}
    if name == "all_reduce":
        return {"seconds": all_reduce_seconds(world, job["bytes"], job["shared"])}
    return measure(name, job, dataset, world)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a module of benchmarks/peers, or limits, loader or all_reduce")
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    dataset = known.load("mnist", arguments.data_dir)
    with join(timeout=600) as world:
        world.connect()
        if world.is_main:
            print(json.dumps("ready"), file=answers, flush=True)
        for line in sys.stdin:
            found = answer(arguments.name, json.loads(line), dataset, world)
            if world.is_main:
                print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
