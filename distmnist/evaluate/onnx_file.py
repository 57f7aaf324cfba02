"""An exported model as an ONNX file that may come from a stranger: checked before ONNX Runtime sees it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional

from distmnist.checkpoint.source import check_described
from distmnist.config import Json
from distmnist.data.dataset import DatasetFacts, LabelledImages
from distmnist.errors import UsageError
from distmnist.evaluate.models import Model
from distmnist.importing import told
from distmnist.models.inference import batch_size
from distmnist.text import shown
from distmnist.training.evaluation import Evaluation

SMALLEST = float(np.finfo(np.float32).tiny)
"""A probability below it counts as it: the loss of an image is at most 87 nats, where float32 has only 0 left."""

LOGITS, PIXELS = "logits", "pixels"
"""The kinds of exported files, by what they return or take."""


def load_onnx(path: Path) -> Model:
    """The model in <model>.onnx or <model>.pixels.onnx. Its metadata describe the data set that it was trained on.

    Raises UsageError: a file that holds more than a feed-forward model, that cannot be loaded, or that does not say
    what it was trained on.
    """
    from distmnist.export.predict import PredictError, check_manifest, check_model, default_threads, session_options

    try:
        content = path.read_bytes()
        check_model(content)
        check_manifest(path, content)
    except PredictError as error:
        raise UsageError(str(error).replace("the model", str(path), 1)) from error
    try:
        session = onnxruntime.InferenceSession(
            content, session_options(default_threads()), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime has an exception for each of its codes, and no common base
        raise UsageError(f"{path} cannot be loaded: {told(error)}") from error
    said = session.get_modelmeta().custom_metadata_map
    facts = described(said, path)
    kind = kind_of(session, facts, path)

    def evaluate(images: LabelledImages) -> Evaluation:
        predictions = torch.zeros(len(images), dtype=torch.int64)
        losses = torch.zeros(len(images), dtype=torch.float32)
        for rows in torch.arange(len(images)).split(batch_size(images.shape)):
            try:
                answers = ask_pixels(session, images, rows) if kind == PIXELS else ask_logits(session, images, rows)
            except Exception as error:  # see above; and a file may declare other shapes than it returns
                raise UsageError(f"{path} fails on these images: {told(error)}; export the model again") from error
            predictions[rows], losses[rows] = answers
        return Evaluation(predictions, losses, images.labels, len(facts.class_names))

    name = shown(said.get("model") or path.name.partition(".")[0])
    return Model(name, facts, training_options(said), evaluate)


def described(said: Mapping[str, str], path: Path) -> DatasetFacts:
    """What the metadata say of the data set. Raises UsageError."""
    try:
        facts = msgspec.json.decode(said["dataset"], type=DatasetFacts)
    except (KeyError, msgspec.DecodeError, RecursionError) as error:
        raise UsageError(
            f"{path} does not say what it was trained on ({told(error)} in its metadata); export the model again"
        ) from error
    check_described(facts, path)
    return facts


def training_options(said: Mapping[str, str]) -> dict[str, Json]:
    """The options of the training, by which images of the user's own are found; {} where the file does not say."""
    try:
        return msgspec.json.decode(said.get("training_options", "{}"), type=dict[str, Json])
    except (msgspec.DecodeError, RecursionError):
        return {}


def kind_of(session: onnxruntime.InferenceSession, facts: DatasetFacts, path: Path) -> str:
    """The kind of the file. Raises UsageError for other inputs and outputs than an exported model's."""
    ends = [
        {end.name: (end.type.removeprefix("tensor(").removesuffix(")"), tuple(end.shape[1:])) for end in side}
        for side in (session.get_inputs(), session.get_outputs())
    ]
    (channels, *size), classes = facts.shape, len(facts.class_names)
    pixels = tuple(size) if channels == 1 else (*size, channels)
    wanted = {
        LOGITS: [{"input": ("float", facts.shape)}, {"logits": ("float", (classes,))}],
        PIXELS: [{"pixels": ("uint8", pixels)}, {"probabilities": ("float", (classes,)), "label": ("int64", ())}],
    }
    for kind, known in wanted.items():
        if ends == known:
            return kind
    raise UsageError(
        f"{path} has other inputs and outputs than an exported model for images of"
        f" {' x '.join(map(str, facts.shape))} and {classes} classes; export the model again"
    )


def ask_logits(session: onnxruntime.InferenceSession, images: LabelledImages, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The predictions, int64 [b], and the losses, float32 [b], of the images with the indices `rows`, int64 [b]."""
    normalised, labels = images.batch(rows)
    logits = torch.from_numpy(session.run(["logits"], {"input": normalised.numpy()})[0])
    return logits.argmax(1), functional.cross_entropy(logits, labels, reduction="none")


def ask_pixels(session: onnxruntime.InferenceSession, images: LabelledImages, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Like `ask_logits`; a loss is that of the probability of the image's label."""
    chosen = images.select(rows)
    pixels = chosen.images.squeeze(1) if chosen.shape[0] == 1 else chosen.images.movedim(1, 3).contiguous()
    found = session.run(["probabilities", "label"], {"pixels": pixels.numpy()})
    probabilities, predictions = map(torch.from_numpy, found)
    if not bool(((predictions >= 0) & (predictions < probabilities.shape[1])).all()):
        raise ValueError("a label that is no class")
    of_label = probabilities.gather(1, chosen.labels[:, None]).squeeze(1)
    return predictions, -of_label.clamp(min=SMALLEST).log()
