"""Everything that an exported net's files must be: format, provenance, weights, and parity. Returns what it found."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from distmnist.checkpoint.source import Trained
from distmnist.models.build import MODELS

from . import parity
from .formats import int8, onnx_file, torchscript, weights_file
from .predict import PredictError, check_model, signature, signatures
from .record import FileReport, Measured, ModelReport, Unmeasured
from .reference import Case

SAMPLE = 8
"""Digits in test_data_set_0, and those that the slow reference evaluator is asked."""

Finding = tuple[FileReport | None, list[str]]
"""What was found out about a file, None if it cannot be used; and its failures, one line each."""


def names(model: str) -> dict[str, str]:
    """kind -> the file of it in the folder."""
    return {
        "logits": f"{model}.onnx",
        "pixels": f"{model}.pixels.onnx",
        "safetensors": f"{model}.safetensors",
        "torchscript": f"{model}.torchscript.pt",
    }


def prove(
    folder: Path,
    trained: Trained,
    metadata: dict[str, str],
    cases: list[Case],
    truth: np.ndarray,
    without: dict[str, str],
) -> tuple[ModelReport, list[str]]:
    """Reloads the net's files from `folder` and proves them; `cases`: the test digits first, then the probes.

    truth: int64 [n], what the test digits are; without: what this export has not. Failures name the file.
    """
    reports: dict[str, FileReport] = {}
    failures: list[str] = []
    checks: dict[str, Callable[[bytes], Finding]] = {
        "logits": lambda content: prove_onnx(content, "logits", trained, metadata, cases),
        "pixels": lambda content: prove_onnx(content, "pixels", trained, metadata, cases),
        "safetensors": lambda content: prove_safetensors(content, trained, metadata),
        "torchscript": lambda content: prove_torchscript(content, trained, cases),
    }
    if metadata["weights_sha256"] != trained.weights_sha256:
        failures.append(f"{trained.name}: the weights are not those that were exported")
    for kind, name in names(trained.name).items():
        if kind in without or name in without:
            continue
        try:
            report, wrong = checks[kind]((folder / name).read_bytes())
        except OSError as error:
            report, wrong = None, [f"cannot be read: {error.strerror}"]
        if report:
            reports[name] = report
        failures += [f"{name}: {failure}" for failure in wrong]
    failures += [f"{trained.name}/test_data_set_0: {failure}" for failure in prove_sample(folder, trained.name, cases)]
    digits, figures, quantised = cases[0], None, int8.name(trained.name)
    if quantised not in without:
        figures, wrong = int8.prove(folder / quantised, trained.name, metadata, digits, truth)
        failures += [f"{quantised}: {failure}" for failure in wrong]
    state = trained.net.state_dict()
    found = ModelReport(
        weights_sha256=trained.weights_sha256,
        metadata=metadata,
        counters={name: tensor.tolist() for name, tensor in state.items() if not tensor.is_floating_point()},
        smallest_margin=float(digits.margins.min()),
        smallest_margin_digit=int(digits.rows[digits.margins.argmin()]),
        files=reports,
        test_accuracy_here=float((digits.labels == truth).mean()),
        int8=figures,
    )
    return found, failures


def prove_onnx(content: bytes, kind: str, trained: Trained, metadata: dict[str, str], cases: list[Case]) -> Finding:
    try:
        check_model(content)
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
    except PredictError as error:
        return None, [str(error)]
    except Exception as error:  # protobuf's, the checker's and the shape inference's, with no common base
        return None, [f"the ONNX checker refuses it: {str(error).strip().splitlines()[0]}"]
    failures = [
        f"opset {entry.version}, not {metadata['opset']}"
        for entry in model.opset_import
        if str(entry.version) != metadata["opset"]
    ]
    if model.ir_version != onnx.helper.find_min_ir_version_for(model.opset_import):
        failures.append(f"IR version {model.ir_version}, not the least that opset {metadata['opset']} needs")
    if {entry.key: entry.value for entry in model.metadata_props} != metadata:
        failures.append("its metadata are not those of the trained net")
    wrong = onnx_file.wrong_weights(model, trained.net.state_dict())
    failures += [f"{name} is not what was trained, bit for bit" for name in wrong]
    try:
        sessions = {level: parity.session(content, level) for level in parity.LEVELS}
    except Exception as error:  # ONNX Runtime has an exception for each of its codes, and no common base
        return None, [*failures, f"ONNX Runtime refuses it: {str(error).strip().splitlines()[0]}"]
    wanted = signatures(trained.dataset.shape, len(trained.dataset.class_names))[kind]
    if (seen := signature(sessions["off"])) != wanted:
        return None, [*failures, f"inputs and outputs are {seen}, not {wanted}"]
    runners = {level: parity.onnx_runner(loaded, kind) for level, loaded in sessions.items()}
    runs, evaluator = (
        parity.compare_runs(kind, runners, cases, is_thorough(trained)),
        ask_evaluator(model, kind, cases[0]),
    )
    failures += parity.failures(runs)
    if evaluator.failure:
        failures.append(f"the ONNX reference evaluator: {evaluator.failure}")
    opset = int(metadata["opset"])
    return FileReport(runs=runs, opset=opset, ir_version=model.ir_version, evaluator=evaluator), failures


def ask_evaluator(model: onnx.ModelProto, kind: str, digits: Case) -> Measured | Unmeasured:
    """The file as ONNX's own Python implementation of its operators reads it, on the first few digits."""
    few = digits.first(SAMPLE)
    names = [end.name for end in model.graph.output]
    everything = slice(None)
    feed = {"pixels": few.pixels(everything)} if kind == "pixels" else {"input": few.images(everything)}
    try:
        outputs = cast(list[np.ndarray], ReferenceEvaluator(model).run(None, feed))
        return parity.measure(few, dict(zip(names, outputs, strict=True)))
    except Exception as error:  # a file that it cannot run is a file that does not pass
        return Unmeasured(f"{type(error).__name__}: {str(error).strip()[:200]}")


