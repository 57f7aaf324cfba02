"""A data set from an npz file or from a function: what is taken, and what is refused with the array's name."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from distmnist.data.arrays import Arrays, load_function, load_npz
from distmnist.errors import UsageError

KERAS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "val": ("x_val", "y_val")}
MEDMNIST = {split: (f"{split}_images", f"{split}_labels") for split in KERAS}


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def digits(**changed) -> dict[str, object]:
    """Six training and three test images of three classes, MedMNIST's names; an array that is None is left out."""
    arrays = {
        "train_images": pixels(6, 4, 5),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": pixels(3, 4, 5),
        "test_labels": np.array([2, 1, 2]),
    }
    return {name: array for name, array in {**arrays, **changed}.items() if array is not None}


def saved(folder: Path, arrays: dict[str, object]) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def refusal(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("names", [KERAS, MEDMNIST], ids=["keras", "medmnist"])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
def test_both_sets_of_names_are_read_as_channels_first_images_and_flat_labels(tmp_path, names, channels, dtype):
    arrays = {}
    for count, (images, labels) in enumerate(names.values(), start=3):
        arrays[images] = pixels(count, 4, 5, *channels)
        arrays[labels] = (np.arange(count) % 3).astype(dtype).reshape((-1, 1) if names is MEDMNIST else -1)
    found = load_npz(saved(tmp_path, arrays))
    assert found.class_names == ("0", "1", "2")
    for part, (images, labels) in zip((found.train, found.test, found.validation), names.values(), strict=True):
        last = arrays[images].reshape(*arrays[images].shape[:3], -1)
        assert part[0].shape == (len(last), last.shape[3], 4, 5)
        assert all(np.array_equal(part[0][:, channel], last[..., channel]) for channel in range(last.shape[3]))
        assert np.array_equal(part[1], arrays[labels].ravel())
        assert part[0].dtype == np.uint8 and part[0].flags.c_contiguous and part[1].dtype == np.dtype(np.int64)


def test_validation_may_be_absent_and_other_arrays_are_ignored(tmp_path):
    assert load_npz(saved(tmp_path, digits(extra=np.zeros(3)))).validation is None


def test_class_names_are_taken_in_the_order_of_the_labels(tmp_path):
    names = np.array(["zebra", "ant", "bee"])
    assert load_npz(saved(tmp_path, digits(class_names=names))).class_names == ("zebra", "ant", "bee")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": None}, "must have either x_train or train_images, and has neither among its arrays"),
        ({"x_train": pixels(6, 4, 5)}, "must have either x_train or train_images, and has both;"),
        ({"train_labels": None}, "has no train_labels;"),
        ({"test_images": None}, "has no test_images;"),
        ({"val_images": pixels(3, 4, 5)}, "has no val_labels;"),
        ({"train_images": pixels(6, 4, 5) / 255}, "train_images is float64, not uint8;"),
        ({"train_images": pixels(6, 20)}, "train_images has the shape (6, 20);"),
        ({"train_images": pixels(6, 4, 5, 2)}, "train_images has the shape (6, 4, 5, 2);"),
        ({"train_images": pixels(6, 3, 4, 5)}, "train_images has the shape (6, 3, 4, 5);"),
        ({"test_images": pixels(0, 4, 5), "test_labels": np.zeros(0, int)}, "test_images has the shape (0, 4, 5);"),
        ({"test_images": pixels(3, 5, 4)}, "of test_images are (1, 5, 4), those of train_images (1, 4, 5);"),
        ({"test_images": pixels(3, 4, 5, 3)}, "of test_images are (3, 4, 5), those of train_images (1, 4, 5);"),
        (
            {"train_labels": np.array([0, 1, 2, 0, 1])},
            "train_labels has the shape (5,), and train_images has 6 images;",
        ),
        ({"train_labels": np.eye(6, dtype=int)}, "train_labels has the shape (6, 6), and train_images has 6 images;"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 2.0])}, "train_labels is float64; labels must be integers"),
        ({"test_labels": np.array([True, False, True])}, "test_labels is bool; labels must be integers"),
        ({"train_labels": np.array([0, 1, -1, 0, 1, 2])}, "train_labels has the label -1;"),
        ({"train_labels": np.array([1, 2, 3, 1, 2, 3])}, "train_labels lacks the class 0, but has 3;"),
        (
            {"train_labels": np.array([0, 1, 3, 0, 1, 10**15])},
            "train_labels lacks the class 2, but has 1000000000000000;",
        ),
        ({"train_labels": np.zeros(6, int)}, "train_labels has one class only;"),
        ({"test_labels": np.array([2, 3, 1])}, "test_labels has the class 3, which train_labels lacks;"),
        ({"class_names": np.array(["ant", "bee"])}, "must be 3 different strings"),
        ({"class_names": np.array(["ant", "bee", "cow", "dog"])}, "must be 3 different strings"),
        ({"class_names": np.array(["ant", "bee", "ant"])}, "must be 3 different strings"),
        ({"class_names": np.array([1, 2, 3])}, "class_names is int64 (3,);"),
        ({"class_names": np.array(["ant", "b\nee", "cow"])}, r"the class name 'b\nee' is not one line of text;"),
    ],
)
def test_arrays_that_could_be_misread_are_refused_with_their_name(tmp_path, changed, message):
    told = refusal(load_npz, saved(tmp_path, digits(**changed)))
    assert message in told and told.startswith(str(tmp_path / "set.npz"))


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["train_images", "test_labels", "class_names"])
def test_no_pickle_is_ever_loaded(tmp_path, name):
    arrays = digits(**{name: np.array([Bomb(tmp_path / "unpickled")] * 3, object)})
    message = refusal(load_npz, saved(tmp_path, arrays))
    assert f"{name} cannot be read: ValueError: Object arrays" in message
    assert not (tmp_path / "unpickled").exists()


