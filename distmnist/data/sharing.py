"""Gives the data set that one process has read to the others of its machine, which map the same memory."""

import dataclasses

import torch

from distmnist.data.dataset import Dataset, DatasetFacts, LabelledImages
from distmnist.data.memory import SharedImages


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the others are told: all but the images and their labels, and where these are. count: for how many images
    there is room, which is more than there are where some could not be read."""

    facts: DatasetFacts
    origin: str
    stratified: bool
    place: str
    count: int


def share(data: Dataset) -> tuple[Dataset, Shared]:
    """The same data set, in memory that others can open, and what to tell them.

    Images that lie in such memory already are not copied.
    """
    splits, memory = list(data.splits.values()), data.memory
    assert all(split.rows is None for split in splits), "all images of each split, in order"
    if memory is None:
        memory = SharedImages.make(sum(map(len, splits)), data.train.shape)
        torch.cat([split.images for split in splits], out=memory.images)
    labels = torch.cat([split.labels for split in splits])
    memory.labels[: len(labels)] = labels
    shared = Shared(data.describe(), data.origin, data.stratified, memory.place, len(memory.labels))
    return dataset_in(memory, shared), shared


def receive(shared: Shared) -> Dataset | None:
    """The data set that another process of this machine shares; None where this one cannot reach its memory."""
    memory = SharedImages.open(shared.place, shared.count, shared.facts.shape)
    return dataset_in(memory, shared) if memory else None


def dataset_in(memory: SharedImages, shared: Shared) -> Dataset:
    """The data set whose images and labels lie in the memory: those of train, validation and test, in this order."""
    facts = shared.facts
    sizes = (facts.train, facts.validation, facts.test, shared.count - facts.train - facts.validation - facts.test)
    pieces = zip(memory.images.split(sizes), memory.labels.split(sizes), strict=True)
    train, validation, test, _ = (LabelledImages(*piece, facts.mean, facts.std) for piece in pieces)
    return Dataset(
        facts.name,
        shared.origin,
        train,
        test,
        facts.class_names,
        validation if len(validation) else None,
        shared.stratified,
        facts.preparation,
        facts.digest,
        facts.decoder,
        facts.duplicates,
        facts.skipped,
        memory,
    )
