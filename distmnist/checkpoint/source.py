"""Finds the checkpoints of a run, validates them, and rebuilds the trained nets."""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from distmnist.checkpoint import storage
from distmnist.checkpoint.record import Checkpoint, ModelResult
from distmnist.config import ACTIVATIONS, Json, is_custom, short_name
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError
from distmnist.models.build import MODELS, build_model
from distmnist.models.custom import check_model
from distmnist.text import shown, some

SLACK = 64 * 2**20
"""Bytes that a checkpoint may always have, and what it says beside its tensors: histories, confusion matrices."""

COPIES = 8
"""Of a model's parameters and buffers that a checkpoint may hold: Adam's has three."""


DEFAULTS: dict[str, Json] = {"activation": "relu", "dropout": 0.0, "seed": 0}
"""Options that a model is built with, where an older checkpoint does not say them."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Trained:
    """One net as it was trained: in evaluation mode, float32, on the CPU.

    name: as in summary.json, where options["model"] is as in --model; options: those that changed the result, by name;
    dataset: what it was trained on; result: the figures of summary.json, None if training was interrupted.
    """

    name: str
    net: nn.Module
    weights_sha256: str
    options: dict[str, Json]
    dataset: DatasetFacts
    result: ModelResult | None
    written: str | None = None
    """When the checkpoint was written, UTC; None where it does not say, as `versions`."""
    versions: dict[str, str] | None = None


def load(path: Path, model: str | None = None, model_args: str | None = None) -> tuple[list[Trained], list[str]]:
    """The nets of a run's directory, those of MODELS first and in its order, or that of one checkpoint; and warnings.

    model: package.module:callable as the user typed it, which may be imported; model_args: as typed, by default those
    of the checkpoint. A custom model that was not typed is left out of a run's directory: nothing that a file names is
    imported.

    Raises UsageError, one line: nothing there, damaged, hostile, of a model that this distmnist does not have or that
    was not typed, or nothing there of the model that was typed.
    """
    if path.is_file():
        check_size(path)
        return [from_checkpoint(read(storage.load, path), path, model, model_args)], []
    if not path.is_dir():
        raise UsageError(f"{path} does not exist; name a run's directory or a checkpoint (.pt)")
    folders = [path] if holds_checkpoint(path) else [f for f in sorted(path.iterdir()) if holds_checkpoint(f)]
    if not folders:
        raise UsageError(f"{path} holds no checkpoint (<model>/{storage.LAST}); train one with distmnist.train")
    nets: dict[str, Trained] = {}
    found: list[Json] = []
    warnings, left_out = [], []
    for folder in folders:
        checkpoint, trouble = load_newest(folder)
        if trouble:
            warnings.append(trouble)
        found.append(checkpoint.config.get("model"))
        if len(folders) > 1 and is_custom(found[-1]) and found[-1] != model:
            left_out.append(not_typed(found[-1], folder))
            continue
        typed = (model, model_args) if found[-1] == model or len(folders) == 1 else (None, None)
        trained = from_checkpoint(checkpoint, folder, *typed)
        if trained.name in nets:
            raise UsageError(f"{path} holds {trained.name} twice; name one of its checkpoints")
        nets[trained.name] = trained
    if model is not None and model not in found:
        raise UsageError(f"{path} holds {some(list(map(str, found)))}, not {model}; correct --model, or leave it out")
    if not nets:
        raise UsageError(left_out[0])
    warnings += [f"left out: {reason}" for reason in left_out]
    return sorted(nets.values(), key=lambda trained: [*MODELS, trained.name].index(trained.name)), warnings


def load_newest(folder: Path) -> tuple[Checkpoint, str | None]:
    """The newest whole checkpoint in a folder that has some, and what is wrong with a newer one. Raises UsageError."""
    for name in (storage.LAST, storage.PREVIOUS):
        check_size(folder / name)
    checkpoint, trouble = read(storage.load_newest, folder)
    assert checkpoint is not None, "there is a file"
    return checkpoint, f"{trouble}; taking the one before it" if trouble else None


def not_typed(name: Json, where: Path) -> str:
    """Why a custom model cannot be had from its checkpoint, and what to do."""
    named = shown(str(name))
    return (
        f"{where} holds {named}, a custom model; add --model {named}, because no file of a run chooses what is imported"
    )


def holds_checkpoint(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (storage.LAST, storage.PREVIOUS))


def check_size(path: Path) -> None:
    """Raises UsageError if the file is larger than a checkpoint of its model can be, or would grow when it is read.

    Absent or damaged: no matter. What is read of it here are the names and shapes of its tensors, not their numbers.
    """
    if not path.is_file():
        return
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # No archive, or one of a later ZIP version: storage reads it next, and refuses it in its own words.
        sizes = {}
    if sum(sizes.values()) > size:
        raise UsageError(f"{path} is no checkpoint: torch.save does not compress, and it would grow when it is read")
    if size <= SLACK:
        return
    described = sum(length for name, length in sizes.items() if name.endswith("/data.pkl"))
    limit = SLACK if not sizes or described > SLACK else SLACK + COPIES * model_bytes(path)
    if size > limit:
        raise UsageError(f"{path} is too large for a checkpoint: {size:,} bytes, the limit is {limit:,}")


def model_bytes(path: Path) -> int:
    """How much a model of the kind that a checkpoint names takes: one of the user's own, as much as it says itself.

    0 for what is no checkpoint.
    """
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
        checkpoint = Checkpoint.from_dict(content)
    except Exception:  # storage reads it next, and says what is wrong
        return 0
    name, state = str(checkpoint.config.get("model")), checkpoint.model
    if not is_custom(name):
        state = build(name, checkpoint.config, checkpoint.dataset, path).state_dict()
    return sum(tensor.nbytes for tensor in state.values())


def read(how: Callable[[Path], T], path: Path) -> T:
    """how(path). torch's unpickler meets a hostile file with whatever exception comes: all are one line here."""
    try:
        return how(path)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path} is no checkpoint that can be read: {type(error).__name__}") from error


