"""What is found out before training: digest, statistics, copies, uneven classes; and the lines that tell of it."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from distmnist.data import audit
from distmnist.data.audit import Item, find_duplicates, mean_and_std, warnings
from distmnist.data.dataset import Dataset, Duplicates, LabelledImages
from distmnist.data.pixels import examine

CLASSES = ("cat", "dog")


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def items(images: np.ndarray) -> list[Item]:
    """The first half is for training, the rest for testing; cats and dogs by turns."""
    half = len(images) // 2
    return [
        Item("train" if number < half else "test", f"{number}.png", number % 2, examine(image))
        for number, image in enumerate(images)
    ]


def digest(images: np.ndarray, **changed) -> str:
    """Of `items`, with the last one changed."""
    *rest, last = items(images)
    return audit.digest([*rest, last._replace(**changed)], images.shape[1:], CLASSES)


def test_the_digest_is_over_shape_split_name_class_and_pixels_in_order():
    images = noise(2, 3, 4, 5)
    content = b"(3, 4, 5)"
    for split, name, image in (("train", "0.png\0cat", images[0]), ("test", "1.png\0dog", images[1])):
        content += f"{split}\0{name}\0".encode() + hashlib.sha256(image.tobytes()).digest()
    assert digest(images) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [{"split": "validation"}, {"name": "3.PNG"}, {"label": 0}, {"name": "3.png\udcff"}, {"name": "3.png\ud800"}],
)
def test_the_digest_depends_on_what_is_said_of_each_image(changed):
    images = noise(4, 1, 2, 2)
    assert digest(images, **changed) != digest(images)


def test_the_digest_depends_on_every_pixel_of_every_image():
    images = noise(4, 3, 2, 2)
    digests = {digest(images)}
    for position in np.ndindex(images.shape):
        other = images.copy()
        other[position] ^= 1
        digests.add(digest(other))
    assert len(digests) == images.size + 1


def test_the_digest_depends_on_shape_class_name_order_and_number():
    images = noise(4, 1, 2, 3)
    all_ = items(images)
    told = {
        digest(images),
        digest(images.reshape(4, 1, 3, 2)),
        digest(images.reshape(4, 3, 2, 1)),
        audit.digest(all_, (1, 2, 3), ("cat", "dogs")),
        audit.digest([all_[1], all_[0], *all_[2:]], (1, 2, 3), CLASSES),
        audit.digest(all_[:3], (1, 2, 3), CLASSES),
        audit.digest([*all_, all_[0]], (1, 2, 3), CLASSES),
    }
    assert len(told) == 7


def test_no_name_can_be_taken_for_a_name_and_a_class():
    pixels = examine(noise(1, 1, 1, 1)[0])
    one, other = Item("train", "a b", 0, pixels), Item("train", "a", 1, pixels)
    assert audit.digest([one], (1, 1, 1), ("c", "b c")) != audit.digest([other], (1, 1, 1), ("c", "b c"))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_all_images_are_examined_in_order_on_all_cores(count, monkeypatch):
    monkeypatch.setattr(audit, "usable_cores", lambda: 3)
    images = noise(count, 3, 2, 1)
    assert audit.examine_all(images) == [examine(image) for image in images]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 28, 28), (3, 17, 5)])
def test_mean_and_std_are_those_of_all_pixels(shape):
    images = noise(100, *shape)
    images[:50, 0] //= 3
    found = mean_and_std(map(examine, images), shape[1] * shape[2])
    scaled = images.astype(np.float64) / 255
    for numbers, expected in zip(found, (scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))), strict=True):
        assert len(numbers) == shape[0] and np.abs(np.array(numbers) - expected).max() < 1e-12


@pytest.mark.parametrize(
    ("pixels", "mean", "std"),
    [([0, 255], 0.5, 0.5), ([0, 0, 0, 0, 255], 0.2, 0.4), ([51, 51, 204, 204], 0.5, 0.3), ([102, 0], 0.2, 0.2)],
)
def test_mean_and_std_of_pixels_made_by_hand_are_exact(pixels, mean, std):
    images = np.array(pixels, np.uint8).reshape(-1, 1, 1, 1)
    assert mean_and_std(map(examine, images), 1) == ((mean,), (std,))
    assert mean_and_std([examine(images.reshape(1, 1, 1, -1)[0])], len(pixels)) == ((mean,), (std,))


def test_mean_and_std_are_exact_where_32_bits_and_float64_are_too_small():
    """10,000 images of the brightest pixels, but for one pixel, which is the whole variance: 2e-14."""
    white, other = np.full((1, 300, 300), 255, np.uint8), np.full((1, 300, 300), 255, np.uint8)
    other[0, 0, 0] = 254
    assert examine(white).squares == (255**2 * 300**2,) and examine(white).sums == (255 * 300**2,)
    count = 10**4 * 300**2
    (mean,), (std,) = mean_and_std([examine(other), *[examine(white)] * (10**4 - 1)], 300**2)
    assert mean == (255 * count - 1) / (255 * count)
    assert std == pytest.approx(1 / 255 / count**0.5, rel=1e-9)


def test_a_channel_that_is_constant_is_not_divided_by_zero():
    images = noise(10, 3, 4, 4)
    images[:, 1] = 51
    mean, std = mean_and_std(map(examine, images), 16)
    assert mean[1] == 0.2 and std[1] == 1.0 and 0.2 < std[0] < 0.4


def test_the_order_of_images_changes_neither_mean_nor_std():
    pixels = [examine(image) for image in noise(50, 3, 3, 3)]
    assert mean_and_std(pixels, 9) == mean_and_std(reversed(pixels), 9)


def copies(*described: tuple[str, str, int, int]) -> Duplicates:
    """Of images with split, name, label and the number that is their one pixel."""
    return find_duplicates(
        [
            Item(split, name, label, examine(np.full((1, 1, 1), pixel, np.uint8)))
            for split, name, label, pixel in described
        ]
    )


def test_images_of_other_splits_that_are_training_images_are_counted_and_named():
    found = copies(
        ("train", "a", 0, 1),
        ("train", "b", 0, 1),
        ("train", "c", 1, 2),
        ("validation", "d", 0, 1),
        ("test", "e", 0, 1),
        ("test", "f", 1, 2),
        ("test", "g", 1, 3),
    )
    assert found == Duplicates(3, 0, (("a", "d"), ("a", "e"), ("c", "f")))


def test_copies_within_a_split_with_one_label_are_nobodys_concern():
    assert copies(("train", "a", 0, 1), ("train", "b", 0, 1), ("test", "c", 1, 2), ("test", "d", 1, 2)) == Duplicates()


def test_images_with_several_labels_are_counted_once_each_and_named_with_the_first_that_differs():
    found = copies(
        ("train", "a", 0, 1),
        ("train", "b", 0, 1),
        ("train", "c", 1, 1),
        ("train", "d", 2, 1),
        ("test", "e", 0, 2),
        ("test", "f", 1, 2),
        ("train", "g", 0, 3),
    )
    assert found == Duplicates(0, 2, (("a", "c"), ("e", "f")))


def test_a_pair_that_is_of_both_kinds_is_named_once():
    assert copies(("train", "a", 0, 1), ("test", "b", 1, 1)) == Duplicates(1, 1, (("a", "b"),))


def test_the_first_three_pairs_of_either_kind_are_named():
    leaks = [(split, f"{split}{pixel}", 0, pixel) for pixel in range(5) for split in ("train", "test")]
    twins = [("train", f"{label}-{pixel}", label, pixel) for pixel in range(5, 10) for label in (0, 1)]
    found = copies(*leaks, *twins)
    assert (found.across_splits, found.two_labels) == (5, 5)
    assert found.examples == (
        *((f"train{pixel}", f"test{pixel}") for pixel in range(3)),
        *((f"0-{pixel}", f"1-{pixel}") for pixel in range(5, 8)),
    )


def test_odd_names_of_copies_are_escaped_so_that_json_files_and_lines_can_hold_them():
    found = copies(("train", "a\nb", 0, 1), ("test", "c\udcff", 0, 1))
    assert found.examples == ((r"a\nb", r"c\udcff"),)


def dataset(train: list[int], test: list[int], duplicates: Duplicates | None = None) -> Dataset:
    """So many images of each class."""
    parts = []
    for counts in (train, test):
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        parts.append(LabelledImages(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, (0.5,), (0.5,)))
    return Dataset("photos", "memory", *parts, tuple(f"k{n}" for n in range(len(train))), duplicates=duplicates)


@pytest.mark.parametrize("duplicates", [None, Duplicates()])
def test_there_is_no_warning_where_all_is_well(duplicates):
    assert warnings(dataset([2, 19], [1, 1], duplicates)) == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            Duplicates(1234, 0, (("a", "b"), ("c", "d"))),
            "1,234 for testing or validation are training images as well, 0",
        ),
        (Duplicates(0, 2, (("a", "b"), ("c", "d"))), "0 for testing or validation are training images as well, 2 have"),
    ],
)
def test_copies_are_told_in_one_line_with_the_first_pairs_and_what_follows(found, told):
    [line] = warnings(dataset([2, 2], [1, 1], found))
    assert told in line and "(a = b; c = d)" in line and "remove the copies" in line


def test_classes_with_a_single_training_image_are_named_with_what_follows():
    assert warnings(dataset([1, 9, 1], [1, 1, 1])) == [
        "fewer than 2 training images of k0, k2: expect no good figures of them"
    ]


def test_classes_without_test_images_are_named_with_what_follows():
    assert warnings(dataset([2, 2, 2], [0, 1, 0])) == ["no test images of k0, k2: the test figures say nothing of them"]


@pytest.mark.parametrize(("counts", "told"), [([100, 1000], True), ([101, 1000], False), ([2, 20], True)])
def test_ten_times_as_many_images_of_one_class_are_told_with_the_remedy(counts, told):
    lines = warnings(dataset(counts, [1, 1]))
    assert len(lines) == told
    assert all(f"from {counts[0]} to {counts[1]:,} training" in line for line in lines)
    assert all("balanced accuracy" in line and "--class-weights balanced" in line for line in lines)


def test_a_thousand_classes_are_told_of_in_lines_of_bounded_length():
    data = dataset([1] * 999 + [5000], [0] * 1000, Duplicates(3000, 3000, (("a", "b"),) * 6))
    lines = warnings(data)
    assert len(lines) == 4 and all(len(line) < 400 and line.isprintable() for line in lines)
    assert "of k0, k1, k2 and 996 more:" in lines[1] and "of k0, k1, k2 and 997 more:" in lines[2]
    assert audit.digest([Item("train", "a", 999, examine(noise(1, 1, 1, 1)[0]))], (1, 1, 1), data.class_names)


def test_what_the_first_edition_knew_of_a_data_set_is_no_reason_to_warn(digits):
    assert warnings(digits) == [] and warnings(dataclasses.replace(digits, duplicates=None)) == []
