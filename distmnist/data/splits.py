"""Which training images are held out for validation."""

import torch
from torch import Tensor

from distmnist.data.dataset import Dataset, LabelledImages
from distmnist.errors import UsageError
from distmnist.seeds import generator


def hold_out(data: Dataset, fraction: float) -> tuple[LabelledImages, LabelledImages | None]:
    """The images to train on, and those to validate with: `fraction` of the training images, or a set of their own.

    The images are not copied. Raises UsageError: both are asked for, or the fraction leaves one side empty.
    """
    if not fraction:
        return data.train, data.validation
    if data.validation is not None:
        refuse_second_set(data.name, fraction)
    kept, held = held_out_rows(data.train.labels, fraction, data.stratified)
    return data.train.subset(kept), data.train.subset(held)


def refuse_second_set(name: str, fraction: float) -> None:
    """For the data set `name`, which has a validation set. Raises UsageError unless the fraction is 0."""
    if fraction:
        raise UsageError(f"--val-fraction {fraction}: {name} has a validation set of its own; leave the option out")


def held_out_rows(labels: Tensor, fraction: float, stratified: bool) -> tuple[Tensor, Tensor]:
    """Labels, int64 [n] -> the indices, int64, sorted, of those to train on and of those held out.

    The same whatever the random seed of the training. stratified: `fraction` of the images of each class, to the
    nearest whole number, but never all of them. Raises UsageError if one side is empty.
    """
    labels = labels.cpu()
    if stratified:
        by_class = labels.argsort(stable=True).split(labels.bincount().tolist())
        held = torch.cat([_part_of_class(rows, label, fraction) for label, rows in enumerate(by_class) if len(rows)])
    else:
        order = torch.randperm(len(labels), generator=generator("held out"))
        held = order[: round(fraction * len(labels))]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[held] = True
    if not 0 < chosen.sum() < len(labels):
        raise UsageError(f"--val-fraction {fraction} of {len(labels)} training images leaves one side empty")
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


def _part_of_class(rows: Tensor, label: int, fraction: float) -> Tensor:
    order = torch.randperm(len(rows), generator=generator("held out", label))
    return rows[order[: min(round(fraction * len(rows)), len(rows) - 1)]]
