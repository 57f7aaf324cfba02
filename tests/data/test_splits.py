"""Which images are held out: a fixed part, the same share of each class, by index and not by copy."""

import dataclasses

import pytest
import torch

from distmnist.data.dataset import Dataset, LabelledImages
from distmnist.data.splits import held_out_rows, hold_out
from distmnist.errors import UsageError


def photos(labels: torch.Tensor, classes: int, **changed) -> Dataset:
    """A data set with these labels in training; the pixels of each image are its number."""
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    train = LabelledImages(images, labels, (0.5,) * 3, (0.5,) * 3)
    names = tuple(map(str, range(classes)))
    return dataclasses.replace(Dataset("photos", "memory", train, train, names), **changed)


def test_the_held_out_digits_are_a_fixed_part_whatever_the_random_state(digits):
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        splits.append(hold_out(digits, 0.2))
        assert torch.equal(state, torch.get_rng_state())
    (kept, held), (kept_again, held_again) = splits
    assert torch.equal(held.rows, held_again.rows) and torch.equal(kept.rows, kept_again.rows)
    assert (len(kept), len(held)) == (240, 60)
    assert sorted([*kept.rows.tolist(), *held.rows.tolist()]) == list(range(300))
    for part in (kept, held):
        images, labels = part.batch(torch.arange(len(part)))
        assert torch.equal(images, digits.train.normalised(digits.train.images[part.rows]))
        assert torch.equal(labels, digits.train.labels[part.rows])


def test_without_strata_the_held_out_images_are_drawn_and_not_the_head_of_a_sorted_file():
    _, held = held_out_rows(torch.arange(10).repeat_interleave(30), 0.2, stratified=False)
    assert len(held) == 60 and len((held // 30).unique()) > 5
    assert held.reshape(2, 30).diff().abs().max() > 1


def test_mnist_is_held_out_without_strata_as_it_always_was(digits):
    """Its published figures, and the random state of nobody, depend on these very images."""
    data = dataclasses.replace(digits, stratified=False)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0x8BA2744E))  # seed_for("held out")
    assert hold_out(data, 0.2)[1].rows.tolist() == sorted(order[:60].tolist())


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_the_same_share_of_each_class_is_held_out_to_the_nearest_image(fraction):
    counts = [40, 3, 100, 10]
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    kept, held = held_out_rows(labels, fraction, stratified=True)
    assert torch.equal(torch.cat([kept, held]).sort()[0], torch.arange(len(labels)))
    assert torch.equal(kept, kept.sort()[0]) and torch.equal(held, held.sort()[0])
    for label, count in enumerate(counts):
        assert abs((labels[held] == label).sum() - min(fraction * count, count - 1)) <= 0.5


@pytest.mark.parametrize("fraction", [0.5, 0.9, 1 - 1e-9])
def test_at_least_one_image_of_each_class_is_left_to_train_on(fraction):
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    kept, held = held_out_rows(labels, fraction, stratified=True)
    assert labels[kept].unique().tolist() == [0, 1, 2] and 0 not in labels[held]


def test_what_is_held_out_of_a_class_does_not_depend_on_the_other_classes():
    labels = torch.arange(3).repeat(20)
    _, held = held_out_rows(labels, 0.3, stratified=True)
    without = labels != 1
    _, fewer = held_out_rows(labels[without], 0.3, stratified=True)
    assert len({tuple((held[held % 3 == label] // 3).tolist()) for label in range(3)}) == 3, "drawn for each class anew"
    assert without.nonzero()[:, 0][fewer].tolist() == [row for row in held.tolist() if row % 3 != 1]


def test_the_images_are_held_out_by_index_and_share_their_memory():
    data = photos(torch.arange(4).repeat(10), 4)
    for part in hold_out(data, 0.2):
        assert part.images.data_ptr() == data.train.images.data_ptr() and len(part.images) == 40
        assert len(part.labels) == len(part.rows) == len(part) < 40
        assert torch.equal(part.labels, data.train.labels[part.rows])
        images = part.select(slice(None)).images
        assert images[:, 0, 0, 0].tolist() == part.rows.tolist()


def test_a_part_of_a_part_counts_its_rows_in_the_whole():
    data = photos(torch.arange(4).repeat(10), 4)
    kept, _ = hold_out(data, 0.5)
    again = kept.subset(torch.tensor([3, 1]))
    assert again.rows.tolist() == kept.rows[[3, 1]].tolist()
    images, labels = again.batch(torch.tensor([1]))
    assert torch.equal(images, data.train.batch(kept.rows[1:2])[0]) and labels.tolist() == [kept.labels[1]]
    assert again.to(torch.device("cpu")).select(torch.tensor([0])).images[0, 0, 0, 0] == kept.rows[3]


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_a_fraction_that_leaves_one_side_empty_is_refused(digits, fraction, stratified):
    data = photos(torch.arange(2), 2, stratified=stratified)
    with pytest.raises(UsageError, match=f"--val-fraction {fraction} of 2 training images leaves one side empty"):
        hold_out(data, fraction)


def test_a_validation_set_of_its_own_is_used_and_none_is_held_out_beside_it():
    data = photos(torch.arange(4).repeat(10), 4)
    assert hold_out(data, 0.0) == (data.train, None)
    data = dataclasses.replace(data, validation=data.test)
    assert hold_out(data, 0.0) == (data.train, data.test)
    with pytest.raises(UsageError, match=r"--val-fraction 0\.2: photos has a validation set of its own; leave the opt"):
        hold_out(data, 0.2)


def test_ten_thousand_classes_are_held_out_in_one_pass_over_the_labels(monkeypatch):
    looked = []
    monkeypatch.setattr(torch.Tensor, "__eq__", lambda *_: looked.append(1) or torch.tensor([]))
    kept, held = held_out_rows(torch.arange(10_000).repeat(2), 0.5, stratified=True)
    assert len(kept) == len(held) == 10_000 and not looked