def from_checkpoint(
    checkpoint: Checkpoint, where: Path, model: str | None = None, model_args: str | None = None
) -> Trained:
    """The trained model. model, model_args: see `load`.

    Raises UsageError if its weights are of no model that may be built, or not those that its result is of.
    """
    options, result = checkpoint.config, checkpoint.result
    name = str(options.get("model"))
    net = build(name, options, checkpoint.dataset, where, model, model_args)
    fill(net, checkpoint.model, where)
    digest = storage.weights_sha256(net.state_dict())
    if result and result.weights_sha256 != digest:
        raise UsageError(f"{where} contradicts itself: its weights are not those whose result it holds; train again")
    short, facts = short_name(name), checkpoint.dataset
    return Trained(short, net, digest, options, facts, result, checkpoint.written, checkpoint.versions)


def build(
    name: str,
    options: Mapping[str, Json],
    dataset: DatasetFacts,
    where: Path,
    model: str | None = None,
    model_args: str | None = None,
) -> nn.Module:
    """The model `name`, as a file names it, for such a data set.

    One of MODELS comes without weights, on the device "meta", so it takes no memory. A custom model is built on the
    CPU and tried, but only if it is `model`, which the user typed: see `load`. It has the initial weights of its
    training, and so has whatever a state dict leaves out.

    Raises UsageError: unknown net or options, a description that is of no data set, another model than was typed, and
    whatever `build_model` and `check_model` refuse.
    """
    activation, dropout, seed = (options.get(key, value) for key, value in DEFAULTS.items())
    if model is not None and model != name:
        raise UsageError(f"{where} holds {shown(name)}, not {model}; correct --model, or leave it out")
    if model is None and is_custom(name):
        raise UsageError(not_typed(name, where))
    if name not in MODELS and not is_custom(name):
        raise UsageError(f"{where} holds the net {name!r}; distmnist.models has {', '.join(MODELS)}")
    if activation not in ACTIVATIONS or not isinstance(dropout, float | int) or not 0 <= dropout < 1:
        raise UsageError(f"{where} has activation {activation!r} and dropout {dropout!r}, which no net has")
    check_described(dataset, where)
    stored = options.get("model_args")
    if type(seed) is not int or not isinstance(stored, str | None):
        raise UsageError(f"{where} is damaged: its seed or its model_args are of another type")
    channels, height, width = dataset.shape
    classes = len(dataset.class_names)
    try:
        with torch.device("cpu" if is_custom(name) else "meta"):
            net = build_model(
                name,
                num_classes=classes,
                in_chans=channels,
                image_size=(height, width),
                activation=str(activation),
                dropout=float(dropout),
                seed=seed,
                model_args=stored if model_args is None else model_args,
            )
    except (UsageError, RuntimeError) as error:
        raise UsageError(f"{where}: {error}") from error
    if is_custom(name):
        check_model(net, dataset.shape, classes, f"--model {name}")
    return net


def check_described(dataset: DatasetFacts, where: Path) -> None:
    """Raises UsageError for a description that is of no data set; where: the file that has it."""
    channels = dataset.shape[0]
    described = len(dataset.mean) == len(dataset.std) == channels and min(dataset.shape) > 0 and min(dataset.std) > 0
    if not described or not dataset.class_names:
        raise UsageError(f"{where} describes a data set that cannot be: {dataset.to_json()}")


def fill(net: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Gives the net its trained weights and readies it to be asked. UsageError: they do not fit, or are not finite."""
    try:
        # Strides as in a new model: torch chooses kernels by them, and training may have left those of channels last.
        plain = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
        net.load_state_dict(plain, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(f"{where}: the weights do not fit the net: {reason}") from error
    net.float().requires_grad_(False).eval()
    # Of the parameters alone: a mask among a custom model's buffers may well hold infinity.
    if broken := [key for key, tensor in net.named_parameters() if not bool(tensor.isfinite().all())]:
        raise UsageError(f"{where}: {broken[0]} is not finite; train again with a lower --lr")
