"""Checks ONNX files that anyone may have written, before anything in them is run or allocated."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import PredictError, shown

MAX_MODEL_BYTES = 256 * 2**20

OPSETS = range(18, 26)
OPERATORS = frozenset(
    """
    Abs Add And ArgMax ArgMin Attention AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant
    ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp
    Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf
    IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max
    MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905 - as a list it would take a line each
)
"""What image classifiers are made of: functions of their inputs alone. No control flow, no functions, no sequences,
nothing random, nothing that reads files. A model can still ask for more memory than there is, as Pad alone could."""


def message(data: bytes | int) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message: int, or bytes for whatever has a length. PredictError: malformed."""
    if isinstance(data, int):
        raise PredictError("the model is no ONNX file: a number where a message should be")
    at = 0

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise PredictError("the model is no ONNX file: a number without end")

    try:
        while at < len(data):
            number, kind = divmod(varint(), 8)
            if kind == 0:
                yield number, varint()
                continue
            size = {1: 8, 5: 4}.get(kind) if kind != 2 else varint()
            if size is None or at + size > len(data):
                raise PredictError("the model is no whole ONNX file")
            yield number, data[at : at + size]
            at += size
    except IndexError:
        raise PredictError("the model is no whole ONNX file") from None


def text(fields: Iterable[tuple[int, Any]], number: int) -> str:
    """The string in field `number`, "" if it is absent; fit to be printed, whatever a stranger put there."""
    found = [value for at, value in fields if at == number]
    if any(isinstance(value, int) for value in found) or len(found) > 1:
        raise PredictError("the model is no ONNX file: a name is no text, or is given twice")
    return repr(found[0].decode(errors="replace")[:100])[1:-1] if found else ""


def check_model(content: bytes) -> None:
    """Raises PredictError for an ONNX file with anything in it that a classifier does not need.

    Reads the wire format itself, so that nothing of a stranger's file is run or allocated before it has been looked at.
    Field numbers: onnx/onnx.proto.
    """

    def check_tensor(tensor: bytes) -> None:
        if any(number in (13, 14) and value not in (0, b"") for number, value in message(tensor)):
            raise PredictError("the model keeps weights in other files (external data); export it as one file")

    if len(content) > MAX_MODEL_BYTES:
        raise PredictError(f"the model has {len(content):,} bytes; the limit is {MAX_MODEL_BYTES:,}")
    graphs = opsets = 0
    for number, value in message(content):
        if number in (20, 25):
            raise PredictError("the model carries functions or training information, which no exported model has")
        if number == 8:
            fields = list(message(value))
            domain, versions = text(fields, 1), [version for at, version in fields if at == 2]
            if domain or len(versions) != 1 or versions[0] not in OPSETS:
                version = ", ".join(map(str, versions)) or "unknown"
                raise PredictError(
                    f"the model needs opset {domain or 'ai.onnx'} {version}; {OPSETS[0]} to {OPSETS[-1]} are read"
                )
            opsets += 1
        if number != 7:
            continue
        graphs += 1
        for part, node in message(value):
            if part == 15:
                raise PredictError("the model has sparse weights, which no exported model has")
            if part == 5:
                check_tensor(node)
            if part != 1:
                continue
            fields = list(message(node))
            operator, domain = text(fields, 4), text(fields, 7)
            if domain or operator not in OPERATORS:
                raise PredictError(
                    f"the model uses the operator {domain + '.' if domain else ''}{operator},"
                    " which is not among those allowed"
                )
            for attribute in (v for n, v in fields if n == 5):
                for inner, content_ in message(attribute):
                    if inner in (6, 11, 22, 23):
                        raise PredictError(f"the model hides a graph in an attribute of {operator}")
                    if inner in (5, 10):
                        check_tensor(content_)
    if graphs != 1 or opsets != 1:
        raise PredictError("the model is no ONNX file with one graph and one opset")


def read_metadata(content: bytes) -> dict[str, str]:
    """The `metadata_props` of an ONNX file, key -> value. Raises PredictError: malformed, or a key is given twice."""
    found: dict[str, str] = {}
    for entry in (value for number, value in message(content) if number == 14):
        fields = {1: b"", 2: b""} | dict(message(entry))
        try:
            key, value = fields[1].decode(), fields[2].decode()
        except (AttributeError, UnicodeDecodeError):
            raise PredictError("the model is no ONNX file: its metadata are no text") from None
        if key in found:
            raise PredictError(f"the model says its {shown(key[:100])} twice")
        found[key] = value
    return found


def check_manifest(path: Path, content: bytes) -> None:
    """In a deploy folder parity.json decides: raises PredictError unless it lists the model with this very content."""
    manifest = path.parent / "parity.json"
    try:
        files = json.loads(manifest.read_bytes())["files"]
        listed = files[path.name]["sha256"] if path.name in files else None
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PredictError(f"{manifest} cannot be read; export the model again") from error
    if listed is None:
        raise PredictError(f"{path} is not listed in {manifest}: it does not belong to this export")
    if listed != hashlib.sha256(content).hexdigest():
        raise PredictError(f"{path} is not the file that {manifest} proves (SHA-256 differs); export the model again")


def read_limited(file: Any, limit: int, name: str) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise PredictError(f"{name} is larger than {limit:,} bytes")
    return content
