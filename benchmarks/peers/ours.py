"""This project's trainer, through the functions that the command itself calls."""

import time

from benchmarks.peers.case import LR, Case, Run, cut
from distmnist.config import Job, resolve
from distmnist.data.dataset import DIGITS, Dataset, LabelledImages
from distmnist.data.loader import load
from distmnist.data.sampler import GlobalBatchSampler
from distmnist.distributed.world import World
from distmnist.runs.job import set_up_machine
from distmnist.training.trainer import fit


def job_of(case: Case, fast: str) -> Job:
    how = {"model": case.net, "epochs": 1, "batch_size": case.batch, "lr": LR, "seed": case.seed}
    return resolve({**how, "amp": case.amp, "threads": case.threads, "fast": fast})


def prepare(case: Case, digits: LabelledImages, world: World, fast: str = "auto") -> Run:
    """The evaluation that belongs to a fit is cut down to one digit a rank; it is inside the time that is measured."""
    job = job_of(case, fast)
    set_up_machine(world, job)
    data = Dataset("mnist", "in memory", digits, cut(digits, world.size), DIGITS).to(world.device)
    return lambda: fit(job.common, data, world=world).state


def loader_seconds(case: Case, digits: LabelledImages) -> float:
    """What an epoch's shuffling, gathering and normalising take by themselves, in one process."""
    sampler = GlobalBatchSampler(digits, batch_size=case.batch, num_replicas=1, rank=0, seed=case.seed)
    began = time.perf_counter()
    for _ in load(digits, sampler.batches()):
        pass
    return time.perf_counter() - began
