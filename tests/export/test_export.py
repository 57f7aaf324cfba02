"""`python -m distmnist.export`: the formats, what is inside them, and what becomes of bad input."""

import dataclasses
import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from digits import put
from onnx import numpy_helper
from torch import nn

from benchmarks.damage import made_up
from distmnist.checkpoint import source, storage
from distmnist.checkpoint.record import ModelResult
from distmnist.data import known
from distmnist.data.dataset import MNIST_MEAN, MNIST_STD, DatasetFacts, normalise
from distmnist.models import build
from export import __main__ as command
from export import predict, provenance
from export.formats import torchscript
from export.opsets import OPSETS

pytest_plugins = ["export_fixtures"]
pytestmark = pytest.mark.usefixtures("few_batches")  # all of them: test_export_parity.py
ROOT = Path(__file__).resolve().parents[2]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def net_of(run: Path, name: str) -> source.Trained:
    return source.load(run / name / "last.pt")[0][0]


def test_an_export_holds_the_promised_files(exported: Path) -> None:
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    per_net = ("{}.onnx", "{}.pixels.onnx", "{}.safetensors", "{}.torchscript.pt")
    per_net += ("{}/test_data_set_0/input_0.pb", "{}/test_data_set_0/output_0.pb")
    modules = {f"predict/{path.name}" for path in (ROOT / "export/predict").glob("*.py")} | {"predict/prepare.py"}
    assert {"predict/__init__.py", "predict/__main__.py"} < modules
    files = {name for name in files if "__pycache__" not in name}
    assert files == modules | {name.format(net) for name in per_net for net in ("mlp", "cnn")} | {
        "parity.json",
        "predict.py",
        "labels.txt",
        "requirements.txt",
    }
    assert len(lines((exported / "requirements.txt").read_text())) == 3


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_onnx_answers_as_the_net_for_any_batch(trained_run: Path, exported: Path, net: str) -> None:
    trained, images = net_of(trained_run, net), known.load_sample().test.batch(torch.arange(65))[0]
    session = onnxruntime.InferenceSession(exported / f"{net}.onnx")
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("input", ["batch", 1, 28, 28], "tensor(float)")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 10])]
    for count in (1, 3, 65):
        (logits,) = session.run(None, {"input": images[:count].numpy()})
        np.testing.assert_allclose(logits, trained.net(images[:count]).numpy(), rtol=0, atol=1e-4)


def test_pixels_go_in_raw_and_a_decision_comes_out(trained_run: Path, exported: Path) -> None:
    trained, pixels = net_of(trained_run, "cnn"), known.load_sample().test.images[:65, 0]
    session = onnxruntime.InferenceSession(exported / "cnn.pixels.onnx")
    probabilities, label = session.run(["probabilities", "label"], {"pixels": pixels.numpy()})
    expected = trained.net(normalise(pixels[:, None], MNIST_MEAN[0], MNIST_STD[0])).softmax(1)
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=0, atol=1e-5)
    assert label.dtype == np.int64
    assert (label == expected.argmax(1).numpy()).all()


def test_torchscript_needs_torch_alone(trained_run: Path, exported: Path, tmp_path: Path) -> None:
    images = known.load_sample().test.batch(torch.arange(7))[0]
    torch.save(images, tmp_path / "images.pt")
    program = (
        "import sys, torch; m = torch.jit.load(sys.argv[1]); x = torch.load(sys.argv[2]);"
        "torch.save(m(x), sys.argv[2]); assert not {'distmnist', 'export'} & set(sys.modules)"
    )
    arguments = [str(exported / "cnn.torchscript.pt"), str(tmp_path / "images.pt")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, cwd=tmp_path)
    expected = net_of(trained_run, "cnn").net(images)
    torch.testing.assert_close(torch.load(tmp_path / "images.pt"), expected, rtol=0, atol=1e-4)


