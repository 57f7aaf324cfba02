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
MAX_PIXELS = 50_000_000
"""Of an image, read off its header before any of it is unpacked. A telephone's photograph has 12 to 50 million."""

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

    at = 0
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
        return Reading(self.predict(pixels[None])[0], pixels, remarks)


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


def signature(session: onnxruntime.InferenceSession) -> tuple[list[tuple], list[tuple]]:
    """The inputs and outputs of a session, as in SIGNATURES."""
    ends = session.get_inputs(), session.get_outputs()
    return tuple([(end.name, end.shape, end.type) for end in side] for side in ends)


# The image -----------------------------------------------------------------------------------------------------------

WORKING = 160
"""Longest side, in pixels, at which ink is told from paper: a 28th of it is more than a stroke of MNIST is wide."""
FIT, SIDE, CENTRE = 20, 28, 14.0
"""MNIST: the digit's longest side, the image's side, and where the centre of mass goes (LeCun et al., 1998)."""
OFF_CENTRE = 1.0
"""Pixels. MNIST's digits have their centre of mass within 0.5 of CENTRE, each and every one of the 70,000."""


def open_image(source: "str | os.PathLike[str] | bytes | Image") -> "Image":
    """A Pillow image, upright, unpacked. Raises PredictError: not a PNG or JPEG, damaged, too large, animated."""
    from PIL import Image, ImageOps

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
                raise PredictError(f"is animated ({image.n_frames} frames); save one of them")
            image.draft(None, (4 * WORKING, 4 * WORKING))
            image.load()
            return ImageOps.exif_transpose(image)
        except Image.UnidentifiedImageError:
            raise PredictError("is not a PNG or JPEG image") from None
        except Image.DecompressionBombError:
            raise PredictError(f"has more than {MAX_PIXELS:,} pixels") from None
        except PredictError:
            raise
        except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, struct.error, zlib.error ...
            raise PredictError(f"is damaged: {str(error) or type(error).__name__}".splitlines()[0]) from error


def prepare(image: "Image") -> tuple[np.ndarray, list[str]]:
    """An image of any size and mode -> uint8 [28, 28], as MNIST's digits were made, and warnings.

    An image of 28 x 28, white on black, is taken as it is; if it is off the middle, it is moved there. Anything else:
    ink told from paper, cropped, fitted to 20 pixels, centred by mass.
    """
    planes = to_planes(image)
    if planes.shape[:2] == (SIDE, SIDE) and np.ptp(planes, axis=2).max() < 8:
        grey = planes.mean(2)
        border = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()])
        if np.median(border) < 64 and grey.mean() < 128:
            pixels = np.round(grey).astype(np.uint8)
            remarks = [] if pixels.max() >= 64 else ["blank: no ink found"]
            return (centred(pixels) if off_centre(pixels) > OFF_CENTRE else pixels), remarks
    return from_photograph(planes)


