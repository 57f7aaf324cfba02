"""An exported net, ready to answer."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from .errors import BLANK, DOUBTFUL, PredictError
from .model_file import MAX_MODEL_BYTES, check_manifest, check_model, read_limited

if TYPE_CHECKING:
    from PIL.Image import Image

FLOAT, UINT8, INT64 = "tensor(float)", "tensor(uint8)", "tensor(int64)"
SIGNATURES = {
    "logits": ([("input", ["batch", 1, 28, 28], FLOAT)], [("logits", ["batch", 10], FLOAT)]),
    "pixels": (
        [("pixels", ["batch", 28, 28], UINT8)],
        [("probabilities", ["batch", 10], FLOAT), ("label", ["batch"], INT64)],
    ),
}
"""kind of file -> its inputs and outputs: (name, shape, type)."""

DOUBT = 0.7
"""Mean probability of the answer, over the image as it is and moved by a pixel in four directions, below which it is
doubtful. Chosen on development seeds of benchmarks/pictures.py: more would warn of many right answers (2 % at 0.8)."""


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
        from .digits import prepare
        from .images import open_image

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
