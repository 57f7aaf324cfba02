"""The data set of a run: one process of each machine reads it, all have the same, and all fail alike."""

import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from photos import photo, tree
from ranks import run_ranks

from distmnist.config import resolve
from distmnist.console import Log
from distmnist.data import known, sources
from distmnist.data.memory import SharedImages
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.runs import dataset
from distmnist.runs.dataset import option_of, read_dataset

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc: each process reads")


class Recorded(Log):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, line: str = "") -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


def job(data: object, **options):
    return resolve({"data": str(data), "model": "mlp", **options})


def read(world, data, leaders=None, unreachable=()):
    """What a rank has read, how often, and as what the others saw it work; or what it was refused with.

    leaders: of the ranks, as if they ran in several containers; unreachable: ranks that cannot open memory; data: "{}"
    is replaced with the rank.
    """
    if leaders:
        world.machine_leader = lambda: leaders[world.rank]
    if world.rank in unreachable:
        SharedImages.open = lambda *arguments: None
    seen, whole = [], sources.load

    def counted(config, directory, say, progress):
        def shown(done, total):
            before = world.heartbeat.touches
            progress(done, total)
            seen.append(world.heartbeat.touches - before)

        seen.append((world.heartbeat.task, world.heartbeat.limit))
        return whole(config, directory, say, shown)

    sources.load = counted
    try:
        found = read_dataset(world, Log(), job(str(data).format(world.rank)))
    except UsageError as error:
        return str(error)
    if world.rank == 1:
        found.train.images[0] = 77
    with world.agreement():
        pass  # rank 1 has written
    return found.describe(), seen, int(found.train.images[0].min())


AT_WORK = [("reading the images", dataset.READING_SECONDS), 1]
"""What the others see of a rank that decodes one chunk of files."""


@linux
def test_one_rank_reads_the_images_and_the_others_map_its_memory(tmp_path):
    root = tree(tmp_path / "pets", "train", "val", "test")
    expected = sources.load(job(root).common, Path()).describe()
    found = run_ranks(read, 3, root, connect=False)
    assert [facts for facts, _, _ in found] == [expected] * 3
    assert [seen for _, seen, _ in found] == [AT_WORK, [], []] and [first for _, _, first in found] == [77] * 3


@linux
def test_one_rank_of_each_container_reads_the_images(tmp_path):
    root = tree(tmp_path / "pets", "train", "test")
    found = run_ranks(read, 3, root, [0, 1, 1], connect=False)
    assert [seen for _, seen, _ in found] == [AT_WORK, AT_WORK, []]
    assert [first == 77 for _, _, first in found] == [False, True, True] and len({facts for facts, _, _ in found}) == 1


@linux
def test_a_rank_that_cannot_open_the_memory_reads_the_images_itself_and_shows_that_it_works(tmp_path):
    root = tree(tmp_path / "pets", "train", "test")
    found = run_ranks(read, 3, root, None, (2,), connect=False)
    assert [seen for _, seen, _ in found] == [AT_WORK, [], AT_WORK]
    assert [first == 77 for _, _, first in found] == [True, True, False] and len({facts for facts, _, _ in found}) == 1


@linux
def test_arrays_are_read_once_too(tmp_path):
    images, labels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3), np.arange(4) % 2
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    found = run_ranks(read, 2, tmp_path / "set.npz", connect=False)
    assert [len(seen) for _, seen, _ in found] == [1, 0] and [first for _, _, first in found] == [77] * 2
    assert found[0][0] == found[1][0] and found[0][0].duplicates.across_splits == 4


def test_what_one_rank_cannot_read_ends_all_ranks_with_one_line(tmp_path):
    told = run_ranks(read, 3, tmp_path / "absent", connect=False)
    assert told == [told[0]] * 3 and told[0].startswith(f"--data {tmp_path / 'absent'} does not exist;")


def test_what_another_container_cannot_read_names_the_rank(tmp_path):
    tree(tmp_path / "0", "train", "test")
    told = run_ranks(read, 3, tmp_path / "{}", [0, 1, 1], connect=False)
    assert told == [told[0]] * 3
    assert told[0].startswith(f"rank 1 on {socket.gethostname()}: --data {tmp_path / '1'} does not exist;")


def test_ranks_that_read_other_images_are_refused(tmp_path):
    for rank in range(2):
        tree(tmp_path / str(rank) / "pets", "train", "test")
    assert run_ranks(read, 2, tmp_path / "{}" / "pets", [0, 1], connect=False)[0][0].name == "pets"
    photo(tmp_path / "1" / "pets" / "test" / "dog" / "3.png", seed=99)
    told = run_ranks(read, 2, tmp_path / "{}" / "pets", [0, 1], connect=False)
    assert told[0] == told[1] and re.match(r"rank 1 on \S+ has the data set pets, \w{64}, rank 0 has pets, \w", told[0])


def test_alone_the_images_are_read_and_what_the_user_should_know_is_said(tmp_path):
    root = tree(tmp_path / "pets", "train", "val")
    photo(root / "val" / "dog" / "3.png", seed=0)  # as train/cat/0.png
    log = Recorded()
    found = read_dataset(World(), log, job(root))
    [note], [warning] = log.said, log.warned
    assert "its validation set, 8 images, is used as one" in note
    assert "1 for testing or validation are training images as well, 1 have two labels" in warning
    assert "(train/cat/0.png = val/dog/3.png)" in warning
    assert option_of(found, job(root)) == str(root)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 3},
        {"mean": "0.5"},
        {"data": "sample", "image_size": "8"},
        {"data_dir": Path("here")} | {"channels": 1},
    ],
)
def test_options_that_do_not_fit_a_known_set_are_refused_before_it_is_downloaded(monkeypatch, options):
    monkeypatch.setattr(known, "provide", lambda *_: pytest.fail("it is downloaded"))
    with pytest.raises(UsageError, match=r"is for image files|belong together"):
        read_dataset(World(), Recorded(), resolve({"model": "mlp", "data": "mnist", **options}))