def to_planes(image: "Image") -> np.ndarray:
    """float32 [h, w, 1 or 3], 0 to 255, at most 4 x WORKING a side; transparency laid over its opposite."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray(values / 257 if values.max(initial=0) > 255 else values)
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


def from_photograph(planes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """float32 [h, w, c] -> uint8 [28, 28] and warnings."""
    depth = ink_depth(resized(planes, min(WORKING, max(planes.shape[:2]))))
    found = find_blob(depth)
    if found is None:
        return np.zeros((SIDE, SIDE), np.uint8), ["blank: no ink found"]
    mask, several = found
    top, bottom, left, right = box(mask)
    scale = max(planes.shape[:2]) / max(mask.shape)
    if scale > 1.5 and max(bottom - top, right - left) < WORKING / 3:  # a small digit on a large sheet: look closer
        margin = 0.6 * max(bottom - top, right - left)
        rows = slice(max(0, int((top - margin) * scale)), int((bottom + margin) * scale))
        columns = slice(max(0, int((left - margin) * scale)), int((right + margin) * scale))
        closer = planes[rows, columns]
        closer_depth = ink_depth(resized(closer, min(WORKING, max(closer.shape[:2]))))
        if closer_found := find_blob(closer_depth):
            depth, mask = closer_depth, closer_found[0]
    full = np.percentile(depth[mask], 75)
    ink = np.clip((depth / full - 0.1) / 0.8, 0, 1) * grown(mask, 1)
    top, bottom, left, right = box(ink > 0.2)
    pixels = centred(np.round(255 * fitted(ink[top:bottom, left:right])).astype(np.uint8))
    return pixels, ["several blobs: the largest was read"] if several else []


def ink_depth(planes: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] -> float32 [h, w]: by how much each pixel differs from the paper around it, 0 for paper.

    Paper is what is left when everything narrower than a third of the image has been filled in, so shadows wider than
    that belong to it, hard-edged or soft. Ink is the rarer of the two, in each colour by itself.
    """
    reach = max(planes.shape[:2]) // 6
    depths = []
    for plane in np.moveaxis(planes, 2, 0):
        plane = blurred(plane, 1) if min(plane.shape) > 2 * SIDE else plane
        departure = plane - blurred(plane, max(planes.shape[:2]) // 4)
        if (departure**3).sum() < 0:
            paper = eroded(dilated(plane, reach), reach)
            depth = (paper - plane) / np.maximum(paper, 32)
        else:
            paper = dilated(eroded(plane, reach), reach)
            depth = (plane - paper) / 255
        depths.append(np.maximum(depth - np.median(depth), 0))
    return np.sqrt(np.square(depths).mean(0))


def find_blob(depth: np.ndarray) -> tuple[np.ndarray, bool] | None:
    """The largest connected piece of ink, bool [h, w], with what lies close to it; and whether there are others.

    None if there is no ink: a contrast under 8 %, or hardly over the paper's own noise.
    """
    peak, noise = float(depth.max()), 4 * float(np.percentile(depth, 60))  # 4: a normal distribution's, halved at 0
    if peak < 0.08 or peak < 5 * noise:
        return None
    weak, strong = depth > max(0.25 * peak, 3 * noise), depth > 0.5 * peak
    pieces = list(connected(weak, strong))
    largest = max(pieces, key=np.count_nonzero)
    # What runs off the image is a shadow's corner or the table's edge, if something else could be the digit.
    inside = [piece for piece in pieces if not (piece[[0, -1]].any() or piece[:, [0, -1]].any())]
    if inside and (other := max(inside, key=np.count_nonzero)).sum() > 0.15 * largest.sum():
        pieces, largest = inside, other
    top, bottom, left, right = box(largest)
    near = max(1, round(0.08 * max(bottom - top, right - left)))
    everything = np.logical_or.reduce(pieces)
    groups = [group & everything for group in connected(grown(everything, near), everything)]
    groups.sort(key=np.count_nonzero, reverse=True)
    several = len(groups) > 1 and np.count_nonzero(groups[1]) > 0.15 * np.count_nonzero(groups[0])
    return groups[0], several


def connected(mask: np.ndarray, seeds: np.ndarray, limit: int = 30) -> Iterator[np.ndarray]:
    """The connected pieces of `mask` that hold a seed, each bool [h, w]; the first `limit` of them."""
    left = seeds & mask
    for _ in range(limit):
        if not left.any():
            return
        piece = np.zeros_like(mask)
        piece.flat[np.argmax(left)] = True
        count = 0
        while (now := np.count_nonzero(piece)) > count:
            count = now
            piece = grown(piece, 1) & mask
        yield piece
        left &= ~piece


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    return dilated(mask, reach).astype(bool)


def dilated(plane: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` pixels, down and across: a square window, by doubling ever wider ones."""
    window = 2 * reach + 1
    for _ in (0, 1):
        wide, size = np.pad(plane, ((reach, reach), (0, 0)), mode="edge"), 1
        while 2 * size <= window:
            wide, size = np.maximum(wide[:-size], wide[size:]), 2 * size
        plane = np.maximum(wide[: len(plane)], wide[window - size : window - size + len(plane)]).T
    return plane


def eroded(plane: np.ndarray, reach: int) -> np.ndarray:
    return -dilated(-plane, reach)


def blurred(plane: np.ndarray, reach: int) -> np.ndarray:
    """The mean within `reach` pixels, the image being continued by its border."""
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (reach + 1, reach)
        sums = np.pad(plane, widths, mode="edge").cumsum(axis, dtype=np.float64)
        size = 2 * reach + 1
        ahead, behind = (sums[size:], sums[:-size]) if axis == 0 else (sums[:, size:], sums[:, :-size])
        plane = ((ahead - behind) / size).astype(np.float32)
    return plane


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
    """(name, path or content) of each image; a directory is replaced by the PNG and JPEG files in it, by name."""
    for name in images:
        try:
            if name == "-":
                yield name, read_limited(sys.stdin.buffer, MAX_IMAGE_BYTES, "standard input")
            elif os.path.isdir(name):
                inside = sorted(e for e in os.listdir(name) if e.lower().endswith((".png", ".jpg", ".jpeg")))
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
        seen = [pixels for _, pixels, _, _ in batch if pixels is not None]
        rows = iter(predictor.predict(np.stack(seen)) if seen else ())
        for name, pixels, remarks, error in batch:
            reading = None if pixels is None else Reading(next(rows), pixels, remarks)
            if given.json:
                say(json.dumps(describe(name, reading, error, given)))
            elif reading:
                say(line(name, reading, given))
            for remark in [f"{name} {error}"] if error else [f"WARNING: {name}: {remark}" for remark in remarks]:
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
        error = lost.args[0]
        if isinstance(error, BrokenPipeError):  # `| head` has enough
            return 0
        say_error(f"standard output cannot be written: {getattr(error, 'strerror', None) or error}")
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
