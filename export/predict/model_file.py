"""Checks ONNX files that anyone may have written, before anything in them is run or allocated."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import PredictError

MAX_MODEL_BYTES = 256 * 2**20

OPSETS = range(18, 26)
OPERATORS = frozenset(
    """
    Abs Add ArgMax AveragePool BatchNormalization Cast Celu Clip Concat Constant Conv DequantizeLinear Div Dropout
    Elu Erf Exp Flatten Gather Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish
    Identity InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mish Mul Neg
    PRelu Pad Pow QuantizeLinear ReduceMax ReduceMean ReduceSum Relu Reshape Selu Shape Sigmoid Slice Softmax
    Softplus Sqrt Squeeze Sub Swish Tanh Transpose Unsqueeze
    """.split()  # noqa: SIM905 - as a list it would take a line each
)
"""What a feed-forward net is made of: no control flow, no functions, nothing that reads files or makes large tensors
from small numbers."""


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
    """Raises PredictError for an ONNX file with anything in it that a plain net does not need.

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
            raise PredictError("the model carries functions or training information, which no exported net has")
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
                raise PredictError("the model has sparse weights, which no exported net has")
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


def check_manifest(path: Path, content: bytes) -> None:
    """In a deploy folder parity.json decides: raises PredictError unless it lists the model with this very content."""
    manifest = path.parent / "parity.json"
    try:
        files = json.loads(manifest.read_bytes())["files"]
        listed = files[path.name]["sha256"] if path.name in files else None
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PredictError(f"{manifest} cannot be read; export the net again") from error
    if listed is None:
        raise PredictError(f"{path} is not listed in {manifest}: it does not belong to this export")
    if listed != hashlib.sha256(content).hexdigest():
        raise PredictError(f"{path} is not the file that {manifest} proves (SHA-256 differs); export the net again")


def read_limited(file: Any, limit: int, name: str) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise PredictError(f"{name} is larger than {limit:,} bytes")
    return content
