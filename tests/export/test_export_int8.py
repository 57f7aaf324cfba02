"""`python -m distmnist.export --int8`: what is shipped decides as the net does; the rest is left out or caught."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from distmnist.checkpoint import source
from distmnist.data import known
from export import __main__ as command
from export import folder, parity, predict
from export.formats import int8

pytest_plugins = ["export_fixtures"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_batch_size() -> Iterator[None]:
    """The float32 files are proved elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BATCHES", (256,))
        yield


@pytest.fixture(scope="module")
def quantised(one_batch_size: None, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "out"
    assert command.main([str(trained_run / "cnn"), "--output", str(out), "--int8"]) == 0
    return out


def ruin(content: bytes) -> bytes:
    """One layer's scales are three times what they should be, in every other channel."""
    model = onnx.load_from_string(content)
    tensor = next(t for t in model.graph.initializer if t.name == "fc1.weight_scale")
    scales = numpy_helper.to_array(tensor).copy()
    scales[::2] *= 3
    tensor.CopyFrom(numpy_helper.from_array(scales, tensor.name))
    return model.SerializeToString(deterministic=True)


def test_the_figures_are_true(trained_run: Path, quantised: Path) -> None:
    """Counted again here, by ONNX Runtime's defaults and the net itself."""
    test, net = known.load_sample().test, source.load(trained_run / "cnn")[0][0].net
    images = test.normalised(test.images)
    session = onnxruntime.InferenceSession(quantised / "cnn.int8.onnx")
    labels = session.run(["logits"], {"input": images.numpy()})[0].argmax(1)
    agree = int((labels == net(images).argmax(1).numpy()).sum())
    accuracy = float((labels == test.labels.numpy()).mean())
    report = json.loads((quantised / "parity.json").read_bytes())["models"]["cnn"]["int8"]
    said = json.loads(session.get_modelmeta().custom_metadata_map["quantization"])
    assert report["labels_agree"] == said["labels_agree"] == agree >= 998
    assert report["test_accuracy"] == said["test_accuracy"] == accuracy


def test_it_is_int8_per_channel_and_otherwise_as_the_float_file(quantised: Path) -> None:
    there, plain = (onnx.load(quantised / name) for name in ("cnn.int8.onnx", "cnn.onnx"))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in there.graph.initializer}
    channels = numpy_helper.to_array(next(t for t in plain.graph.initializer if t.name == "fc1.bias")).size
    assert weights["fc1.weight_quantized"].dtype == np.int8
    assert weights["fc1.weight_scale"].shape == (channels,)
    props = {entry.key: entry.value for entry in there.metadata_props}
    assert props.pop("quantization")
    assert props == {entry.key: entry.value for entry in plain.metadata_props}
    assert (there.ir_version, there.opset_import) == (plain.ir_version, plain.opset_import)
    assert (there.graph.input, there.graph.output) == (plain.graph.input, plain.graph.output)
    assert (quantised / "cnn.int8.onnx").stat().st_size < (quantised / "cnn.onnx").stat().st_size / 3


def test_predict_reads_it(quantised: Path) -> None:
    test = known.load_sample().test
    said = predict.Predictor(quantised / "cnn.int8.onnx").predict(test.images.squeeze(1).numpy()).argmax(1)
    assert (said == test.labels.numpy()).mean() > 0.8


def test_verify_proves_what_nobody_touched(quantised: Path, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--verify", str(quantised)]) == 0
    assert "cnn.int8.onnx: " in capsys.readouterr().out


def test_the_same_bytes_from_another_process_in_another_place_and_nothing_is_left_or_said(
    trained_run: Path, quantised: Path, tmp_path: Path
) -> None:
    for name in ("distmnist", "export"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(trained_run / "cnn" / "last.pt", tmp_path)
    (tmp_path / "scratch").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch"), "PYTHONHASHSEED": "7"}
    environment.pop("PYTHONPATH", None)
    script = "from export import __main__ as command, parity; parity.BATCHES = (256,); command.command()"
    arguments = [sys.executable, "-c", script, "last.pt", "--output", "out", "--int8"]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    for name in ("cnn.onnx", "cnn.pixels.onnx", "cnn.int8.onnx"):
        content = (tmp_path / "out" / name).read_bytes()
        assert content == (quantised / name).read_bytes()
        assert not any(path in content for path in (str(ROOT).encode(), str(tmp_path).encode(), b"site-packages"))
    # ONNX Runtime's own session note apart, which it writes whatever it is asked
    assert [path.name for path in (tmp_path / "scratch").iterdir() if path.name != ".ses"] == []
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 4
    assert sum("cnn.int8.onnx: " in line for line in done.stdout.splitlines()) == 1


def test_what_fails_the_gate_is_left_out_and_the_export_is_whole(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    good = int8.quantise
    monkeypatch.setattr(int8, "quantise", lambda *given: ruin(good(*given)))
    out = tmp_path / "out"
    assert command.main([str(trained_run / "cnn"), "--output", str(out), "--int8"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: cnn.int8.onnx is left out: ")
    assert not (out / "cnn.int8.onnx").exists()
    assert (out / "cnn.onnx").exists()
    assert line.endswith(json.loads((out / "parity.json").read_bytes())["without"]["cnn.int8.onnx"])
    monkeypatch.undo()
    assert command.main(["--verify", str(out)]) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "cnn.int8.onnx").write_bytes(ruin((out / "cnn.int8.onnx").read_bytes())), "agree"),
        (lambda out: shutil.copy(out / "cnn.onnx", out / "cnn.int8.onnx"), "metadata"),
        (lambda out: (out / "cnn.int8.onnx").unlink(), "cannot be used"),
    ],
)
def test_verify_is_not_deceived_by_a_manifest_made_to_fit(spoil, message: str, quantised, tmp_path, capsys) -> None:
    out = Path(shutil.copytree(quantised, tmp_path / "out"))
    spoil(out)
    assert command.main(["--verify", str(out)]) == 3
    assert "cnn.int8.onnx" in capsys.readouterr().err  # the digest, or that it is missing
    report = json.loads((out / "parity.json").read_bytes())
    (out / "parity.json").write_bytes(folder.sealed(report | {"files": folder.digests(out)}))
    assert command.main(["--verify", str(out)]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert any(line.startswith("FAILED cnn.int8.onnx: ") and message in line for line in errors), errors
