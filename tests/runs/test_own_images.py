"""Images of one's own through the whole command: on any number of processes, resumed, and refused where wrong."""

import json
import os
import re
import shutil
import signal
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from one_run import contents, figures, refusal
from pictures import CLASSES, arrays, fill, photos, picture
from PIL import Image
from ranks import end_processes

from distmnist import train
from distmnist.data import decode, sharing
from distmnist.training.callbacks import Callback

SMALL = ("--model=mlp", "--epochs=2", "--batch-size=12", "--amp=off", "--threads=1")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the command in an empty directory. Returns exit code, lines of output, lines of errors."""
    monkeypatch.chdir(tmp_path)

    def train_there(*arguments):
        code = train.main([*SMALL, *arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return train_there


def dataset_of(run):
    return json.loads(Path(run, "summary.json").read_text())["dataset"]


def test_a_folder_is_trained_on_described_and_left_as_it_is(run):
    before = contents(photos(Path("pets")))
    code, out, err = run("--data=pets", "--output=a", "--model=all", "--class-weights=balanced", "--flip", "--crop")
    assert (code, err) == (0, []) and contents("pets") == before
    assert f"data: pets, 60 + 18 images ({Path('pets').absolute()})" in out
    facts = dataset_of("a")
    assert (facts["name"], facts["shape"], facts["class_names"]) == ("pets", [3, 12, 16], list(CLASSES))
    assert facts["preparation"] == {"height": 12, "width": 16, "resize_mode": "squash", "channels": 3}
    assert facts["class_counts"] == {"train": [20] * 3, "validation": [], "test": [6] * 3}
    assert len(facts["digest"]) == 64 and facts["decoder"].startswith("Pillow ")
    assert facts["duplicates"] == {"across_splits": 0, "two_labels": 0, "examples": []} and facts["skipped"] == 0
    result = figures("a", "cnn")
    assert len(result["precision"]) == len(result["recall"]) == len(result["f1"]) == 3


def test_the_same_pixels_train_the_same_model_wherever_they_come_from(run, monkeypatch):
    """The digests differ, for they cover the names of files."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    photos(Path("pets"))
    Path("pets.csv").write_text(
        "path,label,split\n"
        + "".join(f"{path},{path.parent.name},{path.parts[1]}\n" for path in sorted(Path("pets").rglob("*.png")))
    )
    np.savez("pets.npz", **arrays())
    Path("pets_module.py").write_text("import numpy as np\ndef load():\n    return dict(np.load('pets.npz'))\n")
    found = {}
    for number, data in enumerate(("pets", "pets.csv", "pets.npz", "pets_module:load")):
        assert run(f"--data={data}", f"--output=run{number}")[::2] == (0, [])
        found[data] = figures(f"run{number}")["weights_sha256"], dataset_of(f"run{number}")["mean"]
    assert len(set(map(str, found.values()))) == 1


def test_the_images_held_out_are_not_in_mean_and_deviation_and_are_reported(run):
    photos(Path("pets"))
    run("--data=pets", "--output=a")
    run("--data=pets", "--output=b", "--val-fraction=0.25")
    whole, part = dataset_of("a"), dataset_of("b")
    assert whole["digest"] == part["digest"] and whole["mean"] != part["mean"]
    assert figures("b")["val_accuracy"] is not None and "val_accuracy" not in figures("a")
    run("--data=pets", "--output=c", "--mean=0.5", "--std=0.25,0.5,0.125")
    assert (dataset_of("c")["mean"], dataset_of("c")["std"]) == ([0.5] * 3, [0.25, 0.5, 0.125])


def test_a_validation_folder_is_reported_apart_and_never_trained_on(run):
    fill(photos(Path("pets")) / "valid", 5, first=500)
    code, out, err = run("--data=pets", "--output=a")
    assert (code, err) == (0, []) and dataset_of("a")["validation"] == 15
    assert sum("validation accuracy" in line for line in out) == 2


def test_copies_and_uneven_classes_are_warned_of_in_a_line_each_and_counted(run):
    photos(Path("pets"))
    shutil.copy("pets/train/ant/0000.png", "pets/test/ant/copy.png")
    shutil.copy("pets/train/ant/0001.png", "pets/train/bee/ant.png")
    fill(Path("pets/train"), 1, classes=("zebra",), first=900)
    code, _, err = run("--data=pets", "--output=a")
    copies, few, lacking, uneven = err
    assert code == 0 and dataset_of("a")["duplicates"]["across_splits"] == 1
    assert "train/ant/0000.png = test/ant/copy.png; train/ant/0001.png = train/bee/ant.png" in copies
    assert "zebra" in few and "zebra" in lacking and "from 1 to 21 training images" in uneven


