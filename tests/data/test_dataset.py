"""The data set as a value: what does not fit together is refused, and two that differ are told apart in words."""

import dataclasses
import json

import msgspec
import pytest
import torch

from distmnist.data.dataset import Dataset, DatasetFacts, LabelledImages, normalise
from distmnist.errors import UsageError

FACTS = DatasetFacts(
    "photos", 6, 4, (3, 8, 9), ("cat", "dog"), (0.5,) * 3, (0.1,) * 3, digest="d1", decoder="Pillow 10"
)


def images(count: int = 4, channels: int = 3, size: int = 2, classes: int = 2, **changed) -> LabelledImages:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=draw)
    parts = LabelledImages(pixels, torch.arange(count) % classes, (0.5,) * channels, (0.1,) * channels)
    return dataclasses.replace(parts, **changed)


def dataset(**changed) -> Dataset:
    return Dataset(
        **{"name": "photos", "origin": "here", "train": images(), "test": images(2), "class_names": ("a", "b")}
        | changed
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_each_channel_is_normalised_with_its_own_mean_and_deviation(channels):
    mean, std = (0.1, 0.2, 0.3)[:channels], (0.4, 0.5, 0.6)[:channels]
    photos = images(channels=channels, mean=mean, std=std)
    found, labels = photos.batch(torch.tensor([3, 0]))
    assert found.dtype == torch.float32 and labels.tolist() == [1, 0]
    for channel in range(channels):
        expected = normalise(photos.images[[3, 0]][:, channel], mean[channel], std[channel])
        assert torch.equal(found[:, channel], expected)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"test": images(size=3)}, "images for training and for testing differ in shape, mean or std"),
        ({"validation": images(channels=1)}, "images for training and for testing differ in shape, mean or std"),
        ({"test": images(mean=(0.4,) * 3)}, "images for training and for testing differ in shape, mean or std"),
        ({"train": images(classes=3)}, "labels must be from 0 to 1, one for each class"),
        ({"test": images(labels=torch.tensor([0, -1]))}, "labels must be from 0 to 1, one for each class"),
        (
            dict.fromkeys(("train", "test"), images(mean=(0.5,))),
            "mean and std must have 3 numbers, those of std above 0",
        ),
        (
            dict.fromkeys(("train", "test"), images(std=(0.1, 0.0, 1.0))),
            "mean and std must have 3 numbers, those of std",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changed, told):
    with pytest.raises(UsageError) as refusal:
        dataset(**changed)
    assert str(refusal.value).startswith(f"here: {told}")


def test_a_data_set_describes_its_sizes_classes_and_statistics():
    facts = dataset(validation=images(3), digest="d", skipped=5).describe()
    assert (facts.name, facts.train, facts.validation, facts.test, facts.skipped) == ("photos", 4, 3, 2, 5)
    assert (facts.shape, facts.class_names, facts.mean, facts.std) == ((3, 2, 2), ("a", "b"), (0.5,) * 3, (0.1,) * 3)
    counts = facts.class_counts
    assert (counts.train, counts.validation, counts.test) == ((2, 2), (2, 1), (1, 1))


def test_facts_are_the_same_after_a_way_through_json():
    facts = dataset(preparation={"height": 2, "resize_mode": "pad"}, digest="d").describe()
    again = msgspec.json.decode(json.dumps(facts.to_json()), type=DatasetFacts)
    assert again == facts and hash(again) == hash(facts) and again.difference(facts) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"digest": "d2"}, "photos of 6 + 4 has other images, labels or file names than the data set that is expected"),
        ({"digest": "d2", "name": "moved"}, "moved of 6 + 4 has other images, labels or file names than the data set"),
        ({"digest": "d2", "decoder": "Pillow 11"}, "is expected (Pillow 11 decoded it, not Pillow 10)"),
        ({"train": 7}, "photos of 7 + 4, where photos of 6 + 4 is expected, has another train: 7, not 6"),
        ({"validation": 1}, "has another validation: 1, not 0"),
        ({"shape": (3, 9, 8)}, "has another shape: (3, 9, 8), not (3, 8, 9)"),
        ({"class_names": ("dog", "cat")}, "has another class_names: ('dog', 'cat'), not ('cat', 'dog')"),
        ({"std": (0.2,) * 3}, "has another std: "),
        ({"preparation": {"height": 8}}, "has another preparation: {'height': 8}, not None"),
        ({"name": "other", "digest": None}, "other of 6 + 4, where photos of 6 + 4 is expected, has another name"),
    ],
)
def test_data_sets_that_differ_are_told_apart(changed, told):
    assert told in dataclasses.replace(FACTS, **changed).difference(FACTS)


@pytest.mark.parametrize(
    "changed", [{}, {"name": "moved"}, {"digest": None}, {"decoder": "Pillow 11"}, {"duplicates": None}, {"skipped": 1}]
)
def test_how_a_data_set_is_called_and_what_is_not_said_is_no_difference(changed):
    assert dataclasses.replace(FACTS, **changed).difference(FACTS) is None


def test_a_thousand_class_names_that_differ_are_told_in_a_line_of_bounded_length():
    names = tuple(f"class {number}" for number in range(1000))
    one, other = (dataclasses.replace(FACTS, class_names=each) for each in (names, names[:999]))
    assert len(one.difference(other)) < 600