def test_torchscript_is_left_out_with_a_clear_line_where_torch_refuses_it(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torchscript.sys, "version_info", (3, 14, 0))
    assert command.main([str(trained_run / "mlp" / "last.pt"), "--output", str(tmp_path / "out")]) == 0
    monkeypatch.undo()
    assert "no TorchScript: torch does not support TorchScript on Python 3.14" in capsys.readouterr().err
    assert not (tmp_path / "out" / "mlp.torchscript.pt").exists()
    assert command.main(["--verify", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_the_opset_asked_for_is_the_opset_in_the_file(trained_run: Path, tmp_path: Path, opset: int) -> None:
    out = tmp_path / "out"
    assert command.main([str(trained_run / "mlp" / "last.pt"), "--output", str(out), "--opset", str(opset)]) == 0
    for name in ("mlp.onnx", "mlp.pixels.onnx"):
        model = onnx.load(out / name)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
        assert not [tensor for tensor in model.graph.initializer if tensor.data_location]


@pytest.mark.parametrize("opset", ["17", "26"])
def test_an_opset_out_of_range_is_refused(trained_run: Path, opset: str, capsys: pytest.CaptureFixture) -> None:
    assert command.main([str(trained_run), "--opset", opset]) == 2
    assert lines(capsys.readouterr().err) == [f"distmnist: --opset {opset} must be 18 to 25"]


def test_predict_reads_the_opsets_that_are_written() -> None:
    assert predict.OPSETS == OPSETS


def test_no_file_names_a_path_of_this_machine(exported: Path) -> None:
    for path in exported.glob("mlp*"):
        if path.is_file():
            assert str(ROOT).encode() not in path.read_bytes()
            assert b"site-packages" not in path.read_bytes()


def test_provenance_travels_in_the_file(trained_run: Path, exported: Path) -> None:
    checkpoint = storage.load(trained_run / "cnn" / "last.pt")
    said = {entry.key: entry.value for entry in onnx.load(exported / "cnn.onnx").metadata_props}
    assert said["weights_sha256"] == storage.weights_sha256(checkpoint.model)
    assert float(said["test_accuracy"]) == checkpoint.result.test_accuracy
    assert json.loads(said["training_options"]) == checkpoint.config
    assert json.loads(said["dataset"])["name"] == "mnist-sample"
    assert (said["model"], float(said["mean"]), float(said["std"])) == ("cnn", 0.1307, 0.3081)
    assert said.keys().isdisjoint({"trained_at", "trained_with"})  # this checkpoint does not say


def test_when_and_with_what_a_run_was_trained_travels_too(trained_run: Path, tmp_path: Path) -> None:
    checkpoint = storage.load(trained_run / "mlp" / "last.pt")
    noted = {"written": "2030-01-02T03:04:05Z", "versions": {"torch": "2.6.0", "python": "3.11.7"}}
    storage.save(tmp_path, dataclasses.replace(checkpoint, **noted))
    said = provenance.describe(source.load(tmp_path)[0][0], 18)
    assert said["trained_at"] == noted["written"]
    assert json.loads(said["trained_with"]) == noted["versions"]


def test_the_weights_in_every_file_are_the_checkpoints_bit_for_bit(trained_run: Path, exported: Path) -> None:
    for net in ("mlp", "cnn"):
        state = storage.load(trained_run / net / "last.pt").model
        for name in (f"{net}.onnx", f"{net}.pixels.onnx"):
            there = {t.name: numpy_helper.to_array(t) for t in onnx.load(exported / name).graph.initializer}
            assert all(there[key].tobytes() == tensor.numpy().tobytes() for key, tensor in state.items())
        module = torchscript.load((exported / f"{net}.torchscript.pt").read_bytes())
        assert torchscript.wrong_weights(module, state) == []
        first = next(iter(state))
        bent = {**state, first: torch.nextafter(state[first], torch.tensor(9.0))}
        assert torchscript.wrong_weights(module, bent) == [first]


def test_the_zoos_sample_is_what_the_file_answers(exported: Path) -> None:
    folder = exported / "cnn" / "test_data_set_0"
    given, expected = (numpy_helper.to_array(onnx.load_tensor(folder / f"{n}_0.pb")) for n in ("input", "output"))
    (logits,) = onnxruntime.InferenceSession(exported / "cnn.onnx").run(None, {"input": given})
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


class Normed(nn.Module):
    """Somebody's own net, with batch normalisation: state that is no parameter, and that optimizers fold away."""

    def __init__(self, activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 13 * 13, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(images))).flatten(1))


def test_a_third_net_is_exported_without_a_change_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.MODELS, "normed", Normed)
    net = build.build_model("normed")
    net(torch.randn(64, 1, 28, 28))  # moves the running statistics
    save_checkpoint(tmp_path / "normed.pt", "normed", net)
    assert command.main([str(tmp_path / "normed.pt")]) == 0
    operators = [node.op_type for node in onnx.load(tmp_path / "export" / "normed.onnx").graph.node]
    assert "BatchNormalization" in operators
    assert command.main(["--verify", str(tmp_path / "export")]) == 0


def save_checkpoint(path: Path, name: str, net: nn.Module, **other) -> None:
    own = {
        "model": net.state_dict(),
        "config": {"model": name, "activation": "relu", "dropout": 0.0},
        "dataset": known.load_sample().describe(),
    }
    path.write_bytes(storage.to_bytes(dataclasses.replace(made_up(1), **own | other)))


