"""Reads the digit on an image with an exported net. Needs onnxruntime, numpy and Pillow, and no other file.

    python -m export.predict MODEL.pixels.onnx IMAGE... [--json]     in a clone
    distmnist-predict MODEL.pixels.onnx IMAGE... [--json]            installed
    python predict.py MODEL.pixels.onnx IMAGE... [--json]            beside an exported model

An image is a PNG or JPEG file, a directory of them, or `-` for standard input. Exit codes: 0 done; 1 an answer cannot
be written; 2 wrong usage or an image that cannot be read, the others being answered; 130 SIGINT. One file, though long,
because it is deployed alone.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_MODEL_BYTES = 256 * 2**20
MAX_IMAGE_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
"""Of an image, read off its header before any of it is unpacked. A telephone's photograph has 12 to 50 million (8160 x
6144). Of that size, a JPEG, which is unpacked at an eighth, takes 77 MB in all, a PNG in colour 460 MB, one that is
also transparent and turned by its EXIF block 650 MB (measured)."""

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

FLOAT, UINT8, INT64 = "tensor(float)", "tensor(uint8)", "tensor(int64)"
SIGNATURES = {
    "logits": ([("input", ["batch", 1, 28, 28], FLOAT)], [("logits", ["batch", 10], FLOAT)]),
    "pixels": (
        [("pixels", ["batch", 28, 28], UINT8)],
        [("probabilities", ["batch", 10], FLOAT), ("label", ["batch"], INT64)],
    ),
}
"""kind of file -> its inputs and outputs: (name, shape, type)."""


class PredictError(ValueError):
    """A model, an image or an option that cannot be used: the message is one line. Exit code 2."""


# The model -----------------------------------------------------------------------------------------------------------


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


class Predictor:
    """An exported net, ready to answer: `Predictor("cnn.pixels.onnx").predict(pixels)`."""

    def __init__(self, model: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> None:
        """model: an exported file, <model>.pixels.onnx or <model>.onnx, or the content of one.

        threads: default `default_threads()`. Raises PredictError: absent, hostile, or no exported net.
        """
        if isinstance(model, bytes):
            name, content = "the model", model
            check_model(content)
        else:
            name, path = str(model), Path(model)
            try:
                with path.open("rb") as file:
                    content = read_limited(file, MAX_MODEL_BYTES, name)
                check_manifest(path, content)
                check_model(content)
            except OSError as error:
                raise PredictError(f"{name} cannot be read: {error.strerror}") from error
            except PredictError as error:
                raise PredictError(str(error).replace("the model", name, 1)) from error
        try:
            self.session = onnxruntime.InferenceSession(
                content, session_options(threads or default_threads()), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception for each of its codes, and no common base
            raise PredictError(f"{name} cannot be loaded: {str(error).strip().splitlines()[0][:200]}") from error
        kinds = [kind for kind, wanted in SIGNATURES.items() if wanted == signature(self.session)]
        if not kinds:
            raise PredictError(f"{name} has other inputs and outputs than an exported net: {signature(self.session)}")
        self.kind = kinds[0]
        if self.kind == "logits":
            said = self.session.get_modelmeta().custom_metadata_map
            try:
                self.mean, self.std = np.float32(said["mean"]), np.float32(said["std"])
            except (KeyError, ValueError):
                raise PredictError(f"{name} does not say its mean and std; use the .pixels.onnx beside it") from None

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels, uint8 [n, 28, 28], ink high -> probabilities, float32 [n, 10]."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (28, 28):
            raise PredictError(f"pixels must be uint8 [n, 28, 28], not {pixels.dtype} {list(pixels.shape)}")
        if self.kind == "pixels":
            return self.session.run(["probabilities"], {"pixels": pixels})[0]
        images = (pixels[:, None].astype(np.float32) / np.float32(255) - self.mean) / self.std
        logits = self.session.run(["logits"], {"input": images})[0]
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def read(self, image: "str | os.PathLike[str] | bytes | Image") -> "Reading":
        """The digit on one image: a path, a file's content, or a Pillow image. PredictError: it cannot be read."""
        try:
            pixels, remarks = prepare(open_image(image))
        except PredictError as error:
            raise PredictError(f"{image if isinstance(image, str | os.PathLike) else 'the image'} {error}") from error
        return self.readings([pixels], [remarks])[0]

    def readings(self, pixels: Sequence[np.ndarray], remarks: Sequence[list[str]]) -> "list[Reading]":
        """The answer for each of some images, uint8 [28, 28], with what is to be remarked on it.

        A net may be very sure of a wrong answer, and unsure once the image is moved by a pixel; of a right one seldom.
        """
        if not pixels:
            return []
        images = np.stack(pixels)
        moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
        probabilities = np.stack([self.predict(np.roll(images, move, (1, 2))) for move in moves], 1)
        found = []
        for image, some, rows in zip(pixels, remarks, probabilities, strict=True):
            doubtful = rows.mean(0)[rows[0].argmax()] < DOUBT and BLANK not in some
            found.append(Reading(rows[0], image, [*some, DOUBTFUL] if doubtful else some))
        return found


