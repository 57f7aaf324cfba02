"""The known data sets: the table is right, each set is read as what it is and never taken for another."""

import dataclasses
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import arriving, made_of, put, synthetic_files, zip_up

from distmnist.config import KNOWN_DATA
from distmnist.data import audit, download, idx, known
from distmnist.data.known_sets import CIFAR100_NAMES, KNOWN_SETS
from distmnist.doctor import checks
from distmnist.errors import UsageError

IDX_SETS = ("mnist", "fashion-mnist", "kmnist")
DOWNLOADED = tuple(option for option in KNOWN_DATA if option != "sample")
REAL = [Path(place) for place in (os.environ.get("DISTMNIST_DATA"), Path(__file__).parents[3] / "shared/data") if place]
"""Where the real files may be. Read here, for no test sees the variable."""


@pytest.fixture
def files(monkeypatch):
    """Value of --data -> the names and contents of synthetic files that are taken for that set."""
    found = {}
    for seed, option in enumerate(IDX_SETS):
        found[option] = synthetic_files(seed=seed)
        monkeypatch.setitem(KNOWN_SETS, option, made_of(option, found[option]))
    return found


def put_set(folder, option, files):
    return put(folder, files[option], zipped=option == "kmnist")


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The table


def test_the_table_has_the_values_of_data_and_no_name_twice():
    assert tuple(KNOWN_SETS) == KNOWN_DATA and known.NAMES["sample"] == "mnist-sample"
    assert [known.option_of(name) for name in known.NAMES.values()] == list(KNOWN_DATA)
    folders = [each.folder for each in KNOWN_SETS.values()]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("option", DOWNLOADED)
def test_the_table_says_what_torchvision_says(tmp_path, option):
    from torchvision import datasets

    wanted = KNOWN_SETS[option]
    source = getattr(datasets, wanted.torchvision)
    if wanted.idx_files:
        empty = source.__new__(source)
        empty.root = tmp_path
        assert Path(empty.raw_folder) == tmp_path / wanted.folder
        assert {name.removesuffix(".gz") for name, _ in source.resources} == wanted.files.keys()
        for name, md5 in source.resources:
            file = wanted.idx_files[name.removesuffix(".gz")]
            assert not file.packed or file.md5 == md5
        names = tuple(str(number) for number in range(10)) if option == "mnist" else tuple(source.classes)
        assert wanted.class_names == names
    else:
        assert (source.base_folder, source.filename) == (wanted.folder, wanted.archive)
        listed = {name for name, _ in (*source.train_list, *source.test_list)}
        assert listed | {source.meta["filename"]} == wanted.files.keys()


def test_the_classes_of_cifar_100_are_in_alphabetical_order():
    names = CIFAR100_NAMES.split()
    assert names == sorted(names) and len(set(names)) == 100


def test_the_samples_digest_duplicates_mean_and_deviation_are_those_of_its_images():
    check_constants(known.load_sample(), digits=3)  # mean and deviation are those of all of MNIST


@pytest.mark.parametrize("option", ["mnist", "fashion-mnist"])
def test_a_known_sets_digest_duplicates_mean_and_deviation_are_those_of_its_images(option):
    for place in REAL:
        if known.find(place, KNOWN_SETS[option]):
            check_constants(known.load(option, place), digits=4)
            return
    pytest.skip(f"there is no {KNOWN_SETS[option].title} in {' or '.join(map(str, REAL))}")


def check_constants(dataset, digits):
    computed = known.examined(dataset)
    assert (dataset.digest, dataset.duplicates) == (computed.digest, computed.duplicates)
    pixels = audit.examine_all(dataset.train.images.numpy())
    mean, std = audit.mean_and_std(pixels, dataset.train.images[0, 0].numel())
    assert dataset.train.mean == pytest.approx(mean, abs=0.5 * 10**-digits)
    assert dataset.train.std == pytest.approx(std, abs=0.5 * 10**-digits)


# Reading