def test_files_that_cannot_be_read_stop_the_run_together_or_are_skipped_and_counted(run):
    photos(Path("pets"))
    Path("pets/train/bee/0003.png").write_bytes(b"no image")
    Path("pets/test/cat/10002.png").write_bytes(Path("pets/test/cat/10002.png").read_bytes()[:200])
    told = refusal(run("--data=pets", "--output=a"))
    assert "2 of 78 image files cannot be used" in told and "bee/0003.png" in told and "cat/10002.png" in told
    assert not Path("a").exists()
    code, out, err = run("--data=pets", "--output=a", "--on-error=skip")
    assert (code, err, dataset_of("a")["skipped"]) == (0, [], 2)
    assert any("2 of 78 image files are skipped" in line for line in out)


def test_a_run_is_resumed_where_the_images_are_now_and_not_with_others(run):
    photos(Path("pets"))
    assert run("--data=pets", "--output=whole")[0] == 0
    assert run("--data=pets", "--output=a", "--max-steps=7")[0] == 0
    Path("pets").rename("moved")
    code, _, err = run("--resume", "--output=a", "--max-steps=10")
    assert code == 2 and "pets does not exist" in err[0]
    Image.fromarray(picture(0, 77)).save("moved/test/bee/10000.png")
    code, _, (told,) = run("--resume", "--output=a", "--data=moved", "--max-steps=10")
    assert code == 2 and "was trained on a different data set" in told and "choose the right --data" in told
    Image.fromarray(picture(1, 10_000)).save("moved/test/bee/10000.png")
    assert run("--resume", "--output=a", "--data=moved", "--max-steps=10")[0] == 0
    assert figures("a")["weights_sha256"] == figures("whole")["weights_sha256"]