@dataclasses.dataclass(frozen=True)
class Reading:
    """probabilities: float32 [10]; pixels: uint8 [28, 28], what the net saw; warnings: about the image."""

    probabilities: np.ndarray
    pixels: np.ndarray
    warnings: list[str]

    @property
    def digit(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def probability(self) -> float:
        return float(self.probabilities.max())

    def top(self, count: int) -> list[tuple[int, float]]:
        """The `count` likeliest digits and their probabilities, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(digit), float(self.probabilities[digit])) for digit in order]


def default_threads() -> int:
    """The cores this process may use, four at most: with two, one image and 256 were both answered soonest by two."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(4, len(affinity(0)) if affinity else os.cpu_count() or 1)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """All optimisations, as many threads as asked; benchmarks/inference.py measured them against the others."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised too, and said once
    return options


def signature(session: onnxruntime.InferenceSession) -> tuple[list[tuple], ...]:
    """The inputs and outputs of a session, as in SIGNATURES."""
    ends = session.get_inputs(), session.get_outputs()
    return tuple([(end.name, end.shape, end.type) for end in side] for side in ends)


# The image -----------------------------------------------------------------------------------------------------------

WORKING = 160
"""Side, in pixels, of a square with as many pixels as the image in which a digit is looked for: strokes like MNIST's, a
tenth of a digit, are then some pixels wide if it fills a third of the image."""
FIT, SIDE, CENTRE = 20, 28, 14.0
"""MNIST: the digit's longest side, the image's side, and where the centre of mass goes (LeCun et al., 1998)."""
OFF_CENTRE = 1.0
"""Pixels. MNIST's digits have their centre of mass within 0.5 of CENTRE, each and every one of the 70,000."""
BLANK, SEVERAL = "blank: no ink found", "several blobs: the largest was read"
DOUBTFUL = "doubtful: the net is not sure of it when the image is moved by a pixel"
DOUBT = 0.7
"""Mean probability of the answer, over the image as it is and moved by a pixel in four directions, below which it is
doubtful. Chosen on development seeds of benchmarks/pictures.py: more would warn of many right answers (2 % at 0.8)."""


def open_image(source: "str | os.PathLike[str] | bytes | Image") -> "Image":
    """A Pillow image, upright, unpacked. Raises PredictError: not a PNG or JPEG, damaged, too large, animated."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, bytes):
        try:
            with open(source, "rb") as file:
                source = read_limited(file, MAX_IMAGE_BYTES, "the file")
        except OSError as error:
            raise PredictError(f"cannot be read: {error.strerror}") from error
    if not source:
        raise PredictError("is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused or dealt with here
        try:
            image = Image.open(io.BytesIO(source), formats=("PNG", "JPEG"))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PredictError(f"has {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
            if image.format == "PNG" and getattr(image, "is_animated", False):
                raise PredictError(f"is animated ({getattr(image, 'n_frames', 'several')} frames); save one of them")
            image.draft(None, (4 * WORKING, 4 * WORKING))
            image.load()
            return upright(image)
        except Image.UnidentifiedImageError:
            raise PredictError("is not a PNG or JPEG image") from None
        except Image.DecompressionBombError:
            raise PredictError(f"has more than {MAX_PIXELS:,} pixels") from None
        except PredictError:
            raise
        except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, struct.error, zlib.error ...
            raise PredictError(f"is damaged: {str(error) or type(error).__name__}".splitlines()[0]) from error


def upright(image: "Image") -> "Image":
    """The image turned as its EXIF block says; as it is if that block is damaged, which viewers do, too."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever the block's decoder fails with: SyntaxError, struct.error, ValueError ...
        return image


def prepare(image: "Image") -> tuple[np.ndarray, list[str]]:
    """An image of any size and mode -> uint8 [28, 28], as MNIST's digits were made, and warnings.

    An image of 28 x 28, white on black, is taken as it is; if it is off the middle, it is moved there. Anything else:
    the digit found, ink told from paper, cropped, fitted to 20 pixels, centred by mass. In a drawing, light strokes on
    exact black, all there is is ink.
    """
    planes = to_planes(image)
    if planes.shape[:2] == (SIDE, SIDE) and np.ptp(planes, axis=2).max() < 8:
        grey = planes.mean(2)
        border = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()])
        if np.median(border) < 64 and grey.mean() < 128:
            pixels = np.round(grey).astype(np.uint8)
            remarks = [] if pixels.max() >= 64 else [BLANK]
            return (centred(pixels) if off_centre(pixels) > OFF_CENTRE else pixels), remarks
    if planes.shape[2] == 1 and is_drawing(planes[..., 0] / 255):
        return from_drawing(planes[..., 0] / 255)
    return from_photograph(planes)


def is_drawing(ink: np.ndarray) -> bool:
    """Whether two thirds of float32 [h, w] are exactly black and the rest is nowhere as thick as a sheet of paper."""
    if np.count_nonzero(ink) * 3 > ink.size or not ink.any():
        return False
    mask = ink > 0.5 * ink.max()
    top, bottom, left, right = box(mask)
    return not shrunk(np.pad(mask, 1), round(0.15 * max(bottom - top, right - left))).any()