def test_files_that_are_missing_or_not_npz_or_damaged_are_named(tmp_path):
    assert f"cannot read {tmp_path / 'absent.npz'}: No such file" in refusal(load_npz, tmp_path / "absent.npz")
    single = io.BytesIO()
    np.save(single, pixels(3, 4, 5))
    for content in (b"", b"text", single.getvalue()):
        (tmp_path / "other.npz").write_bytes(content)
        assert f"{tmp_path / 'other.npz'} is not an npz file;" in refusal(load_npz, tmp_path / "other.npz")
    path = saved(tmp_path, digits())
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # a pixel: the archive's CRC finds it
    path.write_bytes(content)
    assert "train_images cannot be read: BadZipFile: Bad CRC-32" in refusal(load_npz, path)


@pytest.mark.parametrize(
    ("member", "message"),
    [(b"bytes, not an array", "train_images is |S19, not uint8"), (None, "train_images cannot be read: ")],
)
def test_a_member_that_is_no_array_or_lies_about_its_size_is_refused(tmp_path, member, message):
    if member is None:
        written = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            written, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 10**6)}
        )
        member = written.getvalue()
    path = saved(tmp_path, digits(train_images=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", member)
    assert message in refusal(load_npz, path)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes the module `sets_of_mine` into the current directory, with the body of its function `make`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def write(body: str, head: str = "") -> str:
        sys.modules.pop("sets_of_mine", None)
        (tmp_path / "sets_of_mine.py").write_text(f"{head}\nimport numpy as np\ndef make():\n    {body}\n")
        return "sets_of_mine:make"

    yield write
    sys.modules.pop("sets_of_mine", None)


RETURNED = (
    "return {'train_images': np.arange(24, dtype=np.uint8).reshape(2, 4, 3), 'train_labels': [0, 1],"
    " 'test_images': np.zeros((1, 4, 3), np.uint8), 'test_labels': [1], 'class_names': ['ant', 'bee']}"
)


def test_a_function_in_the_current_directory_returns_a_mapping_with_the_same_names(module):
    found = load_function(module(RETURNED))
    assert isinstance(found, Arrays) and found.class_names == ("ant", "bee")
    assert np.array_equal(found.train[0], np.arange(24).reshape(2, 1, 4, 3))
    assert found.train[1].tolist() == [0, 1] and found.test[1].tolist() == [1]


def test_tensors_and_an_opened_npz_file_are_taken_too(module, tmp_path):
    arrays = digits(test_labels=torch.tensor([2, 0, 1]))
    saved(tmp_path, arrays)
    assert load_function(module("return np.load('set.npz')")).test[1].tolist() == [2, 0, 1]
    tensors = "return {name: torch.from_numpy(array) for name, array in np.load('set.npz').items()}"
    assert np.array_equal(load_function(module(tensors, "import torch")).train[0][:, 0], arrays["train_images"])


def test_what_is_returned_read_only_becomes_writable_for_torch(module):
    body = f"sets = {RETURNED.removeprefix('return ')}; sets['train_images'].flags.writeable = False; return sets"
    torch.from_numpy(load_function(module(body)).train[0])


def test_the_current_directory_is_appended_to_the_path_and_never_moved(module, tmp_path):
    before = list(sys.path)
    load_function(module(RETURNED))
    assert sys.path == [*before, str(tmp_path)]
    sys.path.insert(0, sys.path.pop())
    load_function("sets_of_mine:make")
    assert sys.path == [str(tmp_path), *before]


def test_a_module_in_the_current_directory_replaces_no_other(module, tmp_path):
    (tmp_path / "colorsys.py").write_text("def make():\n    raise SystemExit('the wrong module')\n")
    sys.modules.pop("colorsys", None)
    assert "colorsys has no function make" in refusal(load_function, "colorsys:make")


@pytest.mark.parametrize("spec", ["sets_of_mine", "sets_of_mine:", ":make", "a.:b", ".a:b", "a/b:c", "a:b\n:c"])
def test_a_text_of_another_form_is_refused(spec):
    assert "is not of the form package.module:function" in refusal(load_function, spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("not_there:make", "no module not_there, neither installed nor in {folder};"),
        ("sets_of_mine.part:make", "no module sets_of_mine.part, neither"),
        ("sets_of_mine:other", "sets_of_mine has no function other;"),
        ("sets_of_mine:np", "sets_of_mine has something else as its function np;"),
    ],
)
def test_a_module_or_function_that_does_not_exist_is_named(module, tmp_path, spec, message):
    module(RETURNED)
    told = refusal(load_function, spec)
    assert message.format(folder=tmp_path) in told and f"--data {spec}" in told


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("import not_installed", "raised ModuleNotFoundError: No module named 'not_installed'; install what it needs"),
        ("raise KeyError('a')", "importing sets_of_mine raised KeyError: 'a'; correct the module"),
        ("x = = 1", "importing sets_of_mine raised SyntaxError: invalid syntax"),
        ("raise SystemExit", "importing sets_of_mine raised SystemExit; correct the module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_one_line(module, head, message):
    assert message in refusal(load_function, module(RETURNED, head))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('line one\\nline \\x1b two')", r"raised RuntimeError: line one line \x1b two; correct"),
        ("raise SystemExit(3)", "raised SystemExit: 3; correct the function"),
        ("return [1, 2]", "returned an object of type list; return a dict of train_images,"),
        ("return {}", "must have either x_train or train_images, and has neither"),
        ("return {'train_images': [[1], [2, 3]]}", "train_images cannot be read: ValueError:"),
        ("return {'train_images': [np.sum, {}], 'train_labels': [1, 2]}", "train_images is object, not uint8;"),
    ],
)
def test_a_function_that_raises_or_returns_something_else_is_told_in_one_line(module, body, message):
    told = refusal(load_function, module(body))
    assert message in told and told.startswith("--data sets_of_mine:make")
