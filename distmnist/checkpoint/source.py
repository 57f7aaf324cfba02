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
from distmnist.config import ACTIVATIONS, Json, is_custom
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError
from distmnist.models.build import MODELS, build_model
from distmnist.text import shown

SLACK = 64 * 2**20
"""Bytes that a checkpoint may always have, and what it says beside its tensors: histories, confusion matrices."""

COPIES = 8
"""Of a model's parameters and buffers that a checkpoint may hold: Adam's has three."""


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Trained:
    """One net as it was trained: in evaluation mode, float32, on the CPU.

    options: those that changed the result, by name; dataset: what it was trained on; result: the figures of
    summary.json, None if training was interrupted.
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


def load(path: Path) -> tuple[list[Trained], list[str]]:
    """The nets of a run's directory in the order of MODELS, or that of one checkpoint; and warnings.

    A model of the user's own is left out of a run's directory: nothing that a file names is imported.

    Raises UsageError, one line: nothing there, damaged, hostile, or of no net that this distmnist has.
    """
    if path.is_file():
        check_size(path)
        return [from_checkpoint(read(storage.load, path), path)], []
    if not path.is_dir():
        raise UsageError(f"{path} does not exist; name a run's directory or a checkpoint (.pt)")
    folders = [path] if holds_checkpoint(path) else [f for f in sorted(path.iterdir()) if holds_checkpoint(f)]
    if not folders:
        raise UsageError(f"{path} holds no checkpoint (<model>/{storage.LAST}); train one with distmnist.train")
    nets, warnings = {}, []
    for folder in folders:
        checkpoint, trouble = load_newest(folder)
        if trouble:
            warnings.append(trouble)
        if is_custom(checkpoint.config.get("model")) and len(folders) > 1:
            warnings.append(f"{left_out(checkpoint, folder)}: left out")
            continue
        trained = from_checkpoint(checkpoint, folder)
        if trained.name in nets:
            raise UsageError(f"{path} holds {trained.name} twice; name one of its checkpoints")
        nets[trained.name] = trained
    if not nets:
        raise UsageError(f"{path} holds models of your own alone; only {' and '.join(MODELS)} can be exported so far")
    return [nets[name] for name in MODELS if name in nets], warnings


def load_newest(folder: Path) -> tuple[Checkpoint, str | None]:
    """The newest whole checkpoint in a folder that has some, and what is wrong with a newer one. Raises UsageError."""
    for name in (storage.LAST, storage.PREVIOUS):
        check_size(folder / name)
    checkpoint, trouble = read(storage.load_newest, folder)
    assert checkpoint is not None, "there is a file"
    return checkpoint, f"{trouble}; taking the one before it" if trouble else None


def left_out(checkpoint: Checkpoint, where: Path) -> str:
    """Why a model of the user's own cannot be had from its checkpoint."""
    name = shown(str(checkpoint.config.get("model")))
    return f"{where} holds {name}, a model of your own, and only {' and '.join(MODELS)} can be exported so far"


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


def from_checkpoint(checkpoint: Checkpoint, where: Path) -> Trained:
    """Raises UsageError if its weights are of no model here, or not those that its result is of."""
    options, result = checkpoint.config, checkpoint.result
    name = str(options.get("model"))
    if is_custom(name):
        raise UsageError(left_out(checkpoint, where))
    net = build(name, options, checkpoint.dataset, where)
    fill(net, checkpoint.model, where)
    digest = storage.weights_sha256(net.state_dict())
    if result and result.weights_sha256 != digest:
        raise UsageError(f"{where} contradicts itself: its weights are not those whose result it holds; train again")
    return Trained(name, net, digest, options, checkpoint.dataset, result, checkpoint.written, checkpoint.versions)


def build(name: str, options: Mapping[str, Json], dataset: DatasetFacts, where: Path) -> nn.Module:
    """The net `name` of MODELS for such a data set, without weights: on the device "meta", so it takes no memory.

    Raises UsageError: unknown net or options, or a description that is of no data set.
    """
    activation, dropout = options.get("activation", "relu"), options.get("dropout", 0.0)
    if name not in MODELS:
        raise UsageError(f"{where} holds the net {name!r}; distmnist.models has {', '.join(MODELS)}")
    if activation not in ACTIVATIONS or not isinstance(dropout, float | int) or not 0 <= dropout < 1:
        raise UsageError(f"{where} has activation {activation!r} and dropout {dropout!r}, which no net has")
    channels, height, width = dataset.shape
    described = len(dataset.mean) == len(dataset.std) == channels and min(dataset.shape) > 0 and min(dataset.std) > 0
    if not described or not dataset.class_names:
        raise UsageError(f"{where} describes a data set that cannot be: {dataset.to_json()}")
    try:
        with torch.device("meta"):
            return build_model(
                name,
                num_classes=len(dataset.class_names),
                in_chans=channels,
                image_size=(height, width),
                activation=str(activation),
                dropout=float(dropout),
            )
    except (UsageError, RuntimeError) as error:
        raise UsageError(f"{where}: {error}") from error


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
    if broken := [key for key, tensor in net.state_dict().items() if not bool(tensor.isfinite().all())]:
        raise UsageError(f"{where}: {broken[0]} is not finite; train again with a lower --lr")