def to_planes(image: "Image") -> np.ndarray:
    """float32 [h, w, 1 or 3], 0 to 255, at most 4 x WORKING a side; transparency laid over its opposite."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        bits = max(8, int(np.ceil(np.log2(max(float(values.max()), 1) + 1))))  # 10 or 12 of 16 may be in use
        image = Image.fromarray(values * np.float32(255 / (2**bits - 1)))
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    if max(image.size) > 4 * WORKING:
        image.thumbnail((4 * WORKING, 4 * WORKING), Image.Resampling.BOX, reducing_gap=2.0)
    values = np.asarray(image, dtype=np.float32)
    if values.ndim == 2:
        return values[..., None]
    if values.shape[2] == 3:
        return values
    colours, alpha = values[..., :3], values[..., 3:] / 255
    inked = float((colours * alpha).sum()) / max(float(alpha.sum()) * 3, 1.0)
    return colours * alpha + (255.0 if inked < 128 else 0.0) * (1 - alpha)


def from_drawing(ink: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Ink, float32 [h, w] in 0 to 1, that need not be told from paper -> uint8 [28, 28] and warnings.

    The report's page does the same with what is drawn there: distmnist/report/net.js. Keep the two in sync.
    """
    peak = float(ink.max())
    if peak < LEVELS[0] or float(ink.min()) > 0.1 * peak:
        return np.zeros((SIDE, SIDE), np.uint8), [BLANK]
    mask = ink > 0.25 * peak
    labels, count = labelled(mask)
    digit = with_what_is_near(labels == np.bincount(labels[mask]).argmax(), mask)
    rest = np.bincount(labels[mask & ~digit], minlength=count)
    several = rest.max() > 0.15 * np.count_nonzero(digit)
    return drawn(ink, digit), [SEVERAL] if several else []


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a digit is, in an image and in its overview.

    planes, small: float32 [h, w, c]; digit: bool, of small's size; relative: the share of the ink's depth from which on
    it is told from what is around it.
    """

    planes: np.ndarray
    small: np.ndarray
    digit: np.ndarray
    relative: float
    remarks: list[str]

    @property
    def scale(self) -> float:
        return max(self.planes.shape) / max(self.small.shape)

    @property
    def size(self) -> int:
        top, bottom, left, right = box(self.digit)
        return max(bottom - top, right - left)

    def around(self, share: float) -> tuple[slice, slice]:
        """Rows and columns of `planes`: the digit and a share of its size around it."""
        top, bottom, left, right = box(self.digit)
        margin, scale, (height, width) = share * self.size, self.scale, self.digit.shape
        return (
            slice(max(0, int((top - margin) * scale)), min(round(height * scale), round((bottom + margin) * scale))),
            slice(max(0, int((left - margin) * scale)), min(round(width * scale), round((right + margin) * scale))),
        )


def from_photograph(planes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """float32 [h, w, c] -> uint8 [28, 28] and warnings.

    The digit is looked for in an overview of the image; what the net sees is then made from a closer look.
    """
    found = look(planes)
    if found is None:
        return np.zeros((SIDE, SIDE), np.uint8), [BLANK]
    if found.scale > 1.5 and found.size < WORKING / 3:  # small in a large image: find its strokes again
        rows, columns = found.around(0.6)
        again = look(planes[rows, columns])
        if again is not None:
            there = np.array(box(again.digit)) * again.scale + np.repeat([rows.start, columns.start], 2)
            if is_same_place(np.array(box(found.digit)) * found.scale, there):
                found = dataclasses.replace(again, remarks=found.remarks)
    depth = closer_depth(found)
    peak = float(depth.max())
    if peak == 0:
        return np.zeros((SIDE, SIDE), np.uint8), [BLANK]
    return drawn(depth, depth > min(max(found.relative, 0.2), 0.6) * peak), found.remarks


def look(planes: np.ndarray) -> Found | None:
    """float32 [h, w, c] -> the digit on it; None if it is blank."""
    small = overview(planes)
    found = find_digit(smoothed(toned(small, main_axis(small))))
    return None if found is None else Found(planes, small, *found)


def closer_depth(found: Found) -> np.ndarray:
    """float32, at most WORKING a side: the ink around the digit, in the colours that tell this ink from this paper."""
    from PIL import Image

    digit, small, scale = found.digit, found.small, found.scale
    beside = grown(digit, 4) & ~grown(digit, 2)
    axis = small[digit].mean(0) - small[beside if beside.any() else ~digit].mean(0)
    light = bool(axis.sum() > 0)
    rows, columns = found.around(0.3)
    closer = toned(found.planes[rows, columns], axis if light else -axis)
    closer = resized(closer[..., None], min(WORKING, max(closer.shape)))[..., 0]
    bottom, right = min(rows.stop / scale, digit.shape[0]), min(columns.stop / scale, digit.shape[1])
    near = Image.fromarray(grown(digit, 2).astype(np.float32)).resize(
        closer.shape[::-1], Image.Resampling.BILINEAR, box=(columns.start / scale, rows.start / scale, right, bottom)
    )
    return ink_depth(smoothed(closer), light) * (np.asarray(near) > 0.5)


def is_same_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes, [top, bottom, left, right], share more than half of what they cover together."""
    common = np.minimum(a[1::2], b[1::2]) - np.maximum(a[::2], b[::2])
    shared = common.clip(0).prod()
    return bool(shared > 0.5 * (np.diff(a)[::2].prod() + np.diff(b)[::2].prod() - shared))


