"""A net as <model>.int8.onnx: static quantisation, shipped only if it decides nearly always as the net does.

Weights are int8 with a scale for each output channel, activations uint8 with a scale for each tensor, as QDQ nodes.
Unlike the float32 files it is no copy of what was trained, so the gate counts decisions instead of bounding errors.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from distmnist.data.dataset import LabelledImages
from distmnist.seeds import generator

from .. import parity
from ..predict import PredictError, check_model, signature, signatures
from ..record import Int8Figures
from ..reference import Case

CALIBRATION = 400
"""Training digits that set the scales of the activations: the same ones each time."""

BATCH = 256
LEAST_AGREEMENT = 0.998
LARGEST_ACCURACY_CHANGE = 0.001
KEY = "quantization"
"""What metadata_props hold beyond those of the float32 file."""


def name(model: str) -> str:
    return f"{model}.int8.onnx"


def make(content: bytes, train: LabelledImages, digits: Case, truth: np.ndarray) -> tuple[bytes, Int8Figures]:
    """content: <model>.onnx. The quantised file, which says its own figures inside, and these figures.

    digits: all test digits; truth: int64 [n], what they are.
    """
    order = torch.randperm(len(train), generator=generator("int8 calibration"))
    model = onnx.load_from_string(quantise(content, train.batch(order[:CALIBRATION])[0].numpy()))
    figures = measure(model.SerializeToString(deterministic=True), digits, truth)
    said = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    said[KEY] = json.dumps(
        {"scheme": "static QDQ: int8 weights per channel, uint8 activations", "calibration_digits": CALIBRATION}
        | {key: value for key, value in figures.to_json().items() if key != "failure"}
    )
    helper.set_model_props(model, dict(sorted(said.items())))
    return model.SerializeToString(deterministic=True), figures


def quantise(content: bytes, images: np.ndarray) -> bytes:
    """content: <model>.onnx; images: float32 [n, C, H, W], the images to calibrate with."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(images, 8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "before.onnx", Path(scratch) / "after.onnx"
        model = onnx.load_from_string(content)
        # Keeps the quantiser from asking for its own optimiser, which would only fold what such a net has not.
        helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of weight: with eight, processors that lack VNNI saturate and decide otherwise than others.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(after)
    free_logits(made)
    made.ir_version = model.ir_version
    made.producer_name = made.producer_version = ""
    del made.graph.value_info[:]
    return made.SerializeToString(deterministic=True)


def free_logits(model: onnx.ModelProto) -> None:
    """Takes away the rounding of the logits to 256 steps, which makes ties of digits that the net can tell apart."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    back = nodes["logits"]
    if back.op_type != "DequantizeLinear":
        return
    rounded = nodes[back.input[0]]
    nodes[rounded.input[0]].output[0] = "logits"
    for node in (back, rounded):
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def measure(content: bytes, digits: Case, truth: np.ndarray) -> Int8Figures:
    """How the file decides, in the worst of all runs.

    Raises whatever ONNX Runtime raises for a file that it cannot run.
    """
    agree, right = [], []
    for level in parity.LEVELS:
        session = parity.session(content, level)
        wanted = signatures(digits.shape, digits.logits.shape[1])["logits"]
        if signature(session) != wanted:
            raise ValueError(f"inputs and outputs are {signature(session)}, not {wanted}")
        logits = parity.answers(parity.onnx_runner(session, "logits"), digits, BATCH)["logits"]
        if not np.isfinite(logits).all():
            raise ValueError("logits are not finite")
        agree.append(int((logits.argmax(1) == digits.labels).sum()))
        right.append(int((logits.argmax(1) == truth).sum()))
    count, trained = len(truth), int((digits.labels == truth).sum())
    worst = max(right, key=lambda one: abs(one - trained))
    failure = None
    if min(agree) < LEAST_AGREEMENT * count:
        failure = f"{min(agree):,} of {count:,} labels agree, fewer than {LEAST_AGREEMENT:.1%}"
    elif abs(worst - trained) > LARGEST_ACCURACY_CHANGE * count:
        failure = f"test accuracy {worst / count:.2%}, the net's {trained / count:.2%}"
    return Int8Figures(
        labels_agree=min(agree),
        count=count,
        test_accuracy=worst / count,
        net_test_accuracy=trained / count,
        failure=failure,
    )


def prove(
    file: Path, model: str, metadata: dict[str, str], digits: Case, truth: np.ndarray
) -> tuple[Int8Figures | None, list[str]]:
    """The figures of the file, None if it cannot be used, and its failures, one line each."""
    try:
        content = file.read_bytes()
        check_model(content)
        loaded = onnx.load_from_string(content)
        onnx.checker.check_model(loaded, full_check=True)
        figures = measure(content, digits, truth)
    except PredictError as error:
        return None, [str(error)]
    except Exception as error:  # the file system's, protobuf's, the checker's and ONNX Runtime's: no common base
        return None, [f"cannot be used: {str(error).strip().splitlines()[0]}"]
    said = {entry.key: entry.value for entry in loaded.metadata_props}
    failures = [figures.failure] if figures.failure else []
    if KEY not in said or {key: value for key, value in said.items() if key != KEY} != metadata:
        failures.append(f"its metadata are not those of {model}, quantised")
    if [(entry.domain, str(entry.version)) for entry in loaded.opset_import] != [("", metadata["opset"])]:
        failures.append(f"its opset is not {metadata['opset']}")
    return figures, failures
