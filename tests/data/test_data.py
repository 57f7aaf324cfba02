"""The digits: what is read is what was published, or it is refused; the sample is what it says."""

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import idx_bytes, put, random_digits

from distmnist.data import download, idx, known
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def mnist_set() -> known.KnownSet:
    return known.KNOWN_SETS["mnist"]


def read(path: Path) -> np.ndarray:
    """A file of MNIST, which may be gzipped."""
    return idx.read(path, mnist_set().idx_files[path.name.removesuffix(".gz")], "MNIST")


def find(directory: Path) -> dict[str, Path] | None:
    return known.find(directory, mnist_set())


def pixels(content: bytes) -> torch.Tensor:
    return torch.tensor(list(content[16:]), dtype=torch.uint8).reshape(-1, 1, 28, 28)


def test_all_digits_are_read_as_they_lie_in_the_files(tmp_path, mnist):
    put(tmp_path / "MNIST" / "raw", mnist)
    found = known.load("mnist", tmp_path)
    assert found.describe().difference(DatasetFacts("mnist", 30, 20)) is None
    assert torch.equal(found.train.images, pixels(mnist[IMAGES]))
    assert torch.equal(found.test.images, pixels(mnist["t10k-images-idx3-ubyte"]))
    assert found.train.labels.tolist() == list(mnist[LABELS][8:])
    assert found.train.images.dtype == torch.uint8 and found.train.labels.dtype == torch.int64
    assert str(tmp_path / "MNIST" / "raw") in found.origin


