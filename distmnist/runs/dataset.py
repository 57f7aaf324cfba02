"""Reads the data set of a run on all its ranks: each machine reads it once."""

import msgspec

from distmnist.config import Job, data_is_chosen, is_own
from distmnist.console import Log
from distmnist.data import audit, known, sources
from distmnist.data.assemble import with_mean_and_std
from distmnist.data.dataset import Dataset
from distmnist.data.sharing import Shared, receive, share
from distmnist.distributed.world import World

DOWNLOAD_SECONDS = 3600.0
"""How long the other ranks wait while one downloads, or waits for a run that does: see `data.known.LOCK_SECONDS`."""

READING_SECONDS = 3600.0
"""How long the other ranks wait for a function that returns the images. Decoding of files shows progress of its own."""


def read_dataset(world: World, log: Log, job: Job) -> Dataset:
    """The data set of the job, on the CPU, the same on all ranks; what the user should know of it is said.

    Raises UsageError on all ranks if one cannot read it, or reads another one.
    """
    own = is_own(job.common.data)
    dataset = (read_own_images if own else read_known_set)(world, log, job)
    with world.agreement() as statement:
        statement["the data set"] = f"{dataset.name}, {dataset.digest}"
    for line in audit.warnings(dataset) if own else []:  # the known sets are as they are
        log.warn(line)
    return dataset


def option_of(dataset: Dataset, job: Job) -> str:
    """The value of --data for what was read: the sample may have taken the place of MNIST."""
    return job.common.data if is_own(job.common.data) else known.option_of(dataset.name)


def read_known_set(world: World, log: Log, job: Job) -> Dataset:
    """A known data set, or the sample in its place. One process of each machine downloads it if need be."""
    reason, chosen = None, data_is_chosen(job.explicit)
    name, directory = job.common.data, job.run.data_dir
    with world.agreement():
        sources.check_options(job.common)
        if world.local_rank == 0:
            with world.heartbeat.busy("downloading the data set", DOWNLOAD_SECONDS):
                reason = known.provide(name, directory, chosen, log.say)
    with world.agreement():
        dataset = with_mean_and_std(known.load_or_sample(name, directory, chosen), job.common)
    if reason:
        log.warn(known.substituted(directory, reason))
    return dataset


def read_own_images(world: World, log: Log, job: Job) -> Dataset:
    """Images of the user's own: one process of each machine reads them, and the others map the same memory."""
    leader, dataset, shared = world.machine_leader(), None, None
    with world.agreement():
        if world.rank == leader:
            dataset = load_own_images(world, log, job)
            if world.size > 1:
                dataset, shared = share(dataset)
    shared = world.announce(msgspec.to_builtins(shared), leader)
    with world.agreement():
        if dataset is None:
            dataset = receive(msgspec.convert(shared, Shared)) or load_own_images(world, log, job)
    return dataset


def load_own_images(world: World, log: Log, job: Job) -> Dataset:
    """Reads them in this process, while the others wait."""

    def progress(done: int, of: int) -> None:
        bar.total = of
        bar.update(done)
        world.heartbeat.touch()

    with (
        world.heartbeat.busy("reading the images", READING_SECONDS),
        log.progress("reading images", 1, unit="image") as bar,
    ):
        return sources.load(job.common, job.run.data_dir, log.say, progress)
