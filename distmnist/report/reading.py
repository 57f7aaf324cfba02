"""Reads what train, study and sweep left behind, and believes none of it before it has been checked."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch

from distmnist.checkpoint.record import Epoch, ModelResult
from distmnist.commandline import quoted
from distmnist.config import is_custom, short_name
from distmnist.data import sources
from distmnist.data.dataset import Dataset, DatasetFacts
from distmnist.errors import UsageError
from distmnist.models.build import MODELS
from distmnist.runs.records import FINISHED, RunConfig, RunSummary, StudyResult, SweepResult
from distmnist.runs.records import read as read_record
from distmnist.runs.rundir import noted_data
from distmnist.training.evaluation import Evaluation

R = TypeVar("R", RunSummary, StudyResult, SweepResult)


@dataclasses.dataclass(frozen=True)
class Net:
    """One model of one run. options: as config.json has them.

    predictions, labels: integers [n], below the number of class names; losses: float32 [n].
    """

    run: Path
    name: str
    seed: int
    dataset: DatasetFacts
    options: Mapping[str, object]
    result: ModelResult
    history: list[Epoch]
    predictions: np.ndarray
    labels: np.ndarray
    losses: np.ndarray

    @property
    def model(self) -> str:
        """As --model named it, where `name` may be short for it."""
        return str(self.options.get("model", self.name))

    @cached_property
    def evaluation(self) -> Evaluation:
        """Of its predictions: what summary.json says, counted again."""
        predictions, losses, labels = map(torch.from_numpy, (self.predictions, self.losses, self.labels))
        return Evaluation(predictions.long(), losses, labels.long(), len(self.dataset.class_names))


@dataclasses.dataclass(frozen=True)
class Run:
    path: Path
    summary: RunSummary
    nets: dict[str, Net]
    of_study: bool = False


@dataclasses.dataclass(frozen=True)
class Material:
    """Everything that one page is about; dataset: the same for all."""

    dataset: DatasetFacts
    runs: list[Run]
    study: StudyResult | None
    sweeps: list[SweepResult]


def read(paths: Sequence[Path]) -> Material:
    """Raises UsageError, one line: no such thing, unfinished, damaged, of different data sets, or named twice."""
    runs: list[Run] = []
    studies: list[StudyResult] = []
    sweeps: list[SweepResult] = []
    found: list[tuple[DatasetFacts, Path]] = []
    for path in paths:
        if (path / "study.json").is_file():
            studies.append(read_finished(path / "study.json", StudyResult))
            runs += [dataclasses.replace(read_run(member), of_study=True) for member in members(path, studies[-1])]
            found.append((studies[-1].dataset, path))
        elif (path / "sweep.json").is_file():
            sweeps.append(read_sweep(path / "sweep.json"))
            found.append((sweeps[-1].dataset, path))
        else:
            runs.append(read_run(path))
    found += [(run.summary.dataset, run.path) for run in runs]
    dataset, first = found[0]
    for other, path in found:
        if difference := other.difference(dataset):
            raise UsageError(
                f"results of different data sets do not compare: {path} and {first}: {difference}; name those of one"
            )
    if len(studies) > 1:
        raise UsageError("a page is about one study; name one")
    refuse_twins(runs)
    return Material(dataset, runs, studies[0] if studies else None, sweeps)


def read_finished(path: Path, kind: type[R]) -> R:
    """Raises UsageError if the file cannot be read, or tells of something unfinished."""
    content = read_record(path, kind)
    if content.status != FINISHED:
        raise UsageError(f"{path.parent} is not finished ({content.status}): finish it first: run its command again")
    return content


def members(path: Path, study: StudyResult) -> list[Path]:
    """The runs that the study names and that are still there; its own figures stand without them."""
    named = [path / "runs" / f"{recipe}-seed{seed}" for recipe in study.recipes for seed in study.seeds]
    return [member for member in named if member.is_dir()]


def read_sweep(path: Path) -> SweepResult:
    sweep = read_finished(path, SweepResult)
    if not sweep.trials or not sweep.winner:
        raise UsageError(f"{path} has no trial or no winner: damaged")
    return sweep


def read_run(path: Path) -> Run:
    """One finished run's directory. UsageError: it is none."""
    if not (path / "config.json").is_file():
        raise UsageError(f"{path} is no run, study or sweep (no config.json, study.json or sweep.json); name one")
    if not (path / "summary.json").is_file():
        raise UsageError(f"{path} is not finished; resume it: --resume --output {quoted(path)}")
    summary = read_finished(path / "summary.json", RunSummary)
    config = read_record(path / "config.json", RunConfig)
    nets = {}
    for name, result in summary.models.items():
        options = config.options.get(name, {})
        if name not in MODELS and not is_custom_named(name, options.get("model")):
            raise UsageError(f"{path} holds the model {name!r}; distmnist.models has {', '.join(MODELS)}")
        seed = options.get("seed")
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise UsageError(f"{path / 'config.json'} is damaged: {name} has no random seed")
        answers = read_predictions(path, name, result, len(summary.dataset.class_names))
        nets[name] = Net(path, name, seed, summary.dataset, options, result, read_history(path, name), *answers)
    if not nets:
        raise UsageError(f"{path} holds no finished model")
    return Run(path, summary, nets)


