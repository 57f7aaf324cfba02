"""evaluate: the figures of summary.json for the images of the training, and the same figures for others.

No file chooses what is imported.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from one_run import figures
from onnx import TensorProto, helper
from own_images import own_images
from pictures import CLASSES, arrays, fill, photos

from distmnist import train
from distmnist.checkpoint import storage
from distmnist.data.dataset import DatasetFacts
from distmnist.evaluate.__main__ import main
from distmnist.evaluate.figures import lines
from distmnist.training.evaluation import Evaluation

pytest_plugins = ["own_models"]

SMALL = ("--epochs=2", "--batch-size=12", "--amp=off", "--threads=1", "--data=pets", "--image-size=9x11")


@pytest.fixture
def evaluate(mine, capsys):
    """A run of mlp, cnn and mine:Net in a; then the command. Returns exit code, output, lines of errors."""
    photos(Path("pets"), train=8, test=4)
    assert train.main([*SMALL, "--model=mlp,cnn,mine:Net", "--model-args=width=5", "--output=a"]) == 0
    capsys.readouterr()

    def run(*arguments):
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


def refused(answer) -> str:
    code, out, err = answer
    assert (code, out, len(err)) == (2, "", 1), answer
    return err[0]


def found(answer) -> dict:
    code, out, _ = answer
    assert code == 0, answer
    return json.loads(out, parse_constant=lambda name: pytest.fail(name))


KEYS = ("test_accuracy", "test_loss", "correct", "count", "per_class_accuracy", "balanced_accuracy")
KEYS += ("precision", "recall", "f1", "confusion")


def test_a_run_and_its_checkpoints_have_the_figures_of_summary_json(evaluate):
    said = found(evaluate("a", "--model=mine:Net", "--json"))
    assert said["dataset"] == json.loads(Path("a/summary.json").read_text())["dataset"]
    assert [*said["models"]] == ["mlp", "cnn", "Net"]
    for name, told in said["models"].items():
        assert told == {key: figures("a", name)[key] for key in KEYS}
        typed = ["--model=mine:Net"] if name == "Net" else []
        assert found(evaluate(f"a/{name}/last.pt", *typed, "--json"))["models"] == {name: told}
    code, out, err = evaluate("a", "--model=mine:Net")
    assert (code, err) == (0, []) and re.search(r"^model +accuracy +balanced accuracy +loss +images$", out, re.M)
    assert all(re.search(rf"^{name} +\d+\.\d\d% +\d+\.\d\d% +\d\.\d+ +12$", out, re.M) for name in said["models"])
    assert out.startswith("evaluating the 12 test images of pets, on which training was tested\n")


def test_a_custom_model_is_imported_only_if_it_is_typed(evaluate):
    Path("mine.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n" + Path("mine.py").read_text())
    sys.modules.pop("mine")
    assert "add --model mine:Net" in refused(evaluate("a/Net"))
    assert "holds mine:Net, not mine:plain" in refused(evaluate("a/Net", "--model=mine:plain"))
    assert "holds mlp, not mine:Net" in refused(evaluate("a/mlp", "--model=mine:Net"))
    code, out, err = evaluate("a")
    assert code == 0 and re.search("left out: .*add --model mine:Net", err[0]) and "Net" not in out
    assert not Path("sprung").exists()
    assert "the weights do not fit" in refused(evaluate("a/Net", "--model=mine:Net", "--model-args=width=6"))
    assert Path("sprung").exists()


def test_a_checkpoint_that_names_a_function_of_the_system_imports_nothing(evaluate, monkeypatch):
    checkpoint = torch.load("a/Net/last.pt", weights_only=True)
    checkpoint["config"] |= {"model": "os:system", "model_args": "command='touch sprung'"}
    target, body = Path("hostile.pt"), Path("body.pt")
    torch.save(checkpoint, body)
    target.write_bytes(body.read_bytes() + storage.MAGIC + hashlib.sha256(body.read_bytes()).digest())
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imports {name}"))
    assert "add --model os:system" in refused(evaluate("hostile.pt"))
    assert "holds os:system, not mine:Net" in refused(evaluate("hostile.pt", "--model=mine:Net"))
    assert not Path("sprung").exists()


def test_other_images_are_prepared_as_in_training_and_matched_by_class_name(evaluate):
    fill(Path("some"), 5, classes=("cat", "dog"), first=50, size=(30, 20))
    assert "does not know the class dog" in refused(evaluate("a/mlp", "--data=some"))
    (Path("some") / "dog").rename("some/bee")
    code, out, err = evaluate("a/mlp", "--data=some")
    assert (code, err) == (0, []) and out.startswith("evaluating all 10 images of some\n")
    assert re.search(r"^ant +0 +- +- +-$", out, re.M)
    said = found(evaluate("a/mlp", "--data=some", "--json"))
    trained = json.loads(Path("a/summary.json").read_text())["dataset"]
    same = ("shape", "class_names", "mean", "std", "preparation")
    assert [said["dataset"][key] for key in same] == [trained[key] for key in same]
    assert (said["dataset"]["train"], said["dataset"]["class_counts"]["test"]) == (0, [0, 5, 5])
    told = said["models"]["mlp"]
    assert [sum(row) for row in told["confusion"]] == [0, 5, 5]
    assert told["balanced_accuracy"] == pytest.approx(sum(told["recall"][1:]) / 2)


def test_the_test_split_is_evaluated_and_without_one_all_images(evaluate):
    whole = figures("a")
    assert found(evaluate("a/mlp", "--data=pets", "--json"))["models"]["mlp"] == {key: whole[key] for key in KEYS}
    assert found(evaluate("a/mlp", "--data=pets/test", "--json"))["models"]["mlp"] == {key: whole[key] for key in KEYS}
    assert "all 24 images" in evaluate("a/mlp", "--data=pets/train")[1]
    Path("pets/test").rename("pets/val")
    assert "the 12 validation images" in evaluate("a/mlp", "--data=pets")[1]
    rows = [f"{path},{path.parent.name}" for path in Path("pets/val").rglob("*.png")]
    Path("list.csv").write_text("\n".join(["path,label", *rows]))
    assert found(evaluate("a/mlp", "--data=list.csv", "--json"))["models"]["mlp"] == {key: whole[key] for key in KEYS}


def test_arrays_and_functions_need_test_images_alone_of_the_models_shape(mine, capsys):
    whole = arrays(8, 4)
    np.savez("pets.npz", **whole)
    options = ["--epochs=1", "--amp=off", "--threads=1", "--batch-size=12", "--data=pets.npz", "--model=mlp"]
    assert train.main([*options, "--output=a"]) == 0
    capsys.readouterr()
    order = [2, 0, 1]  # another order of the classes, and one more
    names = np.array([CLASSES[place] for place in order] + ["dog"])
    labels = np.array([order.index(label) for label in whole["test_labels"]])
    np.savez("other.npz", x_test=whole["test_images"], y_test=labels, class_names=names)
    expected = {key: figures("a")[key] for key in KEYS}
    for data in ("pets.npz", "other.npz"):
        assert main(["a", f"--data={data}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["models"]["mlp"] == expected
    Path("given.py").write_text("import numpy\ndef images():\n    return dict(numpy.load('other.npz'))\n")
    assert main(["a", "--data=given:images", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["mlp"] == expected
    sys.modules.pop("given")
    photos(Path("files"), train=1, test=4)  # of the model's size: nothing is resampled
    assert main(["a", "--data=files", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["mlp"] == expected
    wrong = {
        "grey": ({"x_test": whole["test_images"][..., 0], "y_test": labels, "class_names": names}, "1 x 12 x 16"),
        "nameless": ({"x_test": whole["test_images"], "y_test": labels}, "does not know the class 0, 1, 2"),
        "few": ({"x_test": whole["test_images"], "y_test": labels, "class_names": names[:2]}, "class_names has 2"),
        "train": ({"x_train": whole["test_images"], "y_train": labels}, "x_test or test_images"),
    }
    for name, (content, told) in wrong.items():
        np.savez(f"{name}.npz", **content)
        code = main(["a", f"--data={name}.npz"])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "") and err.count("\n") == 1 and told in err, err


def test_what_cannot_be_used_is_one_line(evaluate):
    Path("text.pt").write_text("words")
    Path("zip.pt").write_bytes(b"PK\x03\x04")
    Path("half.onnx").write_bytes(b"\x08\x0a\x3a")
    (Path("none") / "ant").mkdir(parents=True)
    (Path("bad") / "ant").mkdir(parents=True)
    (Path("bad") / "ant" / "1.png").write_text("no image")
    for arguments, told in {
        ("absent",): "absent does not exist",
        ("text.pt",): "neither a checkpoint nor an ONNX file",
        ("zip.pt",): "damaged or no checkpoint",
        ("half.onnx",): "half.onnx is no whole ONNX file",
        ("a/mlp", "--data=none"): "no labelled images",
        ("a/mlp", "--data=bad"): "1 of 1 image files cannot be used",
        ("a/mlp", "--data=nowhere"): "nowhere does not exist",
        ("a/mlp", "--data=text.pt"): "is neither a folder nor",
        ("a/mlp", "--data=sample"): "1 x 28 x 28",
        ("a/mlp", "--data=nowhere:images"): "no module nowhere",
        ("a/mlp", "--image-size=3"): "unrecognized arguments",
        ("a/mlp", "--model=mlp"): "only a custom model",
        ("a/mlp", "--model-args=a=1"): "add --model",
    }.items():
        line = refused(evaluate(*arguments))
        assert told in line and "skip" not in line, line


def test_images_that_are_gone_or_changed_are_not_replaced(evaluate):
    shutil.copy("pets/test/ant/10000.png", "pets/test/bee/more.png")
    assert "the evaluation needs its test images" in refused(evaluate("a/mlp"))
    shutil.rmtree("pets")
    assert "pets does not exist" in refused(evaluate("a/mlp"))


def exported(path: Path, facts: DatasetFacts, kind: str, *, metadata: dict | None = None) -> torch.nn.Linear:
    """A linear model, written as the exporter names inputs, outputs and metadata."""
    (channels, height, width), classes = facts.shape, len(facts.class_names)
    torch.manual_seed(0)
    model = torch.nn.Linear(channels * height * width, classes)
    constants = [onnx.numpy_helper.from_array(model.weight.detach().numpy(), "w")]
    constants.append(onnx.numpy_helper.from_array(model.bias.detach().numpy(), "b"))
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *facts.shape])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])]
    if kind == "pixels":
        size = [height, width] if channels == 1 else [height, width, channels]
        inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *size])]
        outputs = [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ]
        shape = (1, channels, 1, 1)
        for name, values in {"mean": facts.mean, "std": facts.std, "most": (255.0,) * channels}.items():
            constants.append(onnx.numpy_helper.from_array(np.array(values, np.float32).reshape(shape), name))
        constants.append(onnx.numpy_helper.from_array(np.array([0, channels, height, width]), "shape"))
        moved = helper.make_node("Transpose", ["pixels"], ["moved"], perm=[0, 3, 1, 2])
        first = [moved] if channels > 1 else [helper.make_node("Reshape", ["pixels", "shape"], ["moved"])]
        first.append(helper.make_node("Cast", ["moved"], ["cast"], to=TensorProto.FLOAT))
        first.append(helper.make_node("Div", ["cast", "most"], ["scaled"]))
        first.append(helper.make_node("Sub", ["scaled", "mean"], ["centred"]))
        first.append(helper.make_node("Div", ["centred", "std"], ["input"]))
        last = [helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)]
        last.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
        nodes = [*first, *nodes, *last]
    graph = helper.make_graph(nodes, "distmnist", inputs, outputs, constants)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    said = {"model": "line", "dataset": json.dumps(facts.to_json())} if metadata is None else metadata
    helper.set_model_props(file, said)
    path.write_bytes(file.SerializeToString())
    return model


@pytest.mark.parametrize("kind", ["logits", "pixels"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_onnx_file_has_the_figures_of_its_model_within_rounding(mine, capsys, kind, channels):
    dataset = own_images(("ant", "bee", "cat"), (channels, 6, 5), tests=(4, 0, 30))
    facts = dataset.describe()
    model = exported(Path("line.onnx"), facts, kind)
    images = dataset.test.images.movedim(1, 3).numpy()
    np.savez("garden.npz", x_test=images, y_test=dataset.test.labels, class_names=np.array(facts.class_names))
    assert main(["line.onnx", "--data=garden.npz", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["models"]["line"]
    normalised, labels = dataset.test.batch(torch.arange(len(dataset.test)))
    with torch.no_grad():
        logits = model(normalised.flatten(1))
    assert told["correct"] == int((logits.argmax(1) == labels).sum()) and told["count"] == 34
    assert told["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-5)


def test_an_onnx_file_of_a_stranger_is_checked_before_it_is_loaded(mine, capsys):
    facts = own_images(("ant", "bee"), (1, 6, 5)).describe()
    said = {"dataset": json.dumps(facts.to_json())}
    wrong = {
        "no metadata": ({}, "does not say what it was trained on"),
        "no data set": ({"dataset": "[]"}, "does not say what it was trained on"),
        "other classes": (
            {"dataset": said["dataset"].replace('["ant", "bee"]', '["ant"]')},
            "other inputs and outputs",
        ),
        "no deviation": ({"dataset": said["dataset"].replace("0.25", "0")}, "a data set that cannot be"),
    }
    for metadata, told in wrong.values():
        exported(Path("line.onnx"), facts, "logits", metadata=metadata)
        assert main(["line.onnx", "--data=x.npz"]) == 2
        assert told in capsys.readouterr().err
    exported(Path("line.onnx"), facts, "logits")
    content = Path("line.onnx").read_bytes()
    Path("line.onnx").write_bytes(content.replace(b"Flatten", b"Unknown"))
    assert main(["line.onnx", "--data=x.npz"]) == 2 and "the operator Unknown" in capsys.readouterr().err
    Path("line.onnx").write_bytes(content)
    assert main(["line.onnx", "--model=os:system"]) == 2 and "leave it out" in capsys.readouterr().err


def test_many_classes_are_cut_to_the_worst(mine):
    labels = torch.arange(40).repeat(3)
    predictions = labels.clone()
    predictions[7] = 8
    table = lines({"mlp": Evaluation(predictions, torch.zeros(120), labels, 41)}, [f"c{place}" for place in range(41)])
    rows = [line.split()[0] for line in table[4:34]]
    assert rows[0] == "c7" and table[34] == "... 11 more"
    assert table[36].split() == ["c7", "c8", "1", "33.33%"]
