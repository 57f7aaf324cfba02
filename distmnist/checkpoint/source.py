"""Finds the snapshots of a run, believes nothing in them, and rebuilds the trained nets."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

from torch import nn

from distmnist.checkpoint import storage
from distmnist.config import ACTIVATIONS
from distmnist.errors import UsageError
from distmnist.models.published import MODELS, build_model

MAX_BYTES = 512 * 2**20
"""Of a snapshot, on disk and unpacked: a hundred times what the larger net with its optimizer takes."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """One net as it was trained: in evaluation mode, float32, on the CPU.

    options: those that changed the result, by name; dataset: name and sizes; result: the figures of summary.json, None
    if training was interrupted.
    """

    name: str
    net: nn.Module
    weights_sha256: str
    options: dict[str, Any]
    dataset: dict[str, Any]
    result: dict[str, Any] | None
    written: str | None = None
    """When the snapshot was written, UTC; None where it does not say, as `versions`."""
    versions: dict[str, str] | None = None


def load(path: Path) -> tuple[list[Trained], list[str]]:
    """The nets of a run's directory in the order of MODELS, or that of one snapshot; and warnings.

    Raises UsageError, one line: nothing there, damaged, hostile, or of a net that this distmnist does not have.
    """
    if path.is_file():
        check_size(path)
        return [from_snapshot(read(storage.load, path), path)], []
    if not path.is_dir():
        raise UsageError(f"{path} does not exist; name a run's directory or a snapshot (.pt)")
    folders = [path] if holds_snapshot(path) else [f for f in sorted(path.iterdir()) if holds_snapshot(f)]
    if not folders:
        raise UsageError(f"{path} holds no snapshot (<model>/{storage.LAST}); train one with distmnist.train")
    nets, warnings = {}, []
    for folder in folders:
        for name in (storage.LAST, storage.PREVIOUS):
            check_size(folder / name)
        snapshot, trouble = read(storage.load_newest, folder)
        if trouble:
            warnings.append(f"{trouble}; taking the one before it")
        trained = from_snapshot(snapshot, folder)
        if trained.name in nets:
            raise UsageError(f"{path} holds {trained.name} twice; name one of its snapshots")
        nets[trained.name] = trained
    return [nets[name] for name in MODELS if name in nets], warnings


def holds_snapshot(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (storage.LAST, storage.PREVIOUS))


def check_size(path: Path) -> None:
    """Raises UsageError if the file, or what it unpacks to, is larger than MAX_BYTES. Absent or damaged: no matter."""
    if not path.is_file():
        return
    size = path.stat().st_size
    if size <= MAX_BYTES:
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            # No archive, or one of a later ZIP version: checkpoint reads it next, and refuses it in its own words.
            return
    if size > MAX_BYTES:
        raise UsageError(f"{path} is too large for a snapshot: {size:,} bytes, the limit is {MAX_BYTES:,}")


def read(how: Any, path: Path) -> Any:
    """how(path). torch's unpickler meets a hostile file with whatever exception comes: all are one line here."""
    try:
        return how(path)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path} is no snapshot that can be read: {type(error).__name__}") from error


def from_snapshot(snapshot: dict[str, Any], where: Path) -> Trained:
    try:
        options, result = dict(snapshot["config"]), snapshot["result"]
        net = build(options["model"], options, where)
        fill(net, snapshot["model"], where)
        json.dumps(options)
        dataset = {key: snapshot["dataset"][key] for key in ("name", "train", "test")}
        digest = storage.weights_sha256(net.state_dict())
        written, versions = snapshot.get("written"), snapshot.get("versions")
        if not isinstance(written, str | None) or not isinstance(versions, dict | None):
            raise TypeError("written or versions")
        json.dumps(versions)
        said = digest if result is None else result["weights_sha256"]
        float(result["test_accuracy"] if result else 0), float(result["train_seconds"] if result else 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{where} is no snapshot of a net: {type(error).__name__} {error}") from error
    if said != digest:
        raise UsageError(f"{where} contradicts itself: its weights are not those whose result it holds; train again")
    return Trained(options["model"], net, digest, options, dataset, result, written, versions)


def build(name: str, options: dict[str, Any], where: Path) -> nn.Module:
    """The net `name` of MODELS, not yet with its weights. Raises UsageError: unknown net or options."""
    activation, dropout = options.get("activation", "relu"), options.get("dropout", 0.0)
    if name not in MODELS:
        raise UsageError(f"{where} holds the net {name!r}; distmnist.models has {', '.join(MODELS)}")
    if activation not in ACTIVATIONS or not isinstance(dropout, float | int) or not 0 <= dropout < 1:
        raise UsageError(f"{where} has activation {activation!r} and dropout {dropout!r}, which no net has")
    return build_model(name, activation=activation, dropout=float(dropout))


def fill(net: nn.Module, state: dict[str, Any], where: Path) -> None:
    """Gives the net its trained weights and readies it to be asked. UsageError: they do not fit, or are not finite."""
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(f"{where}: the weights do not fit the net: {reason}") from error
    net.requires_grad_(False).eval()
    if broken := [key for key, tensor in net.state_dict().items() if not bool(tensor.isfinite().all())]:
        raise UsageError(f"{where}: {broken[0]} is not finite; train again with a lower --lr")
