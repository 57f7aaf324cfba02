"""What runs, studies and sweeps leave as JSON: a type for each file, all read by one function.

msgspec checks the type of every field and says where a wrong one is. Fields with a default may be missing.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TypeVar

import msgspec

from distmnist.checkpoint.record import JsonRecord, ModelResult, as_json
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
    given: Mapping[str, object]
    options: Mapping[str, Mapping[str, object]]
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over random seeds. std: of the sample; low, high: 95 % interval of the mean. None: one seed."""

    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None
    values: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class McNemar(JsonRecord):
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
class Mean:
    """A mean over random seeds with its 95 % interval; None: one random seed has none."""

    mean: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonFacts(JsonRecord):
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
class SweepResult:
    """sweep.json, with the `SweepFacts`. proposed: the settings in order; winner: None until all is finished."""

    schema: int = SCHEMA
    status: str
    dataset: DatasetFacts
    search: str
    space: dict[str, list[Json]]
    val_fraction: float
    jobs: str
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


Record = RunConfig | RunSummary | StudyResult | SweepResult
"""A file's content."""

R = TypeVar("R", bound=Record)


class _Versioned(msgspec.Struct):
    schema: int = SCHEMA


def read(path: Path, kind: type[R]) -> R:
    """The content of a file. Raises FileNotFoundError, and UsageError: unreadable, damaged, or of another schema."""
    try:
        # Not by msgspec: it refuses what a path that is not UTF-8 looks like in JSON.
        content = json.loads(path.read_bytes(), parse_float=finite, parse_constant=finite)
        schema = msgspec.convert(content, _Versioned).schema
        found = msgspec.convert(content, kind) if schema == SCHEMA else None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: damaged, or of another version of distmnist: {error}") from error
    if found is None:
        raise UsageError(f"{path} has schema {schema}; this distmnist reads {SCHEMA}")
    return found


def finite(text: str) -> float:
    """A number of a JSON file. Raises ValueError for NaN and infinity, which are none."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def encode(record: Record) -> bytes:
    """The content of a file."""
    return (json.dumps(as_json(record), indent=2) + "\n").encode()
