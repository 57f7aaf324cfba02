"""Images in memory that several processes map: without a name in any file system, and gone with its last user."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from distmnist.data import memory
from distmnist.data.memory import SharedImages, check_memory, size_of
from distmnist.errors import UsageError

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")


def mapped() -> int:
    """How often this process has such memory mapped."""
    return Path("/proc/self/maps").read_text().count("distmnist-images")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7)])
@pytest.mark.parametrize("count", [1, 9])
def test_new_memory_is_zeros_of_the_shape_that_was_asked_for(count, shape):
    made = SharedImages.make(count, shape)
    assert made.images.dtype == torch.uint8 and made.images.shape == (count, *shape) and not made.images.any()
    assert made.labels.dtype == torch.int64 and made.labels.shape == (count,) and not made.labels.any()
    assert os.fstat(made.file).st_size == size_of(count, shape) == made.images.nbytes + made.labels.nbytes


def test_images_and_labels_do_not_overlap():
    made = SharedImages.make(3, (1, 2, 2))
    made.images.fill_(255)
    assert not made.labels.any()
    made.labels.fill_(-1)
    made.images.zero_()
    assert made.labels.tolist() == [-1] * 3 and not made.images.any()


def write_and_read(world):
    """Rank 0 makes the memory, each other rank writes its own row. What rank 0 sees, and what the others saw."""
    mine = SharedImages.make(world.size, (1, 2, 3)) if world.rank == 0 else None
    if mine:
        mine.images[0], mine.labels[0] = 7, 70
    place = world.announce(mine.place if mine else None)
    found = mine or SharedImages.open(place, world.size, (1, 2, 3))
    seen = found.images[0].tolist(), found.labels[0].item()
    found.images[world.rank], found.labels[world.rank] = 7 + world.rank, 70 + world.rank
    with world.agreement():
        pass  # all have written
    return seen, found.images[:, 0, 0, 0].tolist(), found.labels.tolist()


@linux
def test_another_process_opens_the_same_memory_and_each_sees_what_the_others_write():
    seen = ([[[7] * 3] * 2], 70), [7, 8, 9], [70, 71, 72]
    assert run_ranks(write_and_read, 3, connect=False) == [seen] * 3


@linux
def test_memory_that_cannot_be_reached_is_none_and_not_an_error(tmp_path):
    made = SharedImages.make(4, (1, 2, 2))
    before = descriptors()
    other = tmp_path / "file"
    other.write_bytes(bytes(7))
    assert SharedImages.open(f"/proc/{os.getpid()}/fd/999999", 4, (1, 2, 2)) is None
    assert SharedImages.open("/proc/4194305/fd/3", 4, (1, 2, 2)) is None  # more than any process's number
    assert SharedImages.open(str(tmp_path), 4, (1, 2, 2)) is None
    assert SharedImages.open(str(other), 4, (1, 2, 2)) is None
    for count, shape in ((5, (1, 2, 2)), (3, (1, 2, 2)), (4, (3, 2, 2))):
        assert SharedImages.open(made.place, count, shape) is None
    assert descriptors() == before and SharedImages.open(made.place, 4, (1, 2, 2))


@linux
def test_the_memory_has_no_name_in_any_file_system():
    made = SharedImages.make(4, (1, 2, 2))
    assert os.readlink(made.place) == "/memfd:distmnist-images (deleted)"
    assert os.fstat(made.file).st_nlink == 0


def test_where_there_is_no_anonymous_memory_a_file_without_a_name_takes_its_place(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = SharedImages.make(2, (1, 3, 3))
    if os.name != "nt":
        assert not list(tmp_path.iterdir()) and os.fstat(made.file).st_nlink == 0
    made.images[1], made.labels[1] = 5, 6
    if sys.platform == "linux":
        again = SharedImages.open(made.place, 2, (1, 3, 3))
        assert again.images[1].unique().tolist() == [5] and again.labels.tolist() == [0, 6]


@linux
def test_the_memory_goes_with_the_last_tensor_that_lies_in_it():
    before, start = descriptors(), mapped()
    made = SharedImages.make(4, (1, 2, 2))
    opened = SharedImages.open(made.place, 4, (1, 2, 2))
    assert mapped() == start + 2
    made.images[3] = 9
    last = opened.images[3]
    del made, opened
    assert mapped() == start + 1 and last.unique().tolist() == [9]
    del last
    assert mapped() == start and descriptors() == before


@linux
def test_more_memory_than_the_machine_has_is_refused_before_it_is_taken():
    with pytest.raises(UsageError) as refusal:
        SharedImages.make(10**9, (3, 4000, 3000))
    told = str(refusal.value)
    assert told.startswith("the images take 33,527,620.1 GiB, and ") and "choose a smaller --image-size" in told


@pytest.mark.parametrize("content", [None, "MemTotal: 1 kB\n", ""])
def test_where_the_system_does_not_say_how_much_is_free_all_is_granted(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "meminfo").write_text(content)
    monkeypatch.setattr(memory, "Path", lambda _: tmp_path / "meminfo")
    check_memory(2**60)


def test_memory_that_is_just_enough_is_granted(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:  2 kB\n")
    monkeypatch.setattr(memory, "Path", lambda _: tmp_path / "meminfo")
    check_memory(2048)
    with pytest.raises(UsageError):
        check_memory(2049)