def is_thorough(trained: Trained) -> bool:
    """Whether files are asked about all images at every level and in every batch size: it takes long otherwise."""
    return trained.name in MODELS


def prove_torchscript(content: bytes, trained: Trained, cases: list[Case]) -> Finding:
    try:
        module = torchscript.load(content)
    except RuntimeError as error:
        return None, [f"torch.jit.load refuses it: {str(error).strip().splitlines()[0]}"]
    wrong = torchscript.wrong_weights(module, trained.net.state_dict())
    runs = parity.compare_runs(
        "logits", {"torchscript": parity.torchscript_runner(module)}, cases, is_thorough(trained)
    )
    failures = [f"{name} is not what was trained, bit for bit" for name in wrong]
    return FileReport(runs=runs), failures + parity.failures(runs)


def prove_safetensors(content: bytes, trained: Trained, metadata: dict[str, str]) -> Finding:
    try:
        state, described = weights_file.read(content)
    except ValueError as error:
        return None, [str(error)]
    wanted = trained.net.state_dict()
    wrong = [
        key for key in dict.fromkeys([*wanted, *state]) if not onnx_file.same_bits(state.get(key), bits(wanted, key))
    ]
    failures = [f"{name} is not what was trained, bit for bit" for name in wrong]
    if described != metadata:
        failures.append("its metadata are not those of the trained net")
    return FileReport(runs=[]), failures


def bits(state: Mapping[str, Tensor], name: str) -> np.ndarray:
    return state[name].numpy() if name in state else np.empty(0)


def sample(digits: Case) -> dict[str, bytes]:
    """test_data_set_0 of <model>.onnx, as the ONNX model zoo lays it out: file -> a TensorProto."""
    few = digits.first(SAMPLE)
    return {
        "input_0.pb": numpy_helper.from_array(few.images(slice(None)), "input").SerializeToString(),
        "output_0.pb": numpy_helper.from_array(few.logits, "logits").SerializeToString(),
    }


def prove_sample(folder: Path, model: str, cases: list[Case]) -> list[str]:
    failures = []
    for name, content in sample(cases[0]).items():
        try:
            there, mine = (
                numpy_helper.to_array(onnx.load_tensor_from_string(data))
                for data in ((folder / model / "test_data_set_0" / name).read_bytes(), content)
            )
        except Exception as error:  # OSError, or whatever protobuf makes of a damaged file
            failures.append(f"{name} cannot be read: {str(error).strip().splitlines()[0]}")
            continue
        same = there.shape == mine.shape and there.dtype == mine.dtype
        if not same or not np.allclose(there, mine, rtol=0, atol=0 if name == "input_0.pb" else cases[0].bound):
            failures.append(f"{name} is not what the net was asked or what it answered")
    return failures
