"""The partition of an epoch over many simulated ranks, all of them really built: who gets what, and what it costs.

Run: python -m benchmarks.partition [--ranks 4096] [--digits 60000] [--batch 4096 8192 262144]
"""

import argparse
import itertools
import multiprocessing
import os
import time
from pathlib import Path

import torch

from benchmarks.setting import Rows, markdown
from distmnist.data.sampler import GlobalBatchSampler

HEAD = ["global batch", "steps", "digits a rank and step", "a rank's epoch", "held a rank", "time a rank"]


def check(ranks: int, digits: int, batch: int) -> list[str]:
    """Builds the samplers of all ranks and takes every share of one epoch from them. Returns a row of the table.

    Raises AssertionError unless every digit is in exactly one share and the shares of a step differ by one at most.
    """
    torch.set_num_threads(1)
    samplers = [
        GlobalBatchSampler(range(digits), batch_size=batch, num_replicas=ranks, rank=rank, seed=0)
        for rank in range(ranks)
    ]
    seen = torch.zeros(digits, dtype=torch.int64)
    before, began = resident_bytes(), time.perf_counter()
    plans = [sampler.batches() for sampler in samplers]
    first = [next(plan) for plan in plans]  # now every rank holds what it holds during an epoch
    held = (resident_bytes() - before) / ranks
    steps, sizes = 0, set()
    for shares in itertools.chain([first], zip(*plans, strict=True)):
        counts = [sum(len(share.indices) for share in own) for own in shares]
        assert max(counts) - min(counts) <= 1, f"the shares of step {steps} hold {min(counts)} to {max(counts)} digits"
        seen += torch.bincount(torch.cat([share.indices for own in shares for share in own]), minlength=digits)
        steps, sizes = steps + 1, sizes | set(counts)
    seconds = (time.perf_counter() - began) / ranks
    assert torch.equal(seen, torch.ones_like(seen)), f"{int((seen != 1).sum())} digits are not in exactly one share"
    epochs = [len(sampler) for sampler in samplers]
    return [
        f"{batch:,}",
        f"{steps:,}",
        f"{min(sizes)} to {max(sizes)}",
        f"{min(epochs)} to {max(epochs)} digits",
        f"{held / 1000:,.1f} kB",
        f"{1000 * seconds:.1f} ms",
    ]


def resident_bytes() -> int:
    """Memory of this process. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(ranks: int, digits: int, batches: list[int]) -> str:
    """Each row from a fresh process, whose memory no earlier one has used."""
    # glibc then gives large blocks back as soon as they are freed: what is resident is what is held. See mallopt(3).
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows: Rows = pool.starmap(check, [(ranks, digits, batch) for batch in batches], chunksize=1)
    return markdown(HEAD, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4096)
    parser.add_argument("--digits", type=int, default=60_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[4096, 8192, 262_144])
    arguments = parser.parse_args()
    print(table(arguments.ranks, arguments.digits, arguments.batch))


if __name__ == "__main__":
    main()