def overview(planes: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] with as many pixels as a square of WORKING has, the longer side at most twice WORKING."""
    height, width = planes.shape[:2]
    return resized(planes, round(min(max(height, width) * WORKING / (height * width) ** 0.5, 2 * WORKING)))


def drawn(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """float32 [h, w], where the digit is, bool [h, w] -> uint8 [28, 28], as MNIST's digits were made."""
    full = np.percentile(depth[mask], 75)
    ink = np.clip((depth / full - 0.1) / 0.8, 0, 1) * grown(mask, 1)
    top, bottom, left, right = box(ink > 0.2)
    return centred(np.round(255 * fitted(ink[top:bottom, left:right])).astype(np.uint8))


# The digit among paper, tables, lines and boxes ----------------------------------------------------------------------

# An image is cut at several levels into connected pieces of what is darker than its surroundings, and of what is
# lighter. A digit is a piece with an edge all around, made of strokes, whole in the image, with nothing of its kind in
# it. The limits below are from development seeds of benchmarks/pictures.py; its held-back seeds test them.

LEVELS = (0.06, 0.09, 0.13, 0.19, 0.27, 0.38, 0.52, 0.7)
"""Depths at which pieces are cut out, as shares of the paper's brightness; each is about 1.4 times the last."""


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A connected piece of what is darker, or lighter, than the paper around it by more than `level`.

    It is where labels, int [h, w], have this number. box: top, bottom, left, right, the latter exclusive. depth: the
    most by which it differs from paper; strength: the mean depth along the middle of its strokes. support: the share of
    its outline where the image has an edge; whole: the share of its outline that the image's border does not cut.
    girth: the side of the largest square in it, in pixels.
    """

    light: bool
    level: float
    labels: np.ndarray
    number: int
    box: tuple[int, int, int, int]
    area: int
    depth: float
    strength: float
    support: float
    whole: float
    girth: int

    @property
    def mask(self) -> np.ndarray:
        return self.labels == self.number

    @property
    def inside(self) -> bool:
        top, bottom, left, right = self.box
        return min(top, left) > 0 and bottom < self.labels.shape[0] and right < self.labels.shape[1]

    @property
    def height(self) -> int:
        return self.box[1] - self.box[0]

    @property
    def width(self) -> int:
        return self.box[3] - self.box[2]

    @property
    def size(self) -> float:
        return float(self.height * self.width) ** 0.5

    @property
    def salience(self) -> float:
        """High for what is large and strong and has edges. A line is long, but not large."""
        return self.support**8 * self.strength**2 * self.size

    @property
    def score(self) -> float:
        """Salience, three times that if it is off the image's border; otherwise less, the more the border cuts it."""
        return (3 if self.inside else 1) * self.whole**6 * self.salience

    def may_be_strokes(self) -> bool:
        return self.support >= 0.6 and self.girth <= max(3, 0.34 * max(self.height, self.width))

    def may_be_a_blot(self) -> bool:
        """Thicker than strokes, not as thick as a sheet."""
        thickest = 0.55 * max(self.height, self.width)
        return self.inside and self.support > 0.95 and not self.may_be_strokes() and self.girth <= thickest

    def is_thin(self) -> bool:
        return self.support > 0.93 and self.girth - 1 <= 0.3 * max(self.height, self.width)

    def is_compact(self) -> bool:
        """Whether filling it across and down adds little, as with a one and with what a digit's stroke encloses."""
        mask = self.mask
        filled = max(np.count_nonzero(filled_along(mask)), np.count_nonzero(filled_along(mask.T)))
        return bool(filled <= 1.25 * self.area)

    def surrounds(self, other: "Piece") -> bool:
        """Whether this piece is above, below, left and right of the other's box, on the lines of its middle."""
        low, high = other.box[::2], other.box[1::2]
        if not all(a < b and c < d for a, b, c, d in zip(self.box[::2], low, high, self.box[1::2], strict=True)):
            return False
        row, column = (sum(ends) // 2 for ends in zip(low, high, strict=True))
        across, down = self.labels[row] == self.number, self.labels[:, column] == self.number
        return bool(
            across[: low[1] - 1].any()
            and across[high[1] + 1 :].any()
            and down[: low[0] - 1].any()
            and down[high[0] + 1 :].any()
        )


def find_digit(plane: np.ndarray) -> tuple[np.ndarray, float, list[str]] | None:
    """float32 [h, w] -> where the digit is, bool [h, w]; what is relative in Found; warnings. None: it is blank."""
    pieces: list[Piece] = []
    for light in (False, True):
        depth = ink_depth(plane, light)
        edged = edge_depth(plane, light) > 0.5 * dilated(depth, 2)
        # As a share of the lighter of the two, ink or paper: the same for ink and for what it encloses.
        contrast = dilated(depth * 255 / np.maximum(plane, 32) if light else depth, 2)
        lowest, highest = 5 * noise_of(plane, light), depth.max()
        for level in LEVELS:
            if lowest < level < highest:
                pieces += pieces_at(depth, contrast, edged, level, light)
    strokes = without_frames([piece for piece in pieces if piece.may_be_strokes()])
    blots = [piece for piece in pieces if piece.may_be_a_blot()]
    if max((blot.salience for blot in blots), default=0) > 4 * max((piece.salience for piece in strokes), default=0):
        strokes = blots  # a digit written so bold that its strokes have run together, and what they leave between them
    if not strokes:
        return None
    best = most_like_a_digit(strokes)
    same = [piece for piece in strokes if piece.light == best.light]
    mask = best.mask
    best = next(  # at the lowest level at which it is still by itself: with its faintest strokes
        piece
        for piece in sorted(same, key=lambda piece: piece.level)
        if piece.inside == best.inside
        and piece.score >= 0.8 * best.score
        and piece.strength >= 0.9 * best.strength
        and (piece.mask & mask).any()
    )
    digit = with_what_is_near(best.mask, parts(best))
    others = [
        piece
        for piece in same
        if piece.level == best.level
        and (piece.inside or not best.inside)
        and piece.score > 0.4 * best.score
        and piece.strength > 0.5 * best.strength
        and not (piece.mask & digit).any()
    ]
    return digit, best.level / best.depth, [SEVERAL] if others else []


def most_like_a_digit(strokes: list[Piece]) -> Piece:
    """The piece with the highest score; ink rather than what it encloses, and rather than what encloses it."""
    best = max(strokes, key=lambda piece: piece.score)
    mask = best.mask
    if best.inside:  # or is it a part of a digit that the image's border cuts? Then the whole of it is about as strong
        whole = [
            piece
            for piece in strokes
            if not piece.inside
            and piece.light == best.light
            and piece.is_thin()
            and piece.size < 3 * best.size
            and piece.salience > 1.2 * best.salience
            and 1.25 * piece.strength > best.strength
            and (piece.mask & mask).any()
        ]
        best = max(whole, key=lambda piece: piece.score, default=best)
    else:  # or is it weaker lines across the image, and the digit on them? Then that is there at a higher level
        on_lines = [
            piece
            for piece in strokes
            if piece.inside
            and piece.light == best.light
            and piece.score > 0.3 * best.score
            and piece.strength > 1.25 * best.strength
            and (piece.mask & mask).any()
        ]
        best = max(on_lines, key=lambda piece: piece.score, default=best)
    for piece in sorted(strokes, key=lambda piece: -piece.salience):
        if piece.light == best.light or piece.salience < 0.1 * best.salience:
            continue
        if encloses(piece, best) and is_counter(best, piece):
            return piece
        if encloses(best, piece) and is_ink(piece, best):
            return piece
    return best


def is_counter(inner: Piece, outer: Piece) -> bool:
    """Whether `inner` is paper that the stroke `outer` encloses, as in a nought, not ink on a sheet that encloses it.

    A sheet is many times as large as a digit that could be taken for a counter, which is a one.
    """
    if outer.area > 8 * inner.area or outer.size > 5 * inner.size:
        return False
    return outer.is_thin() and inner.is_compact() and not outer.is_compact()


def is_ink(inner: Piece, outer: Piece) -> bool:
    """Whether `inner` is ink on the sheet `outer`, not paper that the stroke `outer` encloses.

    A sheet is wide and fills most of its box. If `outer` is none, what it encloses is ink if that is no compact counter
    and nearly as salient.
    """
    if not inner.inside or inner.support <= 0.9:
        return False
    filled = (outer.area + inner.area) / (outer.height * outer.width)
    if not outer.is_thin() and filled > 0.75:
        return True
    return not inner.is_compact() and inner.salience > 0.36 * outer.salience


def encloses(outer: Piece, inner: Piece) -> bool:
    """Whether `outer`, of the other kind, runs along nearly all of the outline of `inner`."""
    if not all((a - b) * way >= 0 for a, b, way in zip(inner.box, outer.box, (1, -1, 1, -1), strict=True)):
        return False  # its box is not within the other's
    mask = inner.mask
    outline = mask & ~shrunk(mask, 1)
    return bool(np.count_nonzero(grown(outer.labels >= 0, 3) & outline) > 0.85 * np.count_nonzero(outline))


def without_frames(strokes: list[Piece]) -> list[Piece]:
    """Without pieces that have something of their kind and of some size within them, as printed boxes and no digits do.

    Without parts of such a frame, too, that are found at another level.
    """
    kept = strokes
    for light in (False, True):
        same = [piece for piece in strokes if piece.light == light]
        for frame in same:
            least, mask = 0.35 * min(frame.height, frame.width), frame.mask
            if any(
                max(other.height, other.width) > least and frame.surrounds(other) and not (other.mask & mask).any()
                for other in same
            ):
                kept = [
                    piece
                    for piece in kept
                    if piece.light != light or not (piece.mask & mask).any() or frame.surrounds(piece)
                ]
    return kept


def filled_along(mask: np.ndarray) -> np.ndarray:
    """bool [h, w]: each row from its first true pixel to its last."""
    ahead, behind = np.logical_or.accumulate(mask, 1), np.logical_or.accumulate(mask[:, ::-1], 1)
    return ahead & behind[:, ::-1]


def parts(piece: Piece) -> np.ndarray:
    """bool [h, w]: the piece and others of its level that may be strokes of the same digit: no larger, and near it."""
    top, bottom, left, right = piece.box
    reach = round(0.3 * max(piece.height, piece.width))
    nearby = piece.labels[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach]
    found = np.zeros(piece.labels.shape, bool)
    for number in np.unique(nearby[nearby >= 0]).tolist():
        part = piece.labels == number
        low, high, first, last = box(part)
        cut = min(low, first) == 0 or high == part.shape[0] or last == part.shape[1]
        if high - low <= piece.height and last - first <= piece.width and not (cut and piece.inside):
            found |= part
    return found


def with_what_is_near(largest: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """The largest piece, bool [h, w], with what of `everything` lies within 16 % of its size, or of each other."""
    top, bottom, left, right = box(largest)
    near = max(1, round(0.08 * max(bottom - top, right - left)))
    everything = everything | largest
    labels, _ = labelled(grown(everything, near))
    return everything & (labels == labels[largest][0])


def pieces_at(depth: np.ndarray, contrast: np.ndarray, edged: np.ndarray, level: float, light: bool) -> list[Piece]:
    """The connected pieces of `depth > level`, those of a few pixels left out. edged: where the image has an edge."""
    mask = depth > level
    labels, count = labelled(mask)
    rows, columns = np.nonzero(mask)
    number = labels[mask]
    areas = np.bincount(number, minlength=count)
    depths, top, left = np.zeros(count), np.full(count, mask.shape[0]), np.full(count, mask.shape[1])
    bottom, right = np.zeros(count, int), np.zeros(count, int)
    np.maximum.at(depths, number, depth[mask])
    np.minimum.at(top, number, rows)
    np.minimum.at(left, number, columns)
    np.maximum.at(bottom, number, rows + 1)
    np.maximum.at(right, number, columns + 1)
    outline = mask & ~shrunk(mask, 1)
    outline[[0, -1]] = outline[:, [0, -1]] = False
    ends = np.bincount(labels[outline], minlength=count)
    support = np.bincount(labels[outline], edged[outline], count) / np.maximum(ends, 1)
    strength = np.bincount(number, contrast[mask], count) / areas
    border = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    cut = np.bincount(border[border >= 0], minlength=count)
    whole = ends / np.maximum(ends + cut, 1)
    girth, core = np.zeros(count, int), mask
    for side in range(1, WORKING, 2):
        girth[labels[core]] = side
        core = shrunk(core, 1)
        if not core.any():
            break
    boxes = np.stack([top, bottom, left, right], 1).tolist()
    measures = zip(
        boxes,
        areas.tolist(),
        depths.tolist(),
        strength.tolist(),
        support.tolist(),
        whole.tolist(),
        girth.tolist(),
        strict=True,
    )
    pieces = [Piece(light, level, labels, number, tuple(box_), *rest) for number, (box_, *rest) in enumerate(measures)]
    return [piece for piece in pieces if max(piece.height, piece.width) >= 0.03 * WORKING]


def labelled(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected pieces of bool [h, w], corners touching: int [h, w], 0, 1 ... and -1 outside; and how many they are.

    Runs of each row are joined with those that they touch in the row above: of two that touch, the root of the later
    becomes the root of the earlier, until all agree.
    """
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    runs = np.where(mask, starts.cumsum().reshape(mask.shape) - 1, -1)
    here, above = runs[1:], runs[:-1]
    straight = (starts[1:] | starts[:-1]) & mask[1:] & mask[:-1]  # one place for each two runs that overlap is enough
    to_left, to_right = mask[1:, 1:] & mask[:-1, :-1], mask[1:, :-1] & mask[:-1, 1:]
    a = np.concatenate([here[straight], here[:, 1:][to_left], here[:, :-1][to_right]])
    b = np.concatenate([above[straight], above[:, :-1][to_left], above[:, 1:][to_right]])
    roots = np.arange(int(starts.sum()) + 1)  # the last is that of -1, outside
    while (apart := roots[a] != roots[b]).any():
        a, b = a[apart], b[apart]
        np.minimum.at(roots, np.maximum(roots[a], roots[b]), np.minimum(roots[a], roots[b]))
        while ((further := roots[roots]) != roots).any():
            roots = further
    names = np.cumsum(roots == np.arange(len(roots))) - 1
    names[-1] = count = names[-1]
    numbers = names[roots]
    numbers[-1] = -1
    return numbers[runs], int(count)


def main_axis(planes: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] -> float [c]: the colours along which the image changes most from place to place."""
    if planes.shape[2] == 1:
        return np.ones(1)
    changes = np.concatenate(
        [np.diff(planes[::2], axis=1).reshape(-1, 3), np.diff(planes[:, ::2], axis=0).reshape(-1, 3)]
    )
    axis = np.linalg.eigh(changes.T @ changes)[1][:, -1]
    return axis if axis.sum() > 0 else -axis


def toned(planes: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] -> float32 [h, w] in 0 to 255: the colours along an axis; a negative one is inverted."""
    weights = (np.abs(axis) / max(np.abs(axis).sum(), 1e-9)).astype(np.float32)
    return np.where(axis < 0, 255 - planes, planes).astype(np.float32) @ weights


def smoothed(plane: np.ndarray) -> np.ndarray:
    """Its noise blurred where the image is large enough for that."""
    return blurred(plane, 1) if min(plane.shape) > 2 * SIDE else plane


def ink_depth(plane: np.ndarray, light: bool) -> np.ndarray:
    """float32 [h, w] -> float32 [h, w]: by how much it is lighter, or darker, than the paper, as a share; else 0.

    Paper is what is left when everything narrower than a third of the image has been filled in, so shadows wider than
    that belong to it, hard-edged or soft. Its noise lifts it to its peaks, by much the same everywhere.
    """
    reach = round(plane.size**0.5 / 6)
    if light:
        depth = (plane - dilated(eroded(plane, reach), reach)) / 255
    else:
        paper = eroded(dilated(plane, reach), reach)
        depth = (paper - plane) / np.maximum(paper, 32)
    return np.maximum(depth - np.percentile(depth, 25), 0)


def edge_depth(plane: np.ndarray, light: bool) -> np.ndarray:
    """float32 [h, w] -> float32 [h, w]: by how much the image changes within two pixels, in the units of depth."""
    high, low = dilated(plane, 2), eroded(plane, 2)
    change = (high - low) / (255 if light else np.maximum(high, 32))
    return change


def noise_of(plane: np.ndarray, light: bool) -> float:
    """The standard deviation of the noise left by `smoothed`, in the units of depth.

    1.48 makes a median of magnitudes a standard deviation; of noise that was white before, blurring twice by three
    pixels leaves 0.53 between the first result and the second.
    """
    left = float(np.median(np.abs(plane - blurred(plane, 1)))) * 1.48 / 0.53
    return left / (255 if light else max(float(np.median(plane)), 32))


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    return dilated(mask, reach).astype(bool)


def shrunk(mask: np.ndarray, reach: int) -> np.ndarray:
    return ~grown(~mask, reach)


def dilated(plane: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` pixels, down and across: a square window, by doubling ever wider ones."""
    window = 2 * reach + 1
    for _ in (0, 1):
        wide, size = continued(plane, reach, reach), 1
        while 2 * size <= window:
            wide, size = np.maximum(wide[:-size], wide[size:]), 2 * size
        plane = np.maximum(wide[: len(plane)], wide[window - size : window - size + len(plane)]).T
    return plane


def eroded(plane: np.ndarray, reach: int) -> np.ndarray:
    return -dilated(-plane, reach)


def blurred(plane: np.ndarray, reach: int) -> np.ndarray:
    """The mean within `reach` pixels, the image being continued by its border."""
    size = 2 * reach + 1
    for _ in (0, 1):
        sums = continued(plane, reach + 1, reach).cumsum(0, dtype=np.float64)
        plane = ((sums[size:] - sums[:-size]) / size).astype(np.float32).T
    return plane


def continued(plane: np.ndarray, before: int, after: int) -> np.ndarray:
    """The first row repeated `before` times above, the last one `after` times below. Many times as fast as np.pad."""
    return plane[np.minimum(np.maximum(np.arange(-before, len(plane) + after), 0), len(plane) - 1)]


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right of what is true; bottom and right exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def resized(planes: np.ndarray, longest: int) -> np.ndarray:
    """float32 [h, w, c] with its longer side `longest`, each pixel the mean of what it covers."""
    height, width = planes.shape[:2]
    if max(height, width) == longest:
        return planes
    from PIL import Image

    size = max(1, round(width * longest / max(height, width))), max(1, round(height * longest / max(height, width)))
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in np.moveaxis(planes, 2, 0)],
        2,
    )


def fitted(ink: np.ndarray) -> np.ndarray:
    """Ink, float [h, w] in 0 to 1, with its longer side scaled to 20 pixels, edges softened."""
    from PIL import Image

    height, width = ink.shape
    scale = FIT / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return ink
    return np.clip(np.asarray(Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)), 0, 1)