def test_a_function_must_be_named_again_at_a_resume(run, monkeypatch):
    np.savez("pets.npz", **arrays())
    Path("insects.py").write_text("import numpy as np\ndef load():\n    return dict(np.load('pets.npz'))\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert run("--data=insects:load", "--output=a", "--max-steps=3")[0] == 0
    assert "add --data insects:load" in refusal(run("--resume", "--output=a"))
    assert run("--data=insects:load", "--resume", "--output=a", "--max-steps=5")[0] == 0


class Kill(Callback):
    """Kills this process at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, progress) -> None:
        if progress.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run_in(folder: Path, options: list[str], kill: int | None = None) -> int:
    os.chdir(folder)
    decode.CHUNK = 4  # so that several processes decode
    return train.main([*SMALL, *options], [Kill(kill)] if kill else [])


def test_virtual_ranks_have_one_digest_on_1_2_and_4_processes_and_across_a_kill(tmp_path):
    photos(tmp_path / "pets")
    options = ["--data=pets", "--virtual-ranks=4", "--crop", "--val-fraction=0.2", "--checkpoint-steps=1"]
    digests = {}
    for size in (1, 2, 4):
        (one, *_) = end_processes(run_in, size, tmp_path, [*options, f"--output={size}"])
        assert (one.code, one.err) == (0, [])
        digests[size] = figures(tmp_path / str(size))["weights_sha256"]
    killed = end_processes(run_in, 2, tmp_path, [*options, "--output=killed"], 5)
    assert killed[0].code not in (0, None)
    assert all(one.code == 0 for one in end_processes(run_in, 4, tmp_path, ["--resume", "--output=killed"]))
    digests["killed"] = figures(tmp_path / "killed")["weights_sha256"]
    assert len(set(digests.values())) == 1


def count_reads(folder: Path, reachable: bool) -> int:
    """The command; notes each rank that reads the images itself."""
    os.chdir(folder)
    if not reachable:
        sharing.SharedImages.open = classmethod(lambda *_: None)
    real = decode.decode_files

    def noted(*arguments):
        Path(f"read-{os.environ['RANK']}").touch()
        return real(*arguments)

    from distmnist.data import files

    files.decode_files = noted
    return train.main([*SMALL, "--data=pets", "--output=a"])


@pytest.mark.parametrize("reachable", [True, False])
def test_one_process_of_a_machine_reads_the_images_unless_the_others_cannot_reach_its_memory(tmp_path, reachable):
    photos(tmp_path / "pets")
    ended = end_processes(count_reads, 3, tmp_path, reachable)
    assert [(one.code, one.err) for one in ended] == [(0, [])] * 3
    assert len(list(tmp_path.glob("read-*"))) == (1 if reachable else 3)


def different_folders(folder: Path) -> int:
    os.chdir(folder)
    sharing.SharedImages.open = classmethod(lambda *_: None)
    return train.main([*SMALL, f"--data=pets{os.environ['RANK']}", "--output=a"])


def test_ranks_that_read_different_images_are_refused(tmp_path):
    photos(tmp_path / "pets0")
    fill(photos(tmp_path / "pets1") / "train", 1, first=99)
    ended = end_processes(different_folders, 2, tmp_path)
    (line,) = [line for one in ended for line in one.err]
    assert next(one.code for one in ended) == 2 and "has the data set pets1, " in line and "rank 0 has pets0, " in line


def broken(folder: Path, what: str) -> str:
    """Makes something that is wrong in `folder`; returns the value of --data."""
    pets = photos(folder / "pets")
    good = arrays()
    match what:
        case "no such folder":
            return "nowhere"
        case "no images":
            (folder / "empty").mkdir()
            return "empty"
        case "one class":
            shutil.rmtree(pets)
            fill(pets, 30, classes=("ant",))
        case "a class only in test":
            fill(pets / "test", 2, classes=("wasp",))
        case "a label outside the classes":
            np.savez(folder / "pets.npz", **{**good, "test_labels": good["test_labels"] + 1})
            return "pets.npz"
        case "missing columns":
            (folder / "pets.csv").write_text("file,class\na.png,ant\n")
            return "pets.csv"
        case "float arrays":
            np.savez(folder / "pets.npz", **{**good, "train_images": good["train_images"] / 255})
            return "pets.npz"
        case "object arrays":
            np.savez(folder / "pets.npz", **{**good, "test_labels": good["test_labels"].astype(object)})
            return "pets.npz"
        case "an image bomb":
            content = bytearray((pets / "train/ant/0000.png").read_bytes())
            content[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, in the header alone
            content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
            (pets / "train/ant/0000.png").write_bytes(content)
            return "pets"
        case "no such module":
            return "no_such_module:load"
        case "no such function":
            return "json:load_images"
        case "a function that raises":
            (folder / "raises.py").write_text("def load():\n    raise KeyError('lost')\n")
            return "raises:load"
        case "a module that raises":
            (folder / "raises.py").write_text("1 / 0\n")
            return "raises:load"
        case "mixed sizes":
            fill(pets / "train", 3, size=(20, 20), first=500)
    return "pets"


WRONG = {
    "no such folder": "nowhere does not exist; name a folder",
    "no images": "has no images; add some",
    "one class": "has one class only, ant",
    "a class only in test": "classes in test but not in train: wasp",
    "a label outside the classes": "test_labels has the class 3, which train_labels lacks",
    "missing columns": "name them path, label",
    "float arrays": "train_images is float64, not uint8",
    "object arrays": "test_labels cannot be read: .*; store a plain array",
    "an image bomb": "ant/0000.png .*pixels",
    "no such module": "no module no_such_module",
    "no such function": "json has no function load_images",
    "a function that raises": "raised KeyError: 'lost'; correct the function",
    "a module that raises": "raised ZeroDivisionError: .*; correct the module",
    "mixed sizes": r"images of several sizes, height x width: 12x16 \(78\), 20x20 \(9\); choose one with --image-size",
}


@pytest.mark.parametrize("what", WRONG)
def test_data_that_cannot_be_used_are_one_line_and_exit_code_2_and_leave_nothing(run, monkeypatch, what):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "raises", raising=False)
    data = broken(Path(), what)
    before = {*Path().rglob("*")}
    told = refusal(run(f"--data={data}"))
    assert re.search(WRONG[what], told), told
    assert {path for path in {*Path().rglob("*")} - before if "__pycache__" not in str(path)} == set()


@pytest.mark.parametrize("option", ["--image-size=8", "--channels=1", "--resize-mode=pad", "--on-error=skip"])
def test_options_of_image_files_are_refused_where_there_are_none(run, option):
    np.savez("pets.npz", **arrays())
    for data in ("pets.npz", "sample"):
        assert f"{option.split('=')[0]} is for image files" in refusal(run(f"--data={data}", option))
