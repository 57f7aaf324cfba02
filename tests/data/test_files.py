"""A folder or CSV file of images becomes a data set; nothing is dropped, guessed or written without a word."""

import itertools
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from photos import photo, tree
from PIL import Image

from distmnist.config import KNOWN_DATA, TrainConfig
from distmnist.data import files, memory
from distmnist.data.dataset import Dataset
from distmnist.data.files import load_files
from distmnist.data.prepare import Preparation, prepare
from distmnist.data.splits import hold_out
from distmnist.errors import UsageError


class Told:
    """What was said, and how much of the work was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done, self.total = 0, 0

    def progress(self, done: int, total: int) -> None:
        self.done += done
        self.total = total


def load(path: Path, told: Told | None = None, **options) -> Dataset:
    told = told or Told()
    return load_files(path, TrainConfig(data=str(path), **options), told.lines.append, told.progress)


def refusal(path: Path, told: Told | None = None, **options) -> str:
    with pytest.raises(UsageError) as caught:
        load(path, told, **options)
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).isprintable()
    return str(caught.value)


def prepared(*paths: Path, height: int = 4, width: int = 5, channels: int = 3, resize_mode: str = "squash"):
    how = Preparation(height=height, width=width, channels=channels, resize_mode=resize_mode)
    return torch.from_numpy(np.stack([prepare(path, how) for path in paths]))


def files_in(root: Path, split: str, count: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> list[Path]:
    return [root / split / name / f"{number}.png" for name in classes for number in range(count)]


@pytest.mark.parametrize("validation", [True, False])
def test_a_folder_with_splits_becomes_the_splits_of_a_data_set(tmp_path, validation):
    told = Told()
    found = load(tree(tmp_path / "pets", "train", "test", *["val"] * validation), told)
    assert found.splits.keys() == ({"train", "validation", "test"} if validation else {"train", "test"})
    for name, split in found.splits.items():
        folder = "val" if name == "validation" else name
        assert torch.equal(split.images, prepared(*files_in(tmp_path / "pets", folder)))
        assert split.labels.tolist() == [0] * 4 + [1] * 4 and split.labels.dtype == torch.int64
    assert (found.name, found.origin, found.class_names) == ("pets", str(tmp_path / "pets"), ("cat", "dog"))
    assert found.preparation == {"height": 4, "width": 5, "resize_mode": "squash", "channels": 3}
    assert found.decoder == f"Pillow {PIL.__version__}" and found.stratified and found.skipped == 0
    assert len(found.digest) == 64 and found.duplicates.across_splits == 0
    assert told.lines == [] and told.done == told.total == 16 + 8 * validation


def test_all_images_lie_in_one_memory_that_other_processes_can_open(tmp_path):
    found = load(tree(tmp_path, "train", "val", "test"))
    parts = [found.train, found.validation, found.test]
    assert torch.equal(torch.cat([part.images for part in parts]), found.memory.images)
    assert all(
        part.images.untyped_storage().data_ptr() == parts[0].images.untyped_storage().data_ptr() for part in parts
    )


def test_without_a_test_set_the_validation_set_is_it_and_one_line_says_so(tmp_path):
    told = Told()
    found = load(tree(tmp_path, "train", "val"), told)
    assert torch.equal(found.test.images, prepared(*files_in(tmp_path, "val"))) and found.validation is None
    [line] = told.lines
    assert "its validation set, 8 images, is used as one" in line


def test_class_folders_alone_are_split_by_their_content_and_one_line_says_so(tmp_path):
    told = Told()
    found = load(tree(tmp_path, count=20), told, test_fraction=0.4)
    assert len(found.train) + len(found.test) == 40 and 8 < len(found.test) < 24
    [line] = told.lines
    assert f"{len(found.test)} of 40 images are held out as one" in line and "(--test-fraction 0.4)" in line


def test_a_csv_file_names_images_and_gives_the_data_set_its_own_name(tmp_path):
    tree(tmp_path / "photos", "a")
    rows = [f"photos/a/{name}/{n}.png,{name},{'test' if n else 'train'}" for name in ("cat", "dog") for n in range(4)]
    (tmp_path / "my.pets.csv").write_text("\n".join(["path,label,split", *rows]))
    found = load(tmp_path / "my.pets.csv")
    assert (found.name, len(found.train), len(found.test), found.class_names) == ("my.pets", 2, 6, ("cat", "dog"))
    assert torch.equal(found.train.images, prepared(*files_in(tmp_path / "photos", "a", 1)))


def test_images_of_several_sizes_are_refused_with_the_two_most_frequent_ones(tmp_path):
    tree(tmp_path, "train", "test", height=30, width=20)
    tree(tmp_path, "test", height=7, width=9, count=2)
    photo(tmp_path / "train" / "cat" / "0.png", 8, 8)
    told = refusal(tmp_path)
    assert f"{tmp_path} has images of several sizes, height x width: 30x20 (11), 7x9 (4) and 1 more;" in told
    assert "choose one with --image-size" in told


def test_sizes_are_those_of_upright_images(tmp_path):
    tree(tmp_path, "train", "test")
    turned = Image.open(photo(tmp_path / "train" / "cat" / "1.png", 5, 4))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "train" / "cat" / "1.png", exif=turned.getexif())
    assert load(tmp_path).train.shape == (3, 4, 5)
    photo(tmp_path / "train" / "cat" / "2.png", 5, 4)
    assert "4x5 (15), 5x4 (1);" in refusal(tmp_path)


def test_sizes_are_told_before_the_first_of_them_is_taken_for_all_and_fills_the_memory(tmp_path, monkeypatch):
    def full(size):
        raise UsageError("the images take too much")

    monkeypatch.setattr(memory, "check_memory", full)
    tree(tmp_path, "train", "test")
    assert refusal(tmp_path) == "the images take too much"
    photo(tmp_path / "train" / "cat" / "0.png", 400, 500)
    assert "several sizes, height x width: 4x5 (15), 400x500 (1);" in refusal(tmp_path)
    assert refusal(tmp_path, image_size="4x5") == "the images take too much"


def test_images_that_change_while_they_are_read_are_not_left_out_in_silence(tmp_path, monkeypatch):
    tree(tmp_path, "train", "test")
    photo(tmp_path / "train" / "cat" / "1.png", 6, 6)
    monkeypatch.setattr(files, "size_of", lambda path: (4, 5))
    assert "was changed while it was read; try again" in refusal(tmp_path)


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("size", "expected"), [("6", (6, 6)), ("6x3", (6, 3)), ("1", (1, 1)), ("4x5", (4, 5))])
def test_images_are_brought_to_the_size_that_was_asked_for(tmp_path, size, expected, mode):
    tree(tmp_path, "train", "test")
    photo(tmp_path / "train" / "cat" / "0.png", 31, 17)
    found = load(tmp_path, image_size=size, resize_mode=mode)
    assert found.train.shape == (3, *expected)
    wanted = prepared(*files_in(tmp_path, "train"), height=expected[0], width=expected[1], resize_mode=mode)
    assert torch.equal(found.train.images, wanted)
    assert found.preparation["resize_mode"] == mode


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_images_are_read_as_colour_or_as_grey_when_asked(tmp_path, channels):
    tree(tmp_path, "train", "test")
    Image.open(tmp_path / "train" / "cat" / "0.png").convert("L").save(tmp_path / "train" / "cat" / "0.png")
    found = load(tmp_path, channels=channels)
    assert torch.equal(found.train.images, prepared(*files_in(tmp_path, "train"), channels=channels or 3))
    assert found.preparation["channels"] == len(found.train.mean) == (channels or 3)


@pytest.mark.parametrize("size", ["20000", "1x178956971"])
def test_a_size_beyond_the_limit_is_refused(tmp_path, size):
    assert f"--image-size {size}: size " in refusal(tree(tmp_path, "train", "test"), image_size=size)


def bomb(path: Path) -> None:
    """A small PNG that says it is large."""
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil(root: Path, *names: str) -> list[Path]:
    """Damages these files, each in another way."""
    paths = [root / name for name in names]
    for spoiler, path in zip(itertools.cycle((bomb, cut, empty)), paths, strict=False):
        spoiler(path)
    return paths


def test_all_files_that_cannot_be_used_are_listed_and_nothing_is_trained_on(tmp_path):
    tree(tmp_path, "train", "test")
    told = Told()
    one, two, three = spoil(tmp_path, "train/cat/0.png", "train/dog/3.png", "test/cat/1.png")
    message = refusal(tmp_path, told)
    assert message.startswith(
        f"3 of 16 image files cannot be used: {one} cannot be decoded: Image size (1600000000 pixels)"
    )
    assert f"{two} " in message and f"{three} is empty;" in message and "--on-error skip" in message
    assert told.lines == []
    spoil(tmp_path, "test/dog/0.png", "test/dog/1.png")
    message = refusal(tmp_path, told)
    assert message.startswith("5 of 16 image files") and " and 2 more;" in message
    assert len(told.lines) == 5 and told.lines[-1].startswith(f"{tmp_path / 'test/dog/1.png'} ")


def test_files_that_are_skipped_are_counted_and_leave_no_gap(tmp_path):
    tree(tmp_path, "train", "val", "test")
    bad = spoil(tmp_path, "train/cat/0.png", "train/dog/1.png", "train/dog/3.png", "val/cat/0.png", "test/dog/3.png")
    told = Told()
    found = load(tmp_path, told, on_error="skip")
    assert found.skipped == found.describe().skipped == 5 and told.done == told.total == 24
    [line] = told.lines
    assert line.startswith(f"5 of 24 image files are skipped: {bad[0]} cannot ") and line.endswith(" and 2 more")
    for name, folder in {"train": "train", "validation": "val", "test": "test"}.items():
        left = [path for path in files_in(tmp_path, folder) if path not in bad]
        split = found.splits[name]
        assert torch.equal(split.images, prepared(*left))
        assert split.labels.tolist() == [int(path.parent.name == "dog") for path in left]
    for path in bad:
        path.unlink()
    assert load(tmp_path).digest == found.digest and load(tmp_path).describe().difference(found.describe()) is None


def test_the_size_is_that_of_the_first_image_that_can_be_read(tmp_path):
    tree(tmp_path, "train", "test")
    spoil(tmp_path, "train/cat/0.png", "train/cat/1.png")
    (tmp_path / "train" / "cat" / "1.png").write_text("text")
    assert load(tmp_path, on_error="skip").train.shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["train/dog"], "no training images of dog can be read;"),
        (["train/cat", "train/dog"], "no train images can be read;"),
        (["val/cat", "val/dog"], "no validation images can be read;"),
        (["test/cat", "test/dog"], "no test images can be read;"),
        (["train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog"], "no train images can be read;"),
    ],
)
def test_a_split_or_a_class_that_skipping_empties_is_refused(tmp_path, folders, told):
    tree(tmp_path, "train", "val", "test")
    for folder in folders:
        spoil(tmp_path, *(f"{folder}/{number}.png" for number in range(4)))
    assert f"{tmp_path}: {told} repair them" in refusal(tmp_path, on_error="skip")


def test_a_class_that_skipping_takes_out_of_the_test_set_is_none_of_the_errors(tmp_path):
    tree(tmp_path, "train", "test")
    spoil(tmp_path, *(f"test/cat/{number}.png" for number in range(4)))
    assert load(tmp_path, on_error="skip").class_counts.test == (0, 4)


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_mean_and_std_are_those_of_the_images_that_are_trained_on(tmp_path, fraction):
    found = load(tree(tmp_path, "train", "test", count=10), val_fraction=fraction)
    kept, held = hold_out(found, fraction)
    images = kept.select(slice(None)).images.numpy() / 255.0
    assert len(images) == 20 - 20 * fraction and (held is None) == (not fraction)
    for found_numbers, expected in (
        (found.train.mean, images.mean((0, 2, 3))),
        (found.train.std, images.std((0, 2, 3))),
    ):
        assert np.abs(np.array(found_numbers) - expected).max() < 1e-12
    assert (found.test.mean, found.test.std) == (found.train.mean, found.train.std)


@pytest.mark.parametrize(
    ("channels", "mean", "std", "expected"),
    [
        (3, "0.5,0.25,0", "1,2,3", ((0.5, 0.25, 0.0), (1.0, 2.0, 3.0))),
        (3, "0.5", "0.2", ((0.5,) * 3, (0.2,) * 3)),
        (1, "0.5", "0.2", ((0.5,), (0.2,))),
    ],
)
def test_mean_and_std_may_be_given(tmp_path, channels, mean, std, expected):
    found = load(tree(tmp_path, "train", "test"), channels=channels, mean=mean, std=std)
    assert {(split.mean, split.std) for split in found.splits.values()} == {expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": "0.5,0.5", "std": "1"}, "--mean 0.5,0.5 has 2 numbers; the images have 3 channels"),
        ({"mean": "0.5", "std": "1,1"}, "--std 1,1 has 2 numbers; the images have 3 channels"),
        ({"mean": "0.5,0.5,0.5", "std": "1", "channels": 1}, "--mean 0.5,0.5,0.5 has 3 numbers; the images have 1"),
        ({"mean": "0.5", "std": "1,0,1"}, "--std 1,0,1 must be above 0"),
        ({"val_fraction": 0.2}, "--val-fraction 0.2: {root} has a validation set of its own; leave the option out"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_decoded(tmp_path, options, message):
    told = Told()
    assert message.format(root=tmp_path) in refusal(tree(tmp_path, "train", "val", "test"), told, **options)
    assert told.done == 0


def test_a_fraction_that_holds_nothing_out_is_refused(tmp_path):
    root = tree(tmp_path, "train", "test")
    assert "leaves one side empty" in refusal(root, val_fraction=0.01, mean="0.5", std="0.5")


@pytest.mark.parametrize("name", [*KNOWN_DATA, "mnist-sample"])
def test_a_folder_that_is_called_as_a_known_set_is_not_taken_for_it(tmp_path, name):
    assert load(tree(tmp_path / name, "train", "test")).name == f"own {name}"


def test_a_data_set_is_called_as_its_folder_even_by_way_of_a_link_or_a_dot(tmp_path, monkeypatch):
    tree(tmp_path / "pets", "train", "test")
    monkeypatch.chdir(tmp_path / "pets")
    assert load(Path(".")).name == "pets"
    (tmp_path / "li\nnk").symlink_to(tmp_path / "pets")
    (tmp_path / "link").symlink_to(tmp_path / "li\nnk")
    assert load(tmp_path / "link").name == "pets"
    (tmp_path / "pets").rename(tmp_path / "pe\nts")
    (tmp_path / "pets").symlink_to(tmp_path / "pe\nts")
    assert load(tmp_path / "pets").name == r"pe\nts"


@pytest.mark.parametrize(
    ("name", "problem"), [("absent", "does not exist"), ("set.tar", "is neither a folder nor a .csv or .npz file")]
)
def test_what_is_no_data_set_is_refused_with_the_kinds_that_there_are(tmp_path, name, problem):
    (tmp_path / "set.tar").touch()
    told = refusal(tmp_path / name)
    assert told.startswith(f"--data {tmp_path / name} {problem}; name a folder of class folders")
    assert "--data sample" in told


def test_the_folder_is_only_read(tmp_path):
    root = tree(tmp_path / "pets", "train", "test")
    spoil(root, "train/cat/0.png")
    (root / "notes.txt").write_text("mine")

    def state():
        return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in root.rglob("*")}

    before = state()
    load(root, on_error="skip", image_size="3", val_fraction=0.3)
    refusal(root)
    assert state() == before and [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_the_digest_is_of_the_content_wherever_the_folder_lies(tmp_path):
    root = tree(tmp_path / "a", "train", "test")
    first = load(root)
    moved = load(root.rename(tmp_path / "b"))
    assert moved.digest == first.digest and moved.describe().difference(first.describe()) is None
    root = tmp_path / "b"
    told = {first.digest, load(root, channels=1).digest, load(root, image_size="3").digest}
    (root / "train" / "cat" / "3.png").rename(root / "train" / "cat" / "4.png")
    told.add(load(root).digest)
    (root / "train" / "cat" / "4.png").rename(root / "train" / "dog" / "4.png")
    told.add(load(root).digest)
    assert len(told) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_odd_names_are_told_in_one_line_that_can_be_printed(tmp_path):
    tree(tmp_path, "train", "test")
    names = [b"new\nline.png", b"\xff\xfe.png", "\u202eright to left.png".encode()]
    try:
        odd = [photo(tmp_path / "train" / "cat" / os.fsdecode(name), seed=5) for name in names]
    except OSError:
        pytest.skip("this file system keeps such names out")
    photo(tmp_path / "test" / "dog" / os.fsdecode(names[1]), seed=5)
    found = load(tmp_path)
    assert found.duplicates.across_splits == 1 and found.duplicates.two_labels == 1
    assert all(name.isprintable() for pair in found.duplicates.examples for name in pair)
    for path in odd:
        empty(path)
    message = refusal(tmp_path)
    assert all(rf"{name}.png is empty" in message for name in (r"new\nline", r"\u202eright to left", r"\udcff\udcfe"))
    told = Told()
    load(tmp_path, told, on_error="skip")
    assert all(line.isprintable() for line in told.lines)


def test_images_of_one_pixel_are_a_data_set(tmp_path):
    found = load(tree(tmp_path, "train", "test", height=1, width=1))
    assert found.train.shape == (3, 1, 1) and min(found.train.std) > 0
