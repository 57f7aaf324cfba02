"""An exported model, ready to answer."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from .description import read_description
from .errors import PredictError, shown
from .model_file import MAX_MODEL_BYTES, check_manifest, check_model, read_limited, read_metadata

if TYPE_CHECKING:
    from PIL.Image import Image

    from distmnist.data.prepare import Preparation

FLOAT, UINT8, INT64 = "tensor(float)", "tensor(uint8)", "tensor(int64)"

DOUBT = 0.7
"""Mean probability of the answer, over the image as it is and moved by a pixel in four directions, below which it is
doubtful. Chosen on development seeds of benchmarks/pictures.py: more would warn of many right answers (2 % at 0.8).
MNIST's digits alone were measured, so other images are not judged by it."""


def signatures(shape: tuple[int, int, int], classes: int) -> dict[str, tuple[list[tuple], ...]]:
    """Kind of file -> its inputs and outputs: (name, shape, type). shape: channels (1 or 3), height, width.

    "logits": <model>.onnx, of normalised float32 images. "pixels": <model>.pixels.onnx, of uint8 pixels.
    """
    channels, height, width = shape
    pixels = ["batch", height, width, *([] if channels == 1 else [channels])]
    return {
        "logits": ([("input", ["batch", *shape], FLOAT)], [("logits", ["batch", classes], FLOAT)]),
        "pixels": (
            [("pixels", pixels, UINT8)],
            [("probabilities", ["batch", classes], FLOAT), ("label", ["batch"], INT64)],
        ),
    }


