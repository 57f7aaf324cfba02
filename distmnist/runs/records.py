"""What runs, studies and sweeps leave as JSON: a type for each file, all read by one function.

Files are read with msgspec, which checks the type of every field and says where a wrong one is; JSON has no NaN and no
infinity. A field with a default is one that an older version did not write.
"""

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from distmnist.checkpoint.record import ModelResult
from distmnist.config import Json
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError

SCHEMA = 1
"""Of every file here."""

FINISHED, INTERRUPTED = "finished", "interrupted"
CONFIRMED, REFUTED, PARTLY, UNDECIDED = "confirmed", "refuted", "partly supported", "undecided"

Setting = dict[str, Json]
"""Options of training by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchFacts:
    """What started a run: see `rundir.Launch`."""

    run_id: str | None
    agents: list[str]
    attempt: int = 0
    process: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """config.json. given: the explicit options; options: model -> all that were in force.

    The values are checked where they are used, by `config.from_json` and `TrainConfig`, which name the option.
    """

    schema: int = SCHEMA
    distmnist: str = ""
    given: dict[str, object]
    options: dict[str, dict[str, object]]
    dataset: DatasetFacts | None = None
    launch: LaunchFacts | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """summary.json. models: model -> its result, once it is trained."""

    schema: int = SCHEMA
    status: str
    dataset: DatasetFacts
    world_size: int
    device: str
    hardware: str
    amp: str
    threads: int
    versions: dict[str, str]
    models: dict[str, ModelResult]

    def to_json(self) -> dict[str, object]:
        models = {name: result.to_json() for name, result in self.models.items()}
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "models": models}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over random seeds. std: of the sample; low, high: 95 % interval of the mean. None: one seed."""

    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None
    values: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's exact test of two trained models. only_a, only_b: images that this model alone gets right."""

    seed: int | None = None
    only_a: int
    only_b: int
    p: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ends:
    """A 95 % interval; None: one random seed has none."""

    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(Ends):
    """A mean over random seeds with its 95 % interval."""

    mean: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonFacts:
    """b against a: see `significance.Comparison`. recipe, or model: what the two have in common."""

    recipe: str | None = None
    model: str | None = None
    a: str
    b: str
    difference: Mean
    bootstrap: Ends
    mcnemar: list[McNemar]
    loss_ratio: Mean
    loss_ratio_bootstrap: Ends
    significant: bool
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A published claim, the verdict on it, and our figures in words."""

    claim: str
    verdict: str
    words: str

    def __post_init__(self) -> None:
        if self.verdict == "sharpened":  # the first edition's word
            object.__setattr__(self, "verdict", PARTLY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeFigures:
    """A model under a recipe in study.json. Losses in nats; `notebook_loss` in the published convention."""

    accuracy: Spread
    loss: Spread
    notebook_loss: Spread
    train_seconds: Spread
    parameters: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResult:
    """study.json. recipes: recipe -> model -> its figures over the finished runs."""

    schema: int = SCHEMA
    status: str
    dataset: DatasetFacts
    repeats: int
    seeds: list[int]
    versions: dict[str, str]
    jobs: str
    recipes: dict[str, dict[str, RecipeFigures]]
    comparisons: list[ComparisonFacts]
    recipe_comparisons: list[ComparisonFacts]
    claims: list[Claim]
    notes: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting that a sweep has tried with all its random seeds, on held-out images."""

    trial: int
    options: Setting
    seeds: list[int]
    val_accuracy: Spread
    train_seconds: Spread
    pareto: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailedTrial:
    trial: int
    options: Setting
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Winner:
    """The chosen setting, trained on all training images with other random seeds, and tested."""

    trial: int
    options: Setting
    seeds: list[int]
    test_accuracy: Spread
    test_loss: Spread
    train_seconds: Spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFacts:
    """What is known of a sweep before its first trial. space: option -> the values to try."""

    dataset: DatasetFacts
    search: str
    space: dict[str, list[Json]]
    val_fraction: float
    jobs: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResult(SweepFacts):
    """sweep.json. proposed: the settings in order; winner: None until all is finished."""

    schema: int = SCHEMA
    status: str
    model: str
    seeds: list[int]
    versions: dict[str, str]
    rule: str
    proposed: list[Setting]
    trials: list[Trial]
    failed: list[FailedTrial] = field(default_factory=list)
    winner: Winner | None
    claims: list[Claim]
    notes: list[str]

    def __post_init__(self) -> None:
        if self.search == "star":  # the first edition's word
            object.__setattr__(self, "search", "one-at-a-time")


class Record(Protocol):
    """A file's content: one of RunConfig, RunSummary, StudyResult and SweepResult."""

    @property
    def schema(self) -> int: ...


class _Versioned(msgspec.Struct):
    schema: int = SCHEMA


R = TypeVar("R", bound=Record)


def read(path: Path, kind: type[R]) -> R:
    """The content of a file. Raises FileNotFoundError, and UsageError: unreadable, damaged, or of another schema."""
    try:
        content = path.read_bytes()
        if (schema := msgspec.json.decode(content, type=_Versioned).schema) != SCHEMA:
            raise UsageError(f"{path} has schema {schema}; this distmnist reads {SCHEMA}")
        return msgspec.json.decode(content, type=kind)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: damaged, or of another version of distmnist: {error}") from error


def encode(record: Record) -> bytes:
    """The content of a file. A field that is None is null, but for a model's result, which leaves it out."""
    content = record.to_json() if isinstance(record, RunSummary) else record
    return (json.dumps(msgspec.to_builtins(content), indent=2) + "\n").encode()