def is_custom_named(name: str, model: object) -> bool:
    """Whether `name`, under which a run has a model, is short for a model of the user's own: then it is a safe path."""
    return isinstance(model, str) and is_custom(model) and short_name(model) == name and name.isidentifier()


def read_history(run: Path, net: str) -> list[Epoch]:
    path = run / net / "metrics.jsonl"
    try:
        history = msgspec.json.Decoder(Epoch).decode_lines(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    if not history:
        raise UsageError(f"{path} is empty")
    return history


def read_predictions(
    run: Path, net: str, result: ModelResult, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """predictions, labels, losses. UsageError: damaged, or not what summary.json counted."""
    path = run / net / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            predictions, labels, losses = (arrays[name] for name in ("predictions", "labels", "losses"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    shape = labels.shape
    if len(shape) != 1 or not (predictions.shape == losses.shape == shape) or not np.isfinite(losses).all():
        raise UsageError(f"{path} is damaged: its arrays do not fit each other")
    for found in (predictions, labels):
        if found.dtype.kind not in "iu" or not 0 <= found.min(initial=0) <= found.max(initial=0) < classes:
            raise UsageError(f"{path} is damaged: a class that is not from 0 to {classes - 1}")
    correct = int((predictions == labels).sum())
    if correct != result.correct or abs(correct - result.test_accuracy * len(labels)) > 1e-6 * len(labels):
        raise UsageError(f"{path} does not belong to summary.json: it counts other right answers")
    return predictions, labels, losses


def refuse_twins(runs: Sequence[Run]) -> None:
    """The same model twice with the same options and random seed is no second, independent result."""
    known: dict[str, Path] = {}
    for run in runs:
        for net in run.nets.values():
            key = json.dumps([net.model, sorted((k, v) for k, v in net.options.items() if k in result_options())])
            if key in known:
                raise UsageError(
                    f"{known[key]} and {run.path} trained {net.name} with the same options and random seed:"
                    " they are not independent repeats; name one of them"
                )
            known[key] = run.path


def result_options() -> set[str]:
    """The names of the options that change the trained weights; the data apart, which are one set on a page."""
    from distmnist.config import TrainConfig

    return {field.name for field in dataclasses.fields(TrainConfig)} - {"model", "data"}


def find_dataset(material: Material, data: str | None, data_dir: Path | None) -> Dataset:
    """The data set that the runs were tested on; data: where images of the user's own are now, see
    `sources.find_dataset`. UsageError: it is not on this machine, or is damaged."""
    noted = [place for run in material.runs for place in noted_data(run.path)]
    options = next(
        net.options for run in material.runs for net in run.nets.values()
    )  # it is asked where there are some
    purpose = "the page shows its test images"
    return sources.find_dataset(material.dataset, options, data, data_dir, noted, purpose)
