"""CIFAR-10 and CIFAR-100, in small: torchvision's own classes, with digests of files that are made here."""

import functools
import hashlib
import http.server
import pickle
import tarfile
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from digits import put

from distmnist.data import download, known
from distmnist.data.known_sets import KNOWN_SETS, KnownSet
from distmnist.errors import UsageError

TRAIN = {"cifar10": [f"data_batch_{number}" for number in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": "test_batch", "cifar100": "test"}
META = {"cifar10": ("batches.meta", "label_names", "labels"), "cifar100": ("meta", "fine_label_names", "fine_labels")}


class Small(NamedTuple):
    """A small set. files: what its archive holds; images: uint8 [n, 3, 32, 32], of the files in torchvision's order."""

    wanted: KnownSet
    source: type
    files: dict[str, bytes]
    images: dict[str, np.ndarray]
    labels: dict[str, list[int]]


def pickled(content: object) -> bytes:
    """As Python 2 wrote the published files: the arguments of a dtype are integers instead of booleans.

    numpy 2.4.0 warns of them, and in these tests a warning is an error; later versions do if only one is given.
    """
    return pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87q", b"K\x00\x86q")


@pytest.fixture(params=["cifar10", "cifar100"])
def small(request, monkeypatch) -> Small:
    """12 images a file. torchvision takes them for the real ones."""
    from torchvision import datasets

    option, draw = request.param, np.random.default_rng(0)
    wanted = KNOWN_SETS[option]
    meta, names, label = META[option]
    images, labels = {}, {}
    files = {"readme.html": b"about", meta: pickled({names: list(wanted.class_names)})}
    for name in (*TRAIN[option], TEST[option]):
        images[name] = draw.integers(0, 256, (12, 3, 32, 32), np.uint8)
        labels[name] = draw.integers(0, len(wanted.class_names), 12).tolist()
        files[name] = pickled({"data": images[name].reshape(12, 3072), label: labels[name]})
    source = getattr(datasets, wanted.torchvision)
    digest = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(source, "train_list", [[name, digest[name]] for name in TRAIN[option]])
    monkeypatch.setattr(source, "test_list", [[TEST[option], digest[TEST[option]]]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": digest[meta]})
    *trained_on, tested_on = images
    joined = {"train": np.concatenate([images[name] for name in trained_on]), "test": images[tested_on]}
    targets = {"train": [label for name in trained_on for label in labels[name]], "test": labels[tested_on]}
    return Small(wanted, source, files, joined, targets)


def test_the_images_are_read_channels_first_in_the_files_order_with_what_describes_them(tmp_path, small):
    folder = put(tmp_path / small.wanted.folder, small.files)
    found = known.load(known.option_of(small.wanted.name), tmp_path)
    for split, part in found.splits.items():
        assert torch.equal(part.images, torch.from_numpy(small.images[split]))
        assert part.images.is_contiguous() and part.images.dtype == torch.uint8
        assert part.labels.tolist() == small.labels[split] and part.labels.dtype == torch.int64
        assert (part.mean, part.std) == (small.wanted.mean, small.wanted.std)
    assert (found.name, found.class_names, found.stratified) == (small.wanted.name, small.wanted.class_names, True)
    assert str(folder) in found.origin
    facts = found.describe()
    assert facts.digest == known.examined(found).digest and facts.duplicates
    assert known.find_dataset(facts, tmp_path, [], "the proof needs it").describe() == facts


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_no_file_is_unpickled_that_is_not_the_published_one(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    folder, option = put(tmp_path / small.wanted.folder, small.files), known.option_of(small.wanted.name)
    for name in small.wanted.files:
        (folder / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(UsageError, match=f"is not {small.wanted.title} as published: .*--data sample") as refusal:
            known.load(option, tmp_path)
        assert not isinstance(refusal.value, known.NotFound) and "\n" not in str(refusal.value)
        (folder / name).write_bytes(small.files[name])
    assert not Path("sprung").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert Path("sprung").exists()


def test_a_partial_set_is_refused_and_one_that_is_not_there_is_not_found(tmp_path, small):
    option, (first, *rest) = known.option_of(small.wanted.name), small.wanted.files
    with pytest.raises(known.NotFound, match=f"no {small.wanted.title} in .*: there is no {small.wanted.folder};"):
        known.load(option, tmp_path)
    put(tmp_path / small.wanted.folder, {name: small.files[name] for name in rest})
    with pytest.raises(UsageError, match=f"{small.wanted.folder} lacks {first};"):
        known.load(option, tmp_path)


def test_a_set_that_lies_too_deep_is_named_by_its_place(tmp_path, small):
    put(tmp_path / "data/torch" / small.wanted.folder, small.files)
    with pytest.raises(known.NotFound, match=f"the files are in {tmp_path / 'data/torch'};"):
        known.load(known.option_of(small.wanted.name), tmp_path / "data")


@pytest.fixture
def mirror(tmp_path, monkeypatch, small):
    """Serves the archive as torchvision expects it."""
    content = put(tmp_path / "content" / small.wanted.folder, small.files)
    archive = tmp_path / "mirror" / small.wanted.archive
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as file:
        file.add(content, small.wanted.folder)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Handler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(small.source, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        monkeypatch.setattr(small.source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        yield archive
        server.shutdown()


@pytest.mark.parametrize("exists", [False, True])
def test_torchvision_downloads_what_the_mirror_serves_and_only_what_is_read_stays(tmp_path, mirror, small, exists):
    directory = tmp_path / "data"
    if exists:
        put(directory / "MNIST/raw", {"train-images-idx3-ubyte": b"left alone"})
    assert known.fetch(directory, print, small.wanted) is None
    left = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert left - {"MNIST/raw/train-images-idx3-ubyte"} == {
        f"{small.wanted.folder}/{name}" for name in small.wanted.files
    }
    assert len(known.load(known.option_of(small.wanted.name), directory).test) == 12


def test_an_archive_that_is_not_the_published_one_is_a_reason_and_leaves_nothing(tmp_path, mirror, small):
    mirror.write_bytes(mirror.read_bytes()[:-1])
    reason = known.fetch(tmp_path / "data", print, small.wanted)
    assert reason.startswith("the download failed: ") and "\n" not in reason
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


def test_mirrors_that_refuse_are_a_reason_in_one_line(tmp_path, small):
    """The tests' proxy refuses every connection."""
    reason = download.download(tmp_path, small.wanted)
    assert "refused" in reason and "\n" not in reason