def centre_of_mass(pixels: np.ndarray) -> tuple[float, float]:
    weights = pixels.astype(np.float64)
    total = weights.sum()
    if total == 0:
        return CENTRE, CENTRE
    rows, columns = np.indices(pixels.shape)
    return float((rows * weights).sum() / total), float((columns * weights).sum() / total)


def off_centre(pixels: np.ndarray) -> float:
    """How far the centre of mass of uint8 [28, 28] is from the middle, in pixels, along the worse axis."""
    return max(abs(at - CENTRE) for at in centre_of_mass(pixels))


def centred(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w], at most 28 a side -> uint8 [28, 28], its centre of mass in the middle as far as it fits."""
    if not pixels.any():
        return np.zeros((SIDE, SIDE), np.uint8)
    top, bottom, left, right = box(pixels > 0)
    ink = pixels[top:bottom, left:right]
    out = np.zeros((SIDE, SIDE), np.uint8)
    row, column = (
        min(max(round(CENTRE - at), 0), SIDE - size) for at, size in zip(centre_of_mass(ink), ink.shape, strict=True)
    )
    out[row : row + ink.shape[0], column : column + ink.shape[1]] = ink
    return out


def drawing(pixels: np.ndarray) -> str:
    """uint8 [28, 28] as 28 lines of text."""
    return "\n".join("".join(2 * " .:-=+*#%@"[value * 10 // 256] for value in row.tolist()) for row in pixels)


# The command ---------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, text: str) -> NoReturn:
        raise PredictError(f"{text}; --help lists the options")

    def print_help(self, file: Any = None) -> None:
        say(self.format_help().rstrip("\n"))


def to_path(text: str) -> str:
    """The type of an argument that is a path: with ~ for the home directory, and never empty."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is it a variable that is not set?")
    return os.path.expanduser(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="distmnist-predict",
        description="Reads the digits on images with an exported net; prefer <model>.pixels.onnx.",
        allow_abbrev=False,
    )
    parser.add_argument("model", type=to_path, metavar="MODEL.onnx", help="<model>.pixels.onnx or <model>.onnx")
    parser.add_argument(
        "images", type=to_path, metavar="IMAGE", nargs="+", help="PNG or JPEG, a directory of them, or - for stdin"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object an image, one image a line")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="name the K likeliest digits (default: 1)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a run (default: 64)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the cores, 4 at most)")
    parser.add_argument(
        "--min-probability", type=float, default=0.0, metavar="P", help="below it the answer is unsure (default: 0)"
    )
    parser.add_argument("--show", action="store_true", help="draw what the net sees, on standard error")
    given = parser.parse_args(arguments)
    if not 1 <= given.top <= 10:
        raise PredictError(f"--top {given.top} must be 1 to 10")
    if not 1 <= given.batch_size <= 1024:
        raise PredictError(f"--batch-size {given.batch_size} must be 1 to 1024")
    if given.threads is not None and not 1 <= given.threads <= 1024:
        raise PredictError(f"--threads {given.threads} must be 1 to 1024")
    if not 0 <= given.min_probability <= 1:
        raise PredictError(f"--min-probability {given.min_probability} must be 0 to 1")
    return given


