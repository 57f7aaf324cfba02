"""Snapshots: complete, checked and atomic. A file is either whole or it is refused.

A snapshot is what `torch.save` writes, then a footer: a magic word and the SHA-256 of all before it. `torch.load`
ignores the footer, so plain `torch.load(path, weights_only=True)` reads it too.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distmnist.errors import UsageError

VERSION = 1
MAGIC = b"distmnist-sha256"
FOOTER = len(MAGIC) + hashlib.sha256().digest_size
LAST, PREVIOUS, DAMAGED = "last.pt", "prev.pt", "last.pt.damaged"


class SnapshotError(UsageError):
    """This file is no whole snapshot of a version that can be read."""


def write_atomically(path: Path, content: bytes, old: Path | None = None) -> None:
    """Writes beside `path`, makes it durable, renames: `path` holds the old content or the new, never a part.

    The old content is kept as `old`, if named; between the two renames it is there alone.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if old and path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes renames in `path` survive a power cut, where directories can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def to_bytes(snapshot: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **snapshot}, buffer)
    with buffer.getbuffer() as content:
        digest = hashlib.sha256(content).digest()
    buffer.write(MAGIC + digest)
    return buffer.getvalue()


def from_bytes(content: bytes, name: str) -> dict[str, Any]:
    """The snapshot in `content`; runs no code that is in it. SnapshotError: damaged, cut short, or another version."""
    body, footer = content[:-FOOTER], content[-FOOTER:]
    if not footer.startswith(MAGIC) or footer[len(MAGIC) :] != hashlib.sha256(body).digest():
        raise SnapshotError(f"{name} is damaged or no snapshot of distmnist: its digest does not match")
    try:
        snapshot = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can have the unpickler raise anything
        raise SnapshotError(f"{name} is no snapshot that can be read without running code from it") from error
    version = snapshot.get("version") if isinstance(snapshot, dict) else None
    if version != VERSION:
        raise SnapshotError(f"{name} is a snapshot of version {version}; this distmnist reads version {VERSION}")
    return snapshot


def save(folder: Path, snapshot: dict[str, Any]) -> None:
    """Writes folder/last.pt; the one before becomes folder/prev.pt. OSError: the newest of them is whole.

    A last.pt that `load_newest` found damaged must be set aside first: `set_damaged_aside`.
    """
    write_atomically(folder / LAST, to_bytes(snapshot), old=folder / PREVIOUS)


def load(path: Path) -> dict[str, Any]:
    """The snapshot in `path`. SnapshotError: absent, unreadable, damaged, or another version."""
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The newest whole snapshot in `folder`, None if it has none yet; and what is wrong with a newer one, if any.

    SnapshotError: there are snapshots and none of them is whole.
    """
    trouble: SnapshotError | None = None
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                return load(folder / name), trouble and str(trouble)
            except SnapshotError as error:
                trouble = trouble or error
    if trouble:
        raise trouble
    return None, None


def set_damaged_aside(folder: Path) -> None:
    """Renames the damaged folder/last.pt to last.pt.damaged, and prev.pt, which is whole, to last.pt.

    `save` would make the damaged one prev.pt, in place of the only whole one. A kill between the two renames leaves
    prev.pt, which `load_newest` finds. Nothing is deleted: the file may be of a later version.
    """
    os.replace(folder / LAST, folder / DAMAGED)
    os.replace(folder / PREVIOUS, folder / LAST)
    sync_directory(folder)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex digest over the float32 parameters, C order, in the order of the state dict."""
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