def test_an_unfinished_net_is_exported_and_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_checkpoint(
        tmp_path / "last.pt",
        "mlp",
        build.build_model("mlp", activation="gelu"),
        config={"model": "mlp", "activation": "gelu", "dropout": 0.5},
    )
    assert command.main([str(tmp_path / "last.pt")]) == 0
    assert "mlp is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a run's directory or a checkpoint"),
        (["--verify", "x", "--opset", "18"], "--verify writes nothing"),
        (["nowhere"], "nowhere does not exist"),
        (["nowhere", "--model", "cnn"], "only a custom model, package.module:callable, must be named"),
        (["nowhere", "--model-args", "a=1"], "--model-args is for a custom model"),
        (["--verify", "nowhere"], "nowhere is no exported folder"),
        (["--nonsense"], "--help lists the options"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("distmnist: ")
    assert message in line


def test_a_directory_that_is_no_export_is_never_replaced(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert command.main([str(trained_run), "--output", str(tmp_path)]) == 2
    assert "holds other files than an export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("part", ["mlp/last.pt", "mlp", "."])
def test_the_data_of_a_run_are_found_from_any_directory_and_nothing_is_left_there(
    part: str, tmp_path: Path, mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("DISTMNIST_DATA", raising=False)
    run, digits = tmp_path / "run", put(tmp_path / "digits", mnist)
    (run / "mlp").mkdir(parents=True)
    save_checkpoint(run / "mlp/last.pt", "mlp", build.build_model("mlp"), dataset=DatasetFacts("mnist", 30, 20))
    (run / "config.json").write_text(json.dumps({"given": {"data_dir": str(digits)}, "options": {}}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command.main([str(run / part), "--output", str(tmp_path / "out")]) == 0
    assert command.main(["--verify", str(tmp_path / "out"), str(run / part)]) == 0
    assert command.main(["--verify", str(tmp_path / "out")]) == 2  # which of a run that is not named cannot be known
    assert "no mnist in data: the proof needs its test images" in capsys.readouterr().err
    assert list(Path(".").iterdir()) == []


@pytest.mark.parametrize("output", [".", "../out"])
def test_an_export_to_the_current_directory_leaves_it_the_same_directory(
    output: str, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    inode = Path(".").stat().st_ino
    assert command.main([str(trained_run / "mlp"), "--output", output]) == 0
    assert command.main(["--verify", "."]) == 0
    assert (tmp_path / "out").stat().st_ino == inode == Path(".").stat().st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_the_digits_of_the_run_there_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTMNIST_DATA", raising=False)
    of = DatasetFacts("mnist", 60_000, 10_000)
    save_checkpoint(tmp_path / "last.pt", "mlp", build.build_model("mlp"), dataset=of)
    assert command.main([str(tmp_path / "last.pt")]) == 2
    assert "no mnist in data: the proof needs its test images" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_no_code_in_a_snapshot_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trap = tmp_path / "sprung"
    save_checkpoint(tmp_path / "evil.pt", "mlp", build.build_model("mlp"), config=Payload(trap))
    with zipfile.ZipFile(tmp_path / "evil.pt") as archive:  # the payload does go off where pickle is trusted
        name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
        assert b"touch" in archive.read(name)
    assert command.main([str(tmp_path / "evil.pt")]) == 2
    assert len(lines(capsys.readouterr().err)) == 1
    assert not trap.exists()


def fit_result() -> ModelResult:
    """Of a fit of no step."""
    figures = {field.name: 0 for field in dataclasses.fields(ModelResult) if field.default is dataclasses.MISSING}
    return ModelResult(**figures | {"per_class_accuracy": [], "confusion": [], "weights_sha256": ""})


def bomb(path: Path) -> None:
    """A thousand bytes that unpack to a million."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**20))


def larger_than_its_model(path: Path) -> None:
    state = build.build_model("mlp").state_dict() | {"more": torch.zeros(source.SLACK // 4 + 2**20)}
    save_checkpoint(path, "mlp", build.build_model("mlp"), model=state)


def sparse(path: Path) -> None:
    """No archive, and as large as the disk allows without taking room on it."""
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "damaged or no checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps({"model": 1})), "damaged or no checkpoint"),
        (lambda path: save_checkpoint(path, "mlp", nn.Identity()), "the weights do not fit"),
        (lambda path: save_checkpoint(path, "vgg", build.build_model("mlp")), "distmnist.models has mlp, cnn"),
        (lambda path: save_checkpoint(path, "cnn", build.build_model("mlp")), "the weights do not fit"),
        (
            lambda path: save_checkpoint(path, "mlp", build.build_model("mlp"), config=[1]),
            "no checkpoint of distmnist",
        ),
        (lambda path: save_checkpoint(path, "mlp", broken_net()), "fc1.bias is not finite"),
        (
            lambda path: save_checkpoint(
                path,
                "mlp",
                build.build_model("mlp"),
                result=dataclasses.replace(fit_result(), weights_sha256="0" * 64),
            ),
            "contradicts itself",
        ),
        (
            lambda path: save_checkpoint(
                path, "mlp", build.build_model("mlp"), config={"model": "mlp", "activation": "boolean_dispatch"}
            ),
            "which no net has",
        ),
        (bomb, "would grow when it is read"),
        (larger_than_its_model, "too large for a checkpoint"),
        (sparse, "too large for a checkpoint"),
    ],
)
def test_a_hostile_checkpoint_is_one_line_and_2(spoil, message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(source, "SLACK", 2**20)  # so that a large file is soon made
    path = tmp_path / "checkpoint.pt"
    spoil(path)
    assert command.main([str(path)]) == 2
    (line,) = lines(capsys.readouterr().err)
    assert message in line
    assert not (tmp_path / "export").exists()


def broken_net() -> nn.Module:
    net = build.build_model("mlp")
    nn.init.constant_(net.fc1.bias, float("nan"))
    return net


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from export.__main__ import main\ntry: main(['--help'])\n"
        "except SystemExit: pass\nassert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True)
    assert re.search(r"--verify DIR", done.stdout)