class Predictor:
    """An exported model, ready to answer: `Predictor("cnn.pixels.onnx").read("image.png").label`.

    shape: channels (1 or 3), height, width of the images it takes; class_names: by index; is_mnist: whether the digit
    on an image is looked for; preparation: what any other image file is brought to, None for MNIST; warnings: lines
    about this machine.
    """

    def __init__(self, model: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> None:
        """model: an exported file, <model>.pixels.onnx or <model>.onnx, or the content of one.

        threads: default `default_threads()`. Raises PredictError: absent, hostile, or no exported model.
        """
        name = "the model" if isinstance(model, bytes) else shown(str(model))
        try:
            content = model if isinstance(model, bytes) else read_model(Path(model), name)
            check_model(content)
            described = read_description(read_metadata(content))
            self.preparation: Preparation | None = None
            self.warnings: list[str] = []
            if not described.is_mnist:
                from .images import check_decoder, make_preparation

                self.preparation = make_preparation(described)
                self.warnings += check_decoder(described)
        except PredictError as error:
            raise PredictError(str(error).replace("the model", name, 1)) from error
        try:
            self.session = onnxruntime.InferenceSession(
                content, session_options(threads or default_threads()), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception for each of its codes, and no common base
            raise PredictError(f"{name} cannot be loaded: {first_line(error)}") from error
        self.shape, self.class_names, self.is_mnist = described.shape, described.class_names, described.is_mnist
        expected, found = signatures(self.shape, len(self.class_names)), signature(self.session)
        kinds = [kind for kind, wanted in expected.items() if wanted == found]
        if not kinds:
            raise PredictError(
                f"{name} has other inputs and outputs than an exported model: {shown(str(found)[:1000])}"
            )
        self.kind = kinds[0]
        if self.kind == "logits":
            if described.mean is None or described.std is None:
                raise PredictError(f"{name} does not say its mean and std; use the .pixels.onnx beside it")
            self.mean, self.std = (
                np.array(each, np.float32)[:, None, None] for each in (described.mean, described.std)
            )

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Of one image: (height, width) in grey, (height, width, 3) in colour."""
        channels, height, width = self.shape
        return (height, width) if channels == 1 else (height, width, channels)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels, uint8 [n, H, W] in grey (MNIST: ink high) or [n, H, W, 3] in colour -> probabilities, float32
        [n, classes].
        """
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[1:] != self.pixel_shape:
            wanted = ", ".join(map(str, ("n", *self.pixel_shape)))
            raise PredictError(f"pixels must be uint8 [{wanted}], not {pixels.dtype} {list(pixels.shape)}")
        if self.kind == "pixels":
            probabilities = self.run("probabilities", {"pixels": pixels})
        else:
            planes = pixels[:, None] if self.shape[0] == 1 else pixels.transpose(0, 3, 1, 2)
            # The order of training's own normalisation, distmnist/data/dataset.py: the same bits.
            with np.errstate(all="ignore"):  # what is not finite is refused below
                images = (planes.astype(np.float32, order="C") / np.float32(255) - self.mean) / self.std
            logits = self.run("logits", {"input": images})
            with np.errstate(all="ignore"):
                powers = np.exp(logits - logits.max(1, keepdims=True))
                probabilities = powers / powers.sum(1, keepdims=True)
        if probabilities.shape != (len(pixels), len(self.class_names)) or not np.isfinite(probabilities).all():
            raise PredictError("the model's answers are not a finite number for each image and class")
        return probabilities

    def run(self, output: str, feed: dict[str, np.ndarray]) -> np.ndarray:
        try:
            return self.session.run([output], feed)[0]
        except Exception as error:  # ONNX Runtime has an exception for each of its codes, and no common base
            raise PredictError(f"the model cannot be run: {first_line(error)}") from error

    def read(self, image: "str | os.PathLike[str] | bytes | Image") -> "Reading":
        """The class of one image: a path, a file's content, or a Pillow image. PredictError: it cannot be read."""
        try:
            pixels, remarks = self.prepare(image)
        except PredictError as error:
            name = shown(os.fsdecode(image)) if isinstance(image, str | os.PathLike) else "the image"
            raise PredictError(f"{name} {error}") from error
        return self.readings([pixels], [remarks])[0]

    def prepare(self, image: "str | os.PathLike[str] | bytes | Image") -> tuple[np.ndarray, list[str]]:
        """What the model sees of an image, uint8 [H, W] or [H, W, 3], and what is to be remarked on it.

        Raises PredictError: it cannot be read; the message goes behind the image's name.
        """
        if self.preparation is not None:
            from .images import read_pixels

            return read_pixels(image, self.preparation), []
        from .digits import prepare_digit
        from .images import open_digit

        return prepare_digit(open_digit(image))

    def readings(self, pixels: Sequence[np.ndarray], remarks: Sequence[list[str]]) -> "list[Reading]":
        """The answer for each of some images, uint8 [H, W] or [H, W, 3], with what is to be remarked on it.

        Of MNIST's digits, a model may be very sure of a wrong answer, and unsure once the image is moved by a pixel; of
        a right one seldom.
        """
        if not pixels:
            return []
        images = np.stack(pixels)
        if not self.is_mnist:
            rows = self.predict(images)
            return [Reading(*each, self.class_names) for each in zip(rows, images, remarks, strict=True)]
        from .digits import BLANK, DOUBTFUL

        moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
        probabilities = np.stack([self.predict(np.roll(images, move, (1, 2))) for move in moves], 1)
        found = []
        for image, some, rows in zip(images, remarks, probabilities, strict=True):
            doubtful = rows.mean(0)[rows[0].argmax()] < DOUBT and BLANK not in some
            found.append(Reading(rows[0], image, [*some, DOUBTFUL] if doubtful else some, self.class_names))
        return found


@dataclasses.dataclass(frozen=True)
class Reading:
    """probabilities: float32 [classes]; pixels: uint8 [H, W] or [H, W, 3], what the model saw; warnings: about the
    image; class_names: of all classes, as the model's file has them.
    """

    probabilities: np.ndarray
    pixels: np.ndarray
    warnings: list[str]
    class_names: tuple[str, ...]

    @property
    def index(self) -> int:
        """Of the likeliest class."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """The name of the likeliest class, which may hold any character."""
        return self.class_names[self.index]

    @property
    def digit(self) -> int:
        """MNIST's name for `index`."""
        return self.index

    @property
    def probability(self) -> float:
        return float(self.probabilities.max())

    def top(self, count: int) -> list[tuple[int, float]]:
        """The indices of the `count` likeliest classes and their probabilities, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(index), float(self.probabilities[index])) for index in order]


def read_model(path: Path, name: str) -> bytes:
    """The content of a model's file, which is that of the manifest beside it, if there is one. Raises PredictError."""
    try:
        with path.open("rb") as file:
            content = read_limited(file, MAX_MODEL_BYTES, name)
        check_manifest(path, content)
    except OSError as error:
        raise PredictError(f"{name} cannot be read: {error.strerror}") from error
    return content


def first_line(error: Exception) -> str:
    """Of a message that may quote a stranger's file."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0][:200])


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
    """The inputs and outputs of a session, as in `signatures`."""
    ends = session.get_inputs(), session.get_outputs()
    return tuple([(end.name, end.shape, end.type) for end in side] for side in ends)
