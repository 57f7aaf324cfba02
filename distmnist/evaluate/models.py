"""The models that are evaluated: those of a run, of one checkpoint, or of an ONNX file."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from distmnist.checkpoint import source
from distmnist.checkpoint.source import Trained
from distmnist.config import Json, TrainConfig, from_json
from distmnist.data.dataset import DatasetFacts, LabelledImages
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.training.evaluation import Evaluation, evaluate
from distmnist.training.parts import choose_forward

ZIP, ONNX = b"PK", b"\x08"
"""How files begin: a checkpoint, which is a ZIP archive, and an ONNX file, whose first field is the IR version."""


@dataclasses.dataclass(frozen=True)
class Model:
    """dataset: what it was trained on; options: those of its training, as JSON has them.

    evaluate: asks it about images, uint8 [n, C, H, W], which are normalised on the way.
    """

    name: str
    dataset: DatasetFacts
    options: Mapping[str, Json]
    evaluate: Callable[[LabelledImages], Evaluation]


def load(path: Path, model: str | None, model_args: str | None) -> tuple[list[Model], list[str]]:
    """The models in `path`, and warnings. A file is recognised by its content.

    model, model_args: a custom model as it was typed: see `source.load`. Raises UsageError for what cannot be used.
    """
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(2)
        if start.startswith(ONNX):
            if model is not None:
                raise UsageError(f"--model is for checkpoints, and {path} holds its model itself; leave it out")
            from distmnist.evaluate.onnx_file import load_onnx  # imports ONNX Runtime

            return [load_onnx(path)], []
        if start != ZIP:
            raise UsageError(
                f"{path} is neither a checkpoint nor an ONNX file; name a run's directory, a checkpoint (last.pt) or"
                " MODEL.onnx"
            )
    trained, warnings = source.load(path, model, model_args)
    warnings += [f"{one.name} is not finished: its training was interrupted" for one in trained if one.result is None]
    return [from_trained(one) for one in trained], warnings


def from_trained(trained: Trained) -> Model:
    """The model, asked as in its training: with the same batches, memory format and replacements of fast/.

    So its figures are those of summary.json, bit for bit on one type of processor.
    """
    own = {name: value for name, value in trained.options.items() if name in TrainConfig().options()}
    config = TrainConfig.of({**from_json(own), "model": trained.options["model"]})
    classes = len(trained.dataset.class_names)

    def ask(images: LabelledImages) -> Evaluation:
        net, _ = choose_forward(trained.net, config, torch.device("cpu"), config.amp)
        return evaluate(net, images, classes, World())

    return Model(trained.name, trained.dataset, trained.options, ask)
