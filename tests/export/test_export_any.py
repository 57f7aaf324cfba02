"""The export of colour images and of a model of one's own, and what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from pictures import photos

from distmnist import train
from export import __main__ as command
from export import folder
from export.predict import Predictor

pytest_plugins = ["own_models"]

MODEL = "--model=mine:Net"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with a run `a` of mine:Net, which has a batch norm, on a few photographs, and its export."""
    from own_models import MINE  # pytest rewrites its plugins, and must be the first to import them

    where = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        Path("mine.py").write_text(MINE)
        sys.modules.pop("mine", None)
        photos(Path("pets"))
        options = ["--data=pets", "--epochs=2", "--batch-size=12", "--amp=off", "--threads=1", "--output=a"]
        assert train.main([MODEL, *options]) == 0
        assert command.main(["a", MODEL]) == 0
        yield where
    sys.modules.pop("mine", None)


@pytest.fixture
def exported(made, tmp_path):
    return Path(shutil.copytree(made / "a/export", tmp_path / "export"))


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert command.main([str(one) for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_files_take_images_of_the_trained_shape_and_say_the_classes(made):
    exported = made / "a/export"
    names = {path.name for path in exported.iterdir() if path.name != "__pycache__"}
    assert names == {
        *("Net.onnx", "Net.pixels.onnx", "Net.safetensors", "Net.torchscript.pt", "Net", "labels.txt"),
        *("parity.json", "predict", "predict.py", "requirements.txt"),
    }
    summary = json.loads((made / "a/summary.json").read_text())
    classes = summary["dataset"]["class_names"]
    assert (exported / "labels.txt").read_text().split() == classes
    predictor = Predictor(exported / "Net.pixels.onnx")
    assert (predictor.shape, predictor.class_names) == ((3, 12, 16), tuple(classes))
    report = json.loads((exported / "parity.json").read_text())
    worst = report["models"]["Net"]["files"]["Net.pixels.onnx"]["worst"]
    assert worst["count"] == worst["labels_agree"] == summary["dataset"]["test"]
    assert 0 < report["bound"] < 1e-4
    assert "BatchNormalization" in [node.op_type for node in onnx.load(exported / "Net.onnx").graph.node]


def test_predict_answers_for_every_test_file_as_the_run_did(made):
    with np.load(made / "a/Net/predictions.npz") as stored:
        predictions = stored["predictions"]
    files = sorted((made / "pets/test").glob("*/*"), key=lambda path: path.relative_to(made / "pets").as_posix())
    for kind in ("pixels.onnx", "onnx"):
        predictor = Predictor(made / f"a/export/Net.{kind}")
        assert [predictor.read(path).index for path in files] == predictions.tolist()


def test_it_is_proved_again_from_its_own_files_and_from_the_run(made, exported):
    assert command.main(["--verify", str(exported), MODEL, f"--data={made / 'pets'}"]) == 0
    assert command.main(["--verify", str(exported), str(made / "a"), MODEL]) == 0


def test_nothing_is_imported_unless_it_is_typed(made, exported, capsys):
    for arguments in ((made / "a",), (made / "a/Net/last.pt",), ("--verify", exported)):
        line = refused(capsys, *arguments)
        assert "add --model mine:Net, because no file of a run chooses what is imported" in line
    assert "holds mine:Net, not mine:Cnn" in refused(capsys, made / "a", "--model=mine:Cnn")


def swap_classes(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "dataset":
            facts = json.loads(entry.value)
            facts["class_names"] = facts["class_names"][::-1]
            entry.value = json.dumps(facts, sort_keys=True)


def bake_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_mean(model: onnx.ModelProto) -> None:
    (mean,) = [tensor for tensor in model.graph.initializer if tensor.name == "pixel_mean"]
    values = onnx.numpy_helper.to_array(mean) + np.float32(0.01)
    mean.CopyFrom(onnx.numpy_helper.from_array(values, mean.name))


def swap_channels(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in ("pixel_mean", "pixel_std"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))


def last_bit(model: onnx.ModelProto) -> None:
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "layers.5.weight"]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.view(np.int32)[0, 0] ^= 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


FAULTS = {
    "class names": (swap_classes, "Net.pixels.onnx: its metadata"),
    "batch": (bake_batch, "Net.pixels.onnx: "),
    "mean": (other_mean, "Net.pixels.onnx: test images, level off"),
    "order of the channels": (swap_channels, "Net.pixels.onnx: test images, level off"),
    "last bit": (last_bit, "Net.pixels.onnx: layers.5.weight is not what was trained, bit for bit"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_caught_and_named_even_with_a_manifest_that_matches(what, made, exported, capsys):
    spoil, told = FAULTS[what]
    path = exported / "Net.pixels.onnx"
    model = onnx.load(path)
    spoil(model)
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((exported / "parity.json").read_text())
    (exported / "parity.json").write_bytes(folder.sealed(manifest | {"files": folder.digests(exported)}))
    assert command.main(["--verify", str(exported), str(made / "a"), MODEL]) == 3
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Net.onnx", "Net.pixels.onnx", "Net.torchscript.pt"])
def test_a_file_that_was_taken_away_is_missed_even_with_a_manifest_that_matches(name, made, exported, capsys):
    (exported / name).unlink()
    manifest = json.loads((exported / "parity.json").read_text())
    (exported / "parity.json").write_bytes(folder.sealed(manifest | {"files": folder.digests(exported)}))
    assert command.main(["--verify", str(exported), str(made / "a"), MODEL]) == 3
    assert f"{name}: cannot be read" in capsys.readouterr().err
