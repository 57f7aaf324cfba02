"""Which source a value of --data names, what its options may be, and how finished runs find their data again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import photo, tree
from PIL import Image

import distmnist
from distmnist.config import TrainConfig, lasting, to_json
from distmnist.data import known, sources
from distmnist.data.dataset import Dataset
from distmnist.data.sources import find_dataset, load, load_dataset
from distmnist.errors import UsageError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def arrays(**changed) -> dict[str, np.ndarray]:
    found = {
        "train_images": noise(6, 4, 5, 3),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": noise(3, 4, 5, 3, seed=1),
        "test_labels": np.array([2, 1, 2]),
    }
    return found | changed


def npz(path: Path, **changed) -> Path:
    np.savez(path, **arrays(**changed))
    return path


@pytest.fixture
def function(tmp_path, monkeypatch):
    """photos:make, in the current directory; and how often it was called."""
    (tmp_path / "here").mkdir()
    npz(tmp_path / "here" / "arrays.npz")
    (tmp_path / "here" / "own_photos.py").write_text(
        "import numpy, pathlib\ncalls = []\n\n\ndef make():\n    calls.append(1)\n"
        f"    return dict(numpy.load({str(tmp_path / 'here' / 'arrays.npz')!r}))\n"
    )
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "own_photos:make"
    sys.modules.pop("own_photos", None)


def loaded(data: object, **options) -> Dataset:
    return load(TrainConfig(data=lasting(str(data)), **options), Path("nowhere"))


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).isprintable()
    return str(caught.value)


def test_a_folder_a_csv_an_npz_and_a_function_are_told_apart(tmp_path, function):
    tree(tmp_path / "pets", "train", "test")
    rows = [f"pets/{split}/{name}/0.png,{name},{split}" for split in ("train", "test") for name in ("cat", "dog")]
    (tmp_path / "pets.csv").write_text("\n".join(["path,label,split", *rows]))
    npz(tmp_path / "digits.NPZ.npz").rename(tmp_path / "digits.NPZ")
    found = [loaded(tmp_path / name) for name in ("pets", "pets.csv", "digits.NPZ")] + [loaded(function)]
    assert [data.name for data in found] == ["pets", "pets", "digits", "own_photos:make"]
    assert [len(data.train) for data in found] == [8, 2, 6, 6]
    assert [data.preparation is None for data in found] == [False, False, True, True]
    assert [data.memory is None for data in found] == [False, False, True, True]
    assert found[2].digest == found[3].digest and found[2].origin == str(tmp_path / "digits.NPZ")


@pytest.mark.parametrize("name", ["absent", "absent.csv", "absent.npz"])
def test_what_is_not_there_is_one_line_that_offers_the_sample(tmp_path, name):
    told = refusal(loaded, tmp_path / name)
    assert str(tmp_path / name) in told and "--data sample" in told


def test_a_path_with_a_colon_that_exists_is_a_path(tmp_path):
    assert loaded(tree(tmp_path / "a:b", "train", "test")).name == "a:b"
    assert "no module" in refusal(loaded, "no_such_module_here:b")


@pytest.mark.parametrize("validation", [False, True])
def test_arrays_are_a_data_set_with_their_own_statistics_and_names(tmp_path, validation):
    more = {"val_images": noise(2, 4, 5, 3, seed=2), "val_labels": np.array([1, 0])} if validation else {}
    found = loaded(npz(tmp_path / "set.npz", class_names=np.array(["a", "b", "c"]), **more))
    images = arrays()["train_images"]
    assert torch.equal(found.train.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert found.train.labels.tolist() == [0, 1, 2, 0, 1, 2] and found.class_names == ("a", "b", "c")
    assert (found.validation is not None) == validation and found.decoder is None
    assert np.abs(np.array(found.train.mean) - (images / 255).mean((0, 1, 2))).max() < 1e-12
    assert np.abs(np.array(found.train.std) - (images / 255).std((0, 1, 2))).max() < 1e-12
    assert found.duplicates.across_splits == 0 and len(found.digest) == 64


def test_copies_in_arrays_are_named_by_split_and_number(tmp_path):
    images = noise(3, 4, 5, 3, seed=1)
    images[1] = arrays()["train_images"][4]
    found = loaded(npz(tmp_path / "set.npz", test_images=images))
    assert found.duplicates.across_splits == 1 and found.duplicates.examples == (("train[4]", "test[1]"),)


def test_mean_and_std_of_arrays_are_over_the_images_trained_on(tmp_path):
    path = npz(tmp_path / "set.npz")
    kept = loaded(path, val_fraction=0.5)
    assert kept.train.mean != loaded(path).train.mean and kept.digest == loaded(path).digest
    assert loaded(path, mean="0.5", std="0.1,0.2,0.3").train.std == (0.1, 0.2, 0.3)
    more = {"val_images": noise(2, 4, 5, 3), "val_labels": np.array([1, 0])}
    told = refusal(loaded, npz(tmp_path / "set.npz", **more), val_fraction=0.5)
    assert told.startswith("--val-fraction 0.5: set has a validation set of its own")


@pytest.mark.parametrize("data", ["sample", "set.npz", "own_photos:make"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("image_size", "8"), ("channels", 1), ("resize_mode", "pad"), ("on_error", "skip"), ("test_fraction", 0.3)],
)
def test_options_of_image_files_are_refused_where_there_are_none(function, data, option, value):
    npz(Path("set.npz"))
    told = refusal(loaded, data, **{option: value})
    assert told == (
        f"--{option.replace('_', '-')} is for image files, and --data {lasting(data)} has none; leave it out"
    )


@pytest.mark.parametrize("data", ["sample", "set.npz", "own_photos:make", "pets"])
@pytest.mark.parametrize("option", ["mean", "std"])
def test_a_mean_without_a_deviation_is_refused_and_the_other_way_round(function, data, option):
    npz(Path("set.npz"))
    tree(Path("pets"), "train", "test")
    assert "--mean and --std belong together" in refusal(loaded, data, **{option: "0.5"})


def test_a_known_set_has_its_own_statistics_unless_others_are_given():
    assert loaded("sample").train.std == (0.3081,)
    assert {(split.mean, split.std) for split in loaded("sample", mean="0.5", std="1").splits.values()} == {
        ((0.5,), (1.0,))
    }
    assert "--mean 0.5,0.5,0.5 has 3 numbers; the images have 1 channels" in refusal(
        loaded, "sample", mean="0.5,0.5,0.5", std="1"
    )


def test_image_files_are_said_to_and_shown_progress_of(tmp_path):
    lines, done = [], []
    config = TrainConfig(data=str(tree(tmp_path, "train", "val")))
    load(config, Path("nowhere"), lines.append, lambda count, total: done.append((count, total)))
    assert len(lines) == 1 and sum(count for count, _ in done) == 16 and {total for _, total in done} == {16}


# load_dataset


def test_load_dataset_is_public_and_takes_the_options_of_images(tmp_path, monkeypatch):
    tree(tmp_path / "pets", "train", "test")
    monkeypatch.chdir(tmp_path)
    found = distmnist.load_dataset("pets", image_size="3", channels=1, val_fraction=0.3)
    expected = loaded(tmp_path / "pets", image_size="3", channels=1, val_fraction=0.3)
    assert found.digest == expected.digest and found.train.mean == expected.train.mean
    assert found.origin == str(tmp_path / "pets") and load_dataset(Path("pets")).train.shape == (3, 4, 5)
    assert load_dataset("sample").name == "mnist-sample"


def test_load_dataset_takes_a_function(function):
    assert load_dataset(function).name == "own_photos:make"


@pytest.mark.parametrize("option", ["image_sise", "output", "model"])
def test_load_dataset_knows_every_option_that_it_is_given(tmp_path, option):
    assert refusal(load_dataset, tree(tmp_path, "train", "test"), **{option: "3"}) == (
        f"load_dataset has no option {option}; see TrainConfig"
    )


def test_load_dataset_downloads_a_known_set_into_the_directory_or_says_why_not(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(known, "provide", lambda *arguments: asked.append(arguments[:3]))
    monkeypatch.setattr(known, "load", lambda name, directory: asked.append((name, directory)) or known.load_sample())
    monkeypatch.setenv("DISTMNIST_DATA", str(tmp_path / "variable"))
    load_dataset("mnist", tmp_path / "argument")
    load_dataset()
    monkeypatch.delenv("DISTMNIST_DATA")
    load_dataset()
    places = [tmp_path / "argument", tmp_path / "variable", Path("data")]
    assert asked == [each for place in places for each in (("mnist", place, True), ("mnist", place))]
    asked.clear()
    assert "is for image files" in refusal(load_dataset, "mnist", channels=3) and not asked


# find_dataset


def finished(data: object, **options) -> tuple[object, dict]:
    """What a run on this data notes: the facts of its data set, and its options as JSON has them."""
    config = TrainConfig(data=lasting(str(data)), **options)
    noted = json.loads(json.dumps(to_json({**config.options(), "model": "cnn", "output": "runs/1"})))
    return load(config, Path("nowhere")).describe(), noted


def found_again(facts, noted, data: object = None) -> Dataset:
    where = str(data) if data is not None else None
    return find_dataset(facts, noted, where, None, [], "the proof needs its test images")


OPTIONS = {"image_size": "3x4", "resize_mode": "crop", "channels": 1, "val_fraction": 0.3}


def test_the_images_of_a_finished_run_are_found_where_they_were_prepared_as_they_were(tmp_path):
    facts, noted = finished(tree(tmp_path / "pets", "train", "test"), **OPTIONS)
    again = found_again(facts, noted)
    assert again.describe() == facts and again.train.shape == (1, 3, 4)


def test_images_that_have_moved_are_found_where_they_are_said_to_be(tmp_path, monkeypatch):
    facts, noted = finished(tree(tmp_path / "pets", "train", "test"), **OPTIONS)
    (tmp_path / "pets").rename(tmp_path / "animals")
    told = refusal(found_again, facts, noted)
    assert f"{tmp_path / 'pets'} does not exist" in told
    monkeypatch.chdir(tmp_path)
    again = found_again(facts, noted, "animals")
    assert again.digest == facts.digest and again.name == "animals"


def test_one_changed_pixel_is_another_data_set(tmp_path):
    root = tree(tmp_path / "pets", "train", "test")
    facts, noted = finished(root)
    with Image.open(root / "test" / "dog" / "2.png") as image:
        pixels = np.array(image)
    pixels[1, 2, 0] ^= 1
    Image.fromarray(pixels).save(root / "test" / "dog" / "2.png")
    told = refusal(found_again, facts, noted)
    assert told == (
        f"{root}: pets of 8 + 8 has other images, labels or file names than the data set that is expected:"
        " the proof needs its test images; choose the right --data"
    )


def test_one_renamed_file_is_another_data_set(tmp_path):
    root = tree(tmp_path / "pets", "train", "test")
    facts, noted = finished(root)
    (root / "test" / "dog" / "3.png").rename(root / "test" / "dog" / "4.png")
    assert "has other images, labels or file names" in refusal(found_again, facts, noted)


def test_another_number_of_images_or_class_is_told_before_the_digest(tmp_path):
    root = tree(tmp_path / "pets", "train", "test")
    facts, noted = finished(root)
    photo(root / "train" / "dog" / "9.png", seed=99)
    assert "has another train: 9, not 8" in refusal(found_again, facts, noted)
    (root / "train" / "dog" / "9.png").unlink()
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "wolf")
    assert "has another class_names: ('cat', 'wolf'), not ('cat', 'dog')" in refusal(found_again, facts, noted)


def test_an_npz_file_is_found_again_and_a_changed_one_is_refused(tmp_path):
    facts, noted = finished(npz(tmp_path / "set.npz"), val_fraction=0.4)
    assert found_again(facts, noted).describe() == facts
    (tmp_path / "set.npz").rename(tmp_path / "moved.npz")
    assert found_again(facts, noted, tmp_path / "moved.npz").digest == facts.digest
    npz(tmp_path / "moved.npz", test_labels=np.array([2, 1, 1]))
    assert "has other images, labels or" in refusal(found_again, facts, noted, tmp_path / "moved.npz")


def test_a_function_of_a_run_is_not_called_unless_it_is_named_again(function):
    facts, noted = finished(function)
    calls = sys.modules["own_photos"].calls
    assert len(calls) == 1
    assert refusal(found_again, facts, noted) == (
        "the proof needs its test images, which come from the function own_photos:make; add --data own_photos:make,"
        " because no file of a run chooses what is imported"
    )
    del sys.modules["own_photos"]
    assert refusal(found_again, facts, noted) and "own_photos" not in sys.modules
    assert found_again(facts, noted, function).describe() == facts


def test_an_npz_may_stand_in_for_the_function_that_returned_its_arrays(function):
    facts, noted = finished(function)
    assert found_again(facts, noted, Path("arrays.npz")).digest == facts.digest


def test_a_known_set_is_looked_for_where_known_sets_are(monkeypatch):
    facts, noted = finished("sample")
    asked = []
    monkeypatch.setattr(known, "find_dataset", lambda *arguments: asked.append(arguments))
    find_dataset(facts, noted, None, Path("a"), [Path("b")], "why")
    assert asked == [(facts, Path("a"), [Path("b")], "why")]


def test_a_file_of_a_run_with_options_that_make_no_sense_is_refused_in_one_line(tmp_path):
    facts, noted = finished(npz(tmp_path / "set.npz"))
    for changed in ({"data": 5}, {"image_size": "huge"}, {"val_fraction": "x"}):
        assert refusal(found_again, facts, noted | changed)
    assert sources.find_dataset(facts, noted | {"unknown": 1}, None, None, [], "why").digest == facts.digest
