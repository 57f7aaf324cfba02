"""One process reads a data set, the others of its machine map it: all see one and the same."""

import dataclasses
import json
import sys

import msgspec
import pytest
import torch
from ranks import run_ranks
from test_memory import mapped

from distmnist.data.dataset import Dataset, Duplicates, LabelledImages
from distmnist.data.memory import SharedImages
from distmnist.data.sharing import Shared, receive, share

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc: each process reads")

SHAPE = 3, 4, 5
STATISTICS = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def photos(train: int = 6, test: int = 3, validation: int = 0, room: int = 0) -> Dataset:
    """So many images. room: of the memory that they lie in, in images; 0: they lie elsewhere."""
    memory = SharedImages.make(room, SHAPE) if room else None
    draw = torch.Generator().manual_seed(1)
    parts, start = {}, 0
    for name, size in (("train", train), ("validation", validation), ("test", test)):
        pixels = torch.randint(256, (size, *SHAPE), dtype=torch.uint8, generator=draw)
        if memory:
            memory.images[start : start + size] = pixels
            pixels = memory.images[start : start + size]
        parts[name] = LabelledImages(pixels, torch.arange(size) % 2, *STATISTICS) if size else None
        start += size
    return Dataset(
        "photos",
        "a\\nfolder",
        class_names=("cat", "dög"),
        **parts,
        stratified=False,
        preparation={"height": 4, "width": 5, "resize_mode": "pad", "channels": 3},
        digest="abc",
        decoder="Pillow 10",
        duplicates=Duplicates(1, 2, (("a", "b"),)),
        skipped=3,
        memory=memory,
    )


def told(shared: Shared) -> Shared:
    """What arrives of it at another process, by way of JSON: see runs/dataset.py."""
    return msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(shared))), Shared)


def assert_same(one: Dataset, other: Dataset) -> None:
    for field in dataclasses.fields(Dataset):
        if field.name not in ("train", "validation", "test", "memory"):
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    assert one.describe() == other.describe() and one.splits.keys() == other.splits.keys()
    for name, split in one.splits.items():
        theirs = other.splits[name]
        assert torch.equal(split.images, theirs.images) and torch.equal(split.labels, theirs.labels)
        assert (split.mean, split.std, split.rows) == (theirs.mean, theirs.std, theirs.rows)


both = pytest.mark.parametrize("validation", [0, 4], ids=["without-validation", "with-validation"])


@pytest.mark.parametrize("room", [0, 13, 20], ids=["elsewhere", "all", "with-gaps"])
@both
def test_what_is_received_is_the_data_set_that_was_shared(validation, room):
    original = photos(validation=validation, room=room)
    mine, shared = share(original)
    received = receive(told(shared))
    assert_same(original, mine)
    assert_same(original, received)


@both
def test_images_that_lie_in_such_memory_are_not_copied(validation):
    original = photos(validation=validation, room=20)
    mine, shared = share(original)
    assert mine.memory is original.memory and shared.count == 20
    for name, split in mine.splits.items():
        assert split.images.data_ptr() == original.splits[name].images.data_ptr()
    received = receive(told(shared))
    received.train.images[0] = 77
    assert original.train.images[0].unique().tolist() == [77]


def test_images_that_lie_elsewhere_are_copied_once_and_the_others_map_the_copy():
    original = photos(validation=4)
    before = mapped()
    mine, shared = share(original)
    assert mapped() == before + 1 and mine.train.images.data_ptr() != original.train.images.data_ptr()
    received = receive(told(shared))
    mine.test.images[2] = 77
    assert received.test.images[2].unique().tolist() == [77] and shared.count == 13


def test_where_the_memory_cannot_be_reached_nothing_is_received():
    _, shared = share(photos())
    assert receive(dataclasses.replace(shared, place="/proc/4194305/fd/3")) is None
    assert receive(dataclasses.replace(shared, count=shared.count + 1)) is None


def test_the_memory_goes_with_the_data_set_and_with_its_move_to_another_device():
    before = mapped()
    mine, shared = share(photos(validation=4))
    received = receive(told(shared))
    assert mapped() == before + 2
    mine = mine.to(torch.device("cpu"))
    assert mine.memory and mapped() == before + 2
    mine = mine.to(torch.device("meta"))
    assert mine.memory is None and mapped() == before + 1
    del received
    assert mapped() == before


def test_a_part_of_the_images_is_not_shared_as_if_it_were_all():
    whole = photos()
    with pytest.raises(AssertionError, match="all images"):
        share(dataclasses.replace(whole, train=whole.train.subset(torch.tensor([5, 1]))))


def share_among_ranks(world, validation, room):
    original = photos(validation=validation, room=room)
    data, shared = share(original) if world.rank == 1 else (None, None)
    shared = world.announce(msgspec.to_builtins(shared), 1)
    data = data or receive(msgspec.convert(shared, Shared))
    with world.agreement():
        assert_same(original, data)
    if world.rank == 0:
        data.train.images[0], data.test.labels[0] = 9, 1 - data.test.labels[0]
    with world.agreement():
        pass  # rank 0 has written
    return data.train.images[0].unique().tolist(), data.test.labels[0].item(), original.test.labels[0].item()


@pytest.mark.parametrize("room", [0, 20])
@both
def test_all_ranks_see_one_data_set_and_what_any_of_them_writes(validation, room):
    assert run_ranks(share_among_ranks, 3, validation, room, connect=False) == [([9], 1, 0)] * 3