class OutputLost(Exception):
    """An answer cannot be written: the OSError, or the ValueError of a closed stream, is the only argument."""


def say(line: str) -> None:
    """Writes an answer to standard output, which may have been closed from the start. Raises OutputLost."""
    try:
        if sys.stdout is not None:
            print(line, flush=True)
    except (OSError, ValueError) as error:
        raise OutputLost(error) from error


def say_error(line: str) -> None:
    """Writes a remark to standard error, if that can be written: there is no other place for it."""
    with contextlib.suppress(OSError, ValueError):
        print(f"distmnist: {line}", file=sys.stderr or io.StringIO(), flush=True)


def sources(images: Iterable[str]) -> Iterator[tuple[str, str | bytes | PredictError]]:
    """(name, path or content) of each image; a directory is replaced by the PNG and JPEG files in it, by name.

    Hidden files are not content: macOS leaves ._1.png beside 1.png on disks of other systems.
    """
    for name in images:
        try:
            if name == "-":
                yield name, read_limited(sys.stdin.buffer, MAX_IMAGE_BYTES, "standard input")
            elif os.path.isdir(name):
                inside = sorted(
                    entry
                    for entry in os.listdir(name)
                    if entry.lower().endswith((".png", ".jpg", ".jpeg")) and not entry.startswith(".")
                )
                if not inside:
                    raise PredictError("is a directory without a PNG or JPEG file")
                yield from ((path, path) for path in (os.path.join(name, entry) for entry in inside))
            else:
                yield name, name
        except OSError as error:
            yield name, PredictError(f"cannot be read: {error.strerror}")
        except PredictError as error:
            yield name, error