@pytest.mark.parametrize("option", IDX_SETS)
def test_a_directory_that_holds_all_sets_gives_each_as_what_it_is(tmp_path, files, option):
    for each in IDX_SETS:
        put_set(tmp_path / KNOWN_SETS[each].folder, each, files)
    found, wanted = known.load(option, tmp_path), KNOWN_SETS[option]
    pixels = np.frombuffer(files[option]["train-images-idx3-ubyte"], np.uint8, offset=16)
    assert torch.equal(found.train.images, torch.from_numpy(pixels.copy()).view(30, 1, 28, 28))
    assert found.test.labels.tolist() == list(files[option]["t10k-labels-idx1-ubyte"][8:])
    assert (found.name, found.class_names, found.stratified) == (option, wanted.class_names, option != "mnist")
    assert (found.train.mean, found.train.std) == (found.test.mean, found.test.std) == (wanted.mean, wanted.std)
    assert str(tmp_path / wanted.folder) in found.origin
    facts = found.describe()
    assert facts.digest and facts.duplicates
    again = known.find_dataset(facts, tmp_path, [], "the proof needs it")
    assert again.describe() == facts
    other = dataclasses.replace(facts, mean=(0.5,), std=(0.25,))  # --mean 0.5 --std 0.25
    assert known.find_dataset(other, tmp_path, [], "the proof needs it").test.mean == (0.5,)


@pytest.mark.parametrize("lies", IDX_SETS)
@pytest.mark.parametrize("option", IDX_SETS)
def test_of_files_that_lie_flat_the_digest_says_which_set_they_are(tmp_path, files, lies, option):
    put_set(tmp_path, lies, files)
    if lies == option:
        assert known.load(option, tmp_path).name == option
    else:
        with pytest.raises(known.NotFound, match=f"^no {KNOWN_SETS[option].title} in {tmp_path}: its four"):
            known.load(option, tmp_path)
        assert "other files" in known.fetch(tmp_path, print, KNOWN_SETS[option])  # not into another set's own folder


@pytest.mark.parametrize("option", IDX_SETS)
def test_files_in_the_folder_of_a_set_that_are_not_that_set_are_refused(tmp_path, files, option):
    lies = "mnist" if option != "mnist" else "fashion-mnist"
    put(tmp_path / KNOWN_SETS[option].folder, files[lies], zipped=True)
    with pytest.raises(UsageError, match=f"is not {KNOWN_SETS[option].title} as published") as refusal:
        known.load(option, tmp_path)
    assert not isinstance(refusal.value, known.NotFound) and "--data sample" in str(refusal.value)


def test_kmnist_is_taken_only_in_the_files_whose_digests_are_published(tmp_path, files):
    folder = put(tmp_path / "KMNIST/raw", files["kmnist"])
    with pytest.raises(known.NotFound, match=r"its four \.gz files are neither there nor in KMNIST/raw"):
        known.load("kmnist", tmp_path)
    put_set(folder, "kmnist", files)
    (folder / "train-images-idx3-ubyte").write_bytes(b"unpacked, and not read")
    assert known.load("kmnist", tmp_path).name == "kmnist"
    name = "train-labels-idx1-ubyte"
    packed_otherwise = gzip.compress(files["kmnist"][name], 1, mtime=1)
    (folder / f"{name}.gz").write_bytes(packed_otherwise)
    with pytest.raises(idx.NotPublished, match=f"{name}.gz is not KMNIST as published"):
        known.load("kmnist", tmp_path)
    (folder / f"{name}.gz").unlink()
    with pytest.raises(UsageError, match=f"lacks {name}.gz;"):
        known.load("kmnist", tmp_path)


@pytest.mark.parametrize("option", IDX_SETS)
def test_a_set_that_lies_too_deep_is_named_by_its_place(tmp_path, files, option):
    for each in IDX_SETS:
        put_set(tmp_path / "data/torch" / KNOWN_SETS[each].folder, each, files)
    with pytest.raises(known.NotFound, match=f"no {KNOWN_SETS[option].title} in .*are in {tmp_path / 'data/torch'};"):
        known.load(option, tmp_path / "data")


# What cannot be had is never replaced


@pytest.mark.parametrize("option", DOWNLOADED)
@pytest.mark.parametrize("chosen", [False, True])
def test_nothing_stands_in_for_any_set_but_mnist_that_nobody_chose(tmp_path, monkeypatch, option, chosen):
    monkeypatch.setattr(download, "download", lambda *_: "the mirrors are down")
    directory, title = tmp_path / "data", KNOWN_SETS[option].title
    if option == "mnist" and not chosen:
        assert known.provide(option, directory, chosen, print) == "the download failed: the mirrors are down"
        assert known.load_or_sample(option, directory, chosen).name == "mnist-sample"
    else:
        with pytest.raises(known.NotFound, match=f"^no {title} in {directory}: .*mirrors are down.*--data sample$"):
            known.provide(option, directory, chosen, print)
        with pytest.raises(known.NotFound, match=f"^no {title} in {directory}: .*--data sample$"):
            known.load_or_sample(option, directory, chosen)
    assert not directory.exists()


