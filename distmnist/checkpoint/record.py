"""What a checkpoint holds, as types. Schema 2; schema 1, the first edition's, is read as well.

Files are read with msgspec, which checks the type of every field and says where a wrong one is.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

import msgspec
from torch import Tensor

from distmnist.config import Json
from distmnist.data.dataset import DatasetFacts

SCHEMA = 2


class JsonRecord:
    """A dataclass that is written as a JSON object, without the fields that are None."""

    __dataclass_fields__: ClassVar[dict[str, "dataclasses.Field[object]"]]

    def to_json(self) -> dict[str, object]:
        return {name: as_json(value) for name, value in vars(self).items() if value is not None}


def as_json(value: object) -> object:
    """The value as JSON has it, dataclasses as objects. A field that is None is null; a `JsonRecord` leaves it out."""
    if isinstance(value, JsonRecord):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: as_json(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(content) for content in value]
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epoch(JsonRecord):
    """One line of metrics.jsonl. step: batches consumed in all; losses: mean cross entropies, in nats."""

    epoch: int
    step: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    lr: float
    images_per_second: float
    val_loss: float | None = None
    val_accuracy: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgressState:
    """How far a fit has come. global_step: batches consumed; optimizer_steps: without those that fp16 skipped.

    loss_sum: nats, over the images of the epoch so far; train_seconds, epoch_seconds: of training alone.
    """

    global_step: int
    optimizer_steps: int
    loss_sum: float
    history: tuple[Epoch, ...]
    train_seconds: float
    epoch_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialWeights(JsonRecord):
    """What --weights gave. sha256: of the file; reinitialized: parameters that kept their random weights."""

    sha256: str
    reinitialized: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelResult(JsonRecord):
    """A model's entry in summary.json. Losses in nats; `notebook_test_loss` in the published convention.

    precision, recall, f1: per class, like `per_class_accuracy`, which is the recall. The first edition wrote neither
    them nor `balanced_accuracy`.
    """

    test_accuracy: float
    test_loss: float
    notebook_test_loss: float
    correct: int
    count: int
    per_class_accuracy: list[float]
    confusion: list[list[int]]
    balanced_accuracy: float | None = None
    precision: list[float] | None = None
    recall: list[float] | None = None
    f1: list[float] | None = None
    parameters: int
    epochs: int
    steps: int
    train_loss: float
    train_seconds: float
    images_per_second: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    weights_sha256: str
    initial_weights: InitialWeights | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that training is resumed from, and the model's description.

    model: the bare state dict; optimizer, scaler: torch's own states; config: the options that change the result, with
    the model's name; fast: what replaced plain PyTorch, in words; result: None until training is finished; written:
    UTC; versions: of what it was trained with; initial_weights: where training started. Tensors are on the CPU.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, object]
    scaler: dict[str, object]
    progress: ProgressState
    config: dict[str, Json]
    dataset: DatasetFacts
    result: ModelResult | None = None
    fast: tuple[str, ...] | None = None
    written: str | None = None
    versions: dict[str, str] | None = None
    initial_weights: InitialWeights | None = None

    def to_dict(self) -> dict[str, object]:
        """What `from_dict` reads. It shares its tensors with the checkpoint."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        progress = {**dataclasses.asdict(self.progress), "history": [e.to_json() for e in self.progress.history]}
        records = {name: as_json(own[name]) for name in ("dataset", "result", "initial_weights")}
        return {**own, **records, "schema": SCHEMA, "progress": progress}

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> Self:
        """Raises msgspec.ValidationError, which says what is wrong where."""
        if content.get("version") == 1:
            content = from_schema_1(content)
        return msgspec.convert(content, cls)


def schema_of(content: object) -> object:
    """The schema of what a file holds; None if it says none."""
    return content.get("schema", content.get("version")) if isinstance(content, dict) else None


def from_schema_1(content: Mapping[str, object]) -> dict[str, object]:
    """The content of a checkpoint of the first edition, as schema 2 has it."""
    train = msgspec.convert(content.get("train"), dict[str, object])
    progress = {name: train.get(name) for name in ("loss_sum", "history", "train_seconds", "epoch_seconds")}
    progress |= {"global_step": train.get("position"), "optimizer_steps": train.get("updates")}
    moved = {"optimizer": train.get("optimizer"), "scaler": train.get("scaler"), "progress": progress}
    return {**content, **moved}