def describe(name: str, reading: Reading | None, error: str | None, given: argparse.Namespace) -> dict[str, Any]:
    """The object that --json prints for an image: always these keys."""
    return {
        "path": name,
        "digit": reading and reading.digit,
        "probability": reading and reading.probability,
        "unsure": reading and reading.probability < given.min_probability,
        "top": [{"digit": d, "probability": p} for d, p in reading.top(given.top)] if reading else [],
        "warnings": reading.warnings if reading else [],
        "error": error,
    }


def line(name: str, reading: Reading, given: argparse.Namespace) -> str:
    """`path: digit probability`, tab-separated, then the runners-up."""
    answers = [f"{digit}\t{probability:.4f}" for digit, probability in reading.top(given.top)]
    if reading.probability < given.min_probability:
        answers[0] = f"unsure\t{reading.probability:.4f}"
    return "\t".join([name, *answers])


def run(given: argparse.Namespace) -> int:
    """Answers image by image, in order. Returns 2 if one of them could not be read, else 0."""
    predictor = Predictor(given.model, threads=given.threads)
    failed = False
    batch: list[tuple[str, np.ndarray | None, list[str], str | None]] = []

    def answer() -> None:
        seen = [(pixels, remarks) for _, pixels, remarks, _ in batch if pixels is not None]
        readings = iter(predictor.readings([pixels for pixels, _ in seen], [remarks for _, remarks in seen]))
        for name, pixels, _, error in batch:
            reading = None if pixels is None else next(readings)
            if given.json:
                say(json.dumps(describe(name, reading, error, given)))
            elif reading:
                say(line(name, reading, given))
            said = [f"WARNING: {name}: {remark}" for remark in reading.warnings] if reading else [f"{name} {error}"]
            for remark in said:
                say_error(remark)
            if given.show and pixels is not None:
                with contextlib.suppress(OSError, ValueError):
                    print(drawing(pixels), file=sys.stderr)
        batch.clear()

    for name, source in sources(given.images):
        try:
            if isinstance(source, PredictError):
                raise source
            pixels, remarks = prepare(open_image(source))
            batch.append((name, pixels, remarks, None))
        except PredictError as error:
            failed = True
            batch.append((name, None, [], str(error)))
        if len(batch) == given.batch_size:
            answer()
    answer()
    return 2 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        return run(parse(arguments))
    except PredictError as error:
        say_error(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except OutputLost as lost:
        cause = lost.args[0]
        if isinstance(cause, BrokenPipeError):  # `| head` has enough
            return 0
        say_error(f"standard output cannot be written: {getattr(cause, 'strerror', None) or cause}")
        return 1


def command() -> NoReturn:
    """Runs `main` as a program: what is left in a buffer that cannot be written is thrown away without a word."""
    try:
        sys.exit(main())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    command()