def test_an_unknown_set_is_refused_with_the_names_of_all(tmp_path):
    with pytest.raises(
        UsageError, match="the data set 'imagenet' is unknown; choose from mnist, fashion-mnist, kmnist"
    ):
        known.load("imagenet", tmp_path)


# Downloads beside other sets


@pytest.mark.parametrize("option", IDX_SETS)
def test_a_set_is_downloaded_beside_the_others_which_are_left_alone(tmp_path, monkeypatch, files, option):
    others = [each for each in IDX_SETS if each != option]
    for each in others:
        put_set(tmp_path / KNOWN_SETS[each].folder, each, files)
    put(tmp_path / "cifar-100-python", {"meta": b"", "file.txt~": b""})
    put(tmp_path, {"cifar-100-python.tar.gz": b"as torchvision leaves it"})
    before, said = tree(tmp_path), []
    left = {**files[option], **{f"{name}.gz": zip_up(content) for name, content in files[option].items()}}
    monkeypatch.setattr(download, "download", arriving(left))
    assert known.fetch(tmp_path, said.append, KNOWN_SETS[option]) is None
    assert said == [f"no {KNOWN_SETS[option].title} in {tmp_path}: downloading it"]
    assert [known.load(each, tmp_path).name for each in IDX_SETS] == list(IDX_SETS)
    after, folder = tree(tmp_path), Path(KNOWN_SETS[option].folder)
    new = after.keys() - before.keys()
    assert before == {path: content for path, content in after.items() if path not in new}
    suffix = ".gz" if option == "kmnist" else ""
    assert new == {folder / f"{name}{suffix}" for name in files[option]}


@pytest.mark.parametrize("stranger", ["notes.txt", "EMNIST/raw/train-images-idx3-ubyte", "MNIST/notes.txt"])
def test_nothing_is_downloaded_beside_files_of_no_known_set(tmp_path, monkeypatch, files, stranger):
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("downloads"))
    put_set(tmp_path / "MNIST/raw", "mnist", files)
    put((tmp_path / stranger).parent, {Path(stranger).name: b"1"})
    before = tree(tmp_path)
    assert known.fetch(tmp_path, print, KNOWN_SETS["fashion-mnist"]) == f"it holds other files, {stranger} for one"
    assert tree(tmp_path) == before


def test_a_damaged_download_of_any_set_leaves_nothing(tmp_path, monkeypatch, files):
    name = "t10k-labels-idx1-ubyte"
    left = {f"{each}.gz": zip_up(content) for each, content in files["kmnist"].items()} | {f"{name}.gz": b"<html>"}
    monkeypatch.setattr(download, "download", arriving(left))
    reason = known.fetch(tmp_path / "data", print, KNOWN_SETS["kmnist"])
    assert reason.startswith(f"the download is damaged: {name}.gz is not KMNIST as published")
    assert list(tmp_path.iterdir()) == []


# The doctor


@pytest.mark.parametrize("option", DOWNLOADED)
def test_the_doctor_says_of_each_set_what_training_will_do(tmp_path, files, option):
    title = KNOWN_SETS[option].title
    (tmp_path / "empty").mkdir()
    put(tmp_path / "photographs", {"beach.jpg": b"sun"})
    finding = checks.look_at_known_set(option, tmp_path / "empty", True)
    assert finding.level == "warning"
    assert f"no {title} in {tmp_path / 'empty'}: training downloads it, and stops where it cannot" in finding.text
    finding = checks.look_at_known_set(option, tmp_path / "photographs", True)
    assert finding.level == "problem" and f"no {title} in" in finding.text and "--data sample" in finding.text
    if option in IDX_SETS:
        put_set(tmp_path / KNOWN_SETS[option].folder, option, files)
        finding = checks.look_at_known_set(option, tmp_path, True)
        assert finding.level == "ok" and "30 + 20 images" in finding.text
