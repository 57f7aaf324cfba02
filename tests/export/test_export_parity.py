"""The gate and `--verify`: whatever is done to an exported file, something of it is caught."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from digits import few_digits
from onnx import helper, numpy_helper

from benchmarks.damage import made_up
from distmnist.checkpoint import source, storage
from distmnist.checkpoint.source import Trained
from distmnist.data.known import load_sample
from distmnist.models.build import build_model
from export import __main__ as command
from export import bounds, folder, gate, job, parity, provenance, reference
from export.formats import onnx_file, torchscript

pytest_plugins = ["export_fixtures"]


@pytest.fixture(scope="module")
def mlp(trained_run: Path) -> Trained:
    return source.load(trained_run / "mlp")[0][0]


@pytest.fixture(scope="module")
def cases(mlp: Trained) -> list[reference.Case]:
    tested = reference.ask_test_images(mlp, few_digits(test=300).test)
    return [tested, *reference.probes(mlp, tested.bound)]


def read(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def set_weight(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], None]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def last_bit(values: np.ndarray) -> None:
    values.reshape(-1).view(np.uint32)[17] ^= 1


def permute(model: onnx.ModelProto) -> None:
    def change(values: np.ndarray) -> None:
        values[:] = values[::-1].copy()

    set_weight(model, "fc3.weight", change)
    set_weight(model, "fc3.bias", change)


def permute_at_the_end(model: onnx.ModelProto) -> None:
    """The weights stay; the logits are turned round behind them."""
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[0] = "straight"
    order = numpy_helper.from_array(np.arange(9, -1, -1), "order")
    model.graph.initializer.append(order)
    model.graph.node.append(helper.make_node("Gather", ["straight", "order"], ["logits"], axis=1))


def add_nan(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[0] = "whole"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    model.graph.node.append(helper.make_node("Add", ["whole", "nan"], ["logits"]))


def bake_batch(model: onnx.ModelProto) -> None:
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = 1


def change_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def change_metadata(model: onnx.ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "std").value = "0.5"


def wrong_mean(model: onnx.ModelProto) -> None:
    name = next(t.name for t in model.graph.initializer if np.allclose(numpy_helper.to_array(t), 0.1307, atol=1e-6))

    def change(values: np.ndarray) -> None:
        values[...] = 0.13

    set_weight(model, name, change)


TAMPERINGS = [
    ("mlp.onnx", lambda model: set_weight(model, "fc2.weight", last_bit), "fc2.weight is not what was trained"),
    ("mlp.pixels.onnx", lambda model: set_weight(model, "fc1.bias", last_bit), "fc1.bias is not what was trained"),
    ("mlp.onnx", permute, "labels differ|off by"),
    ("mlp.onnx", permute_at_the_end, "off by"),
    ("mlp.onnx", add_nan, "not finite"),
    ("mlp.onnx", bake_batch, "inputs and outputs are"),
    ("mlp.onnx", change_opset, "opset 19, not 18"),
    ("mlp.onnx", change_metadata, "metadata"),
    ("mlp.pixels.onnx", wrong_mean, "off by"),
]


@pytest.mark.parametrize(("name", "tamper", "message"), TAMPERINGS)
def test_the_gate_catches(name: str, tamper, message: str, mlp: Trained, cases, deployed: Path) -> None:
    """Even if the manifest were changed to match: the gate reads the files, not their digests."""
    model = read(deployed / name)
    tamper(model)
    kind = "pixels" if "pixels" in name else "logits"
    _, failures = gate.prove_onnx(model.SerializeToString(), kind, mlp, provenance.describe(mlp, 18), cases)
    assert any(part in failure for part in message.split("|") for failure in failures), failures


def test_the_gate_passes_what_nobody_touched(mlp: Trained, cases, deployed: Path) -> None:
    metadata = provenance.describe(mlp, 18)
    for kind, name in gate.names("mlp").items():
        content = (deployed / name).read_bytes()
        if kind == "torchscript":
            report, failures = gate.prove_torchscript(content, mlp, cases)
        elif kind == "safetensors":
            assert gate.prove_safetensors(content, mlp, metadata)[1] == []
            continue
        else:
            report, failures = gate.prove_onnx(content, kind, mlp, metadata, cases)
        assert failures == []
        levels = 1 if kind == "torchscript" else 3
        suited = [case for case in cases if kind != "pixels" or case.is_pixels]
        assert len(report.runs) == levels * len(parity.BATCHES) * len(suited)
        assert all(run.measured.labels_agree == run.measured.count for run in report.runs if run.case == "digits")


def test_the_gate_catches_a_swapped_net(mlp: Trained, cases, deployed: Path) -> None:
    content = (deployed / "cnn.onnx").read_bytes()
    assert gate.prove_onnx(content, "logits", mlp, provenance.describe(mlp, 18), cases)[1]
    assert gate.prove_torchscript((deployed / "cnn.torchscript.pt").read_bytes(), mlp, cases)[1]


def test_the_gate_catches_torchscript_with_one_bit_changed(mlp: Trained, cases) -> None:
    state = {name: tensor.clone() for name, tensor in mlp.net.state_dict().items()}
    last_bit(state["fc2.weight"].numpy())
    other = source.build("mlp", mlp.options, mlp.dataset, Path("other"))
    source.fill(other, state, Path("other"))
    _, failures = gate.prove_torchscript(torchscript.to_torchscript(other), mlp, cases)
    assert failures == ["fc2.weight is not what was trained, bit for bit"]


def test_a_flipped_label_is_excused_only_where_the_referee_is_undecided(cases) -> None:
    few = cases[0].first(gate.SAMPLE)
    logits, referee = few.logits.copy(), few.referee.copy()
    first, second = np.argsort(-few.referee[3])[:2]
    half = bounds.BOUND / 4
    for values in (logits, referee):
        values[3, second] = values[3, first] = values[3].max()
    logits[3, first] += half
    referee[3, first] += half
    other = logits.copy()
    other[3, second] += 2 * half
    undecided = dataclasses.replace(few, logits=logits, referee=referee)
    measured = parity.measure(undecided, {"logits": other})
    assert (measured.failure, measured.excused, measured.labels_agree) == (None, [3], gate.SAMPLE - 1)

    decided = referee.copy()
    decided[3, first] += 1
    measured = parity.measure(dataclasses.replace(undecided, referee=decided), {"logits": other})
    assert measured.failure == "1 labels differ, digit 3 first"


@pytest.mark.parametrize(
    ("magnitude", "of_probes"), [(0.0, 1e-4), (2.0, 1e-4), (20.0, 1e-4), (40.0, 2e-4), (200_000.0, 1.0)]
)
def test_the_bound_is_fixed_on_digits_and_on_probes_grows_with_what_goes_in_or_comes_out(
    magnitude: float, of_probes: float
) -> None:
    """export/bounds.py derives 1e-4 where the largest magnitude is 20, and half of it for probabilities."""
    for of_test_images, bound in ((True, 1e-4), (False, of_probes)):
        found = bounds.published(magnitude, of_test_images)
        assert found == pytest.approx(bound)
        assert bounds.of_probabilities(found) == pytest.approx(bound / 2 + 16 * 2**-24)


def test_the_bound_of_a_probe_follows_what_goes_in_and_what_comes_out(mlp: Trained, cases) -> None:
    found = {case.name: case for case in cases}
    assert found["noise"].bound == 1e-4 and found["pixels 255"].bound < 1e-3
    large = found["noise x 1e4"]
    assert large.bound > 0.1
    images, logits = np.abs(large.images(slice(None))).max(), np.abs(large.referee).max()
    assert large.bound == pytest.approx(1e-4 * max(images, logits) / 20, rel=1e-3)


def test_an_error_just_over_the_bound_fails(cases) -> None:
    digits = cases[0]
    off = digits.logits.copy()
    off[41, 3] += 1.5e-4
    measured = parity.measure(digits, {"logits": off})
    assert measured.digit == 41
    assert measured.failure.startswith("logits of digit 41 off by 0.00015")
    off[41, 3] -= 1e-4
    assert parity.measure(digits, {"logits": off}).failure is None


def verify(path: Path, *more: str) -> int:
    return command.main(["--verify", str(path), *more])


@pytest.mark.usefixtures("few_batches")
def test_verify_proves_a_folder_that_was_carried_elsewhere(trained_run: Path, deployed_mlp: Path, capsys) -> None:
    assert verify(deployed_mlp) == 0
    assert verify(deployed_mlp, str(trained_run / "mlp")) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 2 * 8


EXPORTED = [
    "mlp.onnx",
    "cnn.pixels.onnx",
    "cnn.torchscript.pt",
    "predict.py",
    "requirements.txt",
    "parity.json",
    "mlp/test_data_set_0/output_0.pb",
]


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("where", [0.02, 0.5, 0.999])
def test_verify_notices_one_changed_byte(name: str, where: float, deployed: Path, capsys) -> None:
    content = bytearray((deployed / name).read_bytes())
    content[int(where * len(content))] ^= 1
    (deployed / name).write_bytes(content)
    assert verify(deployed) == 3
    assert name in capsys.readouterr().err


def test_verify_notices_files_that_are_missing_or_stale(deployed: Path, capsys) -> None:
    shutil.copy(deployed / "mlp.onnx", deployed / "old.onnx")
    (deployed / "cnn.onnx").unlink()
    assert verify(deployed) == 3
    errors = capsys.readouterr().err
    assert "old.onnx is not of this export" in errors
    assert "cnn.onnx is missing" in errors


@pytest.mark.usefixtures("few_batches")
def test_verify_is_not_deceived_by_a_manifest_made_to_fit(exported: Path, deployed_mlp: Path, capsys) -> None:
    """Somebody swaps the net in one file, and writes the new digests into parity.json too."""
    shutil.copy(exported / "cnn.pixels.onnx", deployed_mlp / "mlp.pixels.onnx")
    report = json.loads((deployed_mlp / "parity.json").read_bytes())
    report["files"] = folder.digests(deployed_mlp)
    (deployed_mlp / "parity.json").write_bytes(folder.sealed(report))
    assert verify(deployed_mlp) == 3
    assert "mlp.pixels.onnx: " in capsys.readouterr().err


def test_a_manifest_that_lacks_entries_is_one_line_and_2(tmp_path: Path, capsys) -> None:
    (tmp_path / "parity.json").write_bytes(folder.sealed({"schema": 1, "sha256": "", "files": {}}))
    assert verify(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks what an export says" in line


@pytest.mark.usefixtures("few_batches")
def test_verify_against_a_run_finds_another_runs_export(deployed_mlp: Path, tmp_path: Path, capsys) -> None:
    """The folder is consistent in itself, but not what this run trained."""
    state = build_model("mlp").state_dict()
    other = dataclasses.replace(made_up(1), model=state, config={"model": "mlp"}, dataset=load_sample().describe())
    (tmp_path / "other.pt").write_bytes(storage.to_bytes(other))
    assert verify(deployed_mlp, str(tmp_path / "other.pt")) == 3
    assert "mlp: the weights are not those that were exported" in capsys.readouterr().err


@pytest.mark.usefixtures("few_batches")
def test_a_failed_export_leaves_the_good_one_and_says_what_failed(
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    out, snapshot = tmp_path / "out", str(trained_run / "mlp" / "last.pt")
    assert command.main([snapshot, "--output", str(out)]) == 0
    before = folder.digests(out)
    good = onnx_file.logits_model

    def spoilt(trained, opset, metadata) -> bytes:
        model = onnx.load_from_string(good(trained, opset, metadata))
        permute(model)
        return model.SerializeToString()

    monkeypatch.setattr(job.onnx_file, "logits_model", spoilt)
    capsys.readouterr()
    assert command.main([snapshot, "--output", str(out)]) == 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) <= 8
    assert all(line.startswith("FAILED mlp.onnx: ") for line in said[:-1])
    assert folder.digests(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-failed.json"]
    assert json.loads((tmp_path / "out-failed.json").read_bytes())["failures"]
    monkeypatch.undo()
    assert command.main([snapshot, "--output", str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