@pytest.mark.parametrize("folder", ["MNIST/raw", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_raw_and_gzipped_files_are_found_in_torchvisions_layout_and_flat(tmp_path, mnist, folder, zipped):
    put(tmp_path / folder, mnist, zipped=zipped)
    assert known.load("mnist", tmp_path).name == "mnist"


def test_raw_files_come_before_gzipped_ones_and_torchvisions_layout_before_flat(tmp_path, mnist):
    put(tmp_path, mnist)
    put(tmp_path, mnist, zipped=True)
    assert find(tmp_path) == {name: tmp_path / name for name in mnist}
    raw = put(tmp_path / "MNIST" / "raw", mnist, zipped=True)
    assert find(tmp_path) == {name: raw / f"{name}.gz" for name in mnist}
    put(raw, mnist)
    assert find(tmp_path) == {name: raw / name for name in mnist}


def test_each_file_may_be_raw_or_gzipped_on_its_own(tmp_path, mnist):
    put(tmp_path, {IMAGES: mnist[IMAGES]}, zipped=True)
    put(tmp_path, {name: mnist[name] for name in mnist if name != IMAGES})
    assert known.load("mnist", tmp_path).name == "mnist"


def test_a_partial_set_is_refused_with_the_names_of_what_lacks(tmp_path, mnist):
    put(tmp_path, {IMAGES: mnist[IMAGES], LABELS: mnist[LABELS]})
    with pytest.raises(UsageError, match="lacks t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte;"):
        known.load("mnist", tmp_path)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        (IMAGES, lambda content: content[:-1], "bytes, not"),
        (IMAGES, lambda content: content[:9], "bytes, not"),
        (IMAGES, lambda content: b"", "holds 0 bytes"),
        (IMAGES, lambda content: content + b"\0", "more than"),
        (IMAGES, lambda content: flipped(content, 3), "magic 00000802, not 00000803"),
        (IMAGES, lambda content: b"\x1f\x8b\x08\x00" + content[4:], "magic 1f8b0800"),
        (IMAGES, lambda content: content[:8] + (14).to_bytes(4) + (56).to_bytes(4) + content[16:], "another shape"),
        (IMAGES, lambda content: flipped(content, 500), "MD5"),
        (LABELS, lambda content: content[:-1] + b"\x0a", "label 10"),
        (LABELS, lambda content: content[:-2] + content[:-3:-1], "MD5"),
    ],
    ids=[
        "truncated",
        "in-header",
        "empty",
        "too-long",
        "magic",
        "gzip-named-raw",
        "shape",
        "digest",
        "label",
        "swapped-labels",
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_not_the_published_one_is_refused_by_name(tmp_path, mnist, name, damage, complaint, zipped):
    mnist[LABELS] = mnist[LABELS][:-2] + b"\x01\x02"
    wrong = damage(mnist[name])
    put(tmp_path, {**mnist, name: wrong}, zipped=zipped)
    with pytest.raises(UsageError, match=complaint) as refusal:
        read(tmp_path / (f"{name}.gz" if zipped else name))
    assert str(tmp_path / name) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("cut", [0, 5, 40, -9, -1])
def test_a_gzip_file_cut_anywhere_is_refused(tmp_path, mnist, cut):
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(mnist[LABELS])[:cut])
    with pytest.raises(UsageError, match=LABELS):
        read(tmp_path / f"{LABELS}.gz")


def test_a_gzip_file_that_inflates_without_end_is_not_inflated(tmp_path, mnist):
    bomb = tmp_path / f"{IMAGES}.gz"
    bomb.write_bytes(gzip.compress(mnist[IMAGES] + bytes(40_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="more than"):
            read(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_idx_bytes_of_the_tests_are_the_format():
    """An example by hand, so that the reader and the tests' writer cannot be wrong alike."""
    assert idx_bytes(np.array([[1, 2, 3]], np.uint8)) == bytes.fromhex("00000802 00000001 00000003 010203")


def test_normalising_equals_torchvisions_transforms_bit_for_bit():
    from torchvision import transforms

    published = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    every_value = torch.arange(784).remainder(256).to(torch.uint8).reshape(1, 28, 28)
    images = torch.cat([every_value[None], random_digits(3).images])
    expected = torch.stack([published(image[0].numpy()) for image in images])
    assert torch.equal(random_digits(1).normalised(images), expected)
    assert images.dtype == torch.uint8 and torch.equal(images[0], every_value)


def test_a_batch_is_the_normalised_images_and_labels_of_its_indices():
    digits = random_digits(20)
    images, labels = digits.batch(torch.tensor([7, 0, 7]))
    assert torch.equal(images, digits.normalised(digits.images[[7, 0, 7]])) and images.shape == (3, 1, 28, 28)
    assert torch.equal(labels, digits.labels[[7, 0, 7]])
    images, labels = digits.batch(torch.tensor([], dtype=torch.int64))
    assert images.shape == (0, 1, 28, 28) and labels.shape == (0,)


def test_the_sample_is_4000_and_1000_distinct_digits_with_equal_classes():
    sample = known.load_sample()
    assert sample.describe().difference(DatasetFacts("mnist-sample", 4000, 1000)) is None
    assert sample.train.images.shape == (4000, 1, 28, 28) and sample.train.images.dtype == torch.uint8
    assert sample.train.labels.bincount(minlength=10).tolist() == [400] * 10
    assert sample.test.labels.bincount(minlength=10).tolist() == [100] * 10
    images = {image.numpy().tobytes() for image in (*sample.train.images, *sample.test.images)}
    assert len(images) == 5000
    assert sample.train.images[:500].float().mean() / 255 == pytest.approx(0.1307, abs=0.01)  # ink is high


# Other names, other places


@pytest.mark.parametrize("zipped", [False, True])
def test_the_names_that_other_archives_give_the_files_are_read(tmp_path, mnist, zipped):
    put(tmp_path, {name.replace("-idx", ".idx"): content for name, content in mnist.items()}, zipped=zipped)
    assert known.load("mnist", tmp_path).describe().difference(DatasetFacts("mnist", 30, 20)) is None


def test_what_is_wrong_with_a_file_of_another_name_is_said_by_that_name(tmp_path, mnist):
    put(tmp_path, {name.replace("-idx", ".idx"): content for name, content in mnist.items()})
    (tmp_path / "train-images.idx3-ubyte").write_bytes(b"")
    with pytest.raises(UsageError, match=r"train-images\.idx3-ubyte holds 0 bytes"):
        known.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("lies", "named"), [("mnist", "mnist"), ("a/b/MNIST/raw", "a/b"), ("torch/MNIST/raw", "torch"), ("raw", "raw")]
)
def test_files_that_lie_too_deep_are_named_and_nothing_is_downloaded(tmp_path, mnist, monkeypatch, lies, named):
    put(tmp_path / "data" / lies, mnist)
    put(tmp_path / "data" / "FashionMNIST" / "raw", {name: content[:-1] for name, content in mnist.items()})
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("it was downloaded"))
    told = f"the files are in {tmp_path / 'data' / named}"
    assert known.fetch(tmp_path / "data", print, mnist_set()).endswith(told)
    for find in (
        lambda: known.load("mnist", tmp_path / "data"),
        lambda: known.find_dataset(
            DatasetFacts("mnist", 30, 20), tmp_path / "data", [], "the proof needs its test digits"
        ),
        lambda: known.provide("mnist", tmp_path / "data", True, print),
    ):
        with pytest.raises(known.NotFound) as refusal:
            find()
        assert f"{told};" in str(refusal.value)


def test_files_of_another_data_set_with_the_same_names_are_not_taken_for_it(tmp_path, mnist):
    put(tmp_path / "FashionMNIST" / "raw", {name: content[:-1] for name, content in mnist.items()})
    assert known.elsewhere(tmp_path, mnist_set()) is None
