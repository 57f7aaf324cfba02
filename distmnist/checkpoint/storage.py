"""The files of checkpoints: complete, checked and atomic. A file is either whole or it is refused.

A file is what `torch.save` writes, then a footer: a magic word and the SHA-256 of all before it. `torch.load` ignores
the footer, so plain `torch.load(path, weights_only=True)` reads it too.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from distmnist.checkpoint.record import SCHEMA, Checkpoint, schema_of
from distmnist.errors import UsageError

MAGIC = b"distmnist-sha256"
FOOTER = len(MAGIC) + hashlib.sha256().digest_size
LAST, PREVIOUS, DAMAGED = "last.pt", "prev.pt", "last.pt.damaged"


class CheckpointError(UsageError):
    """This file is no whole checkpoint of a schema that can be read."""


def write_atomically(path: Path, content: bytes | memoryview, old: Path | None = None) -> None:
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


def to_bytes(checkpoint: Checkpoint) -> bytes:
    return bytes(to_buffer(checkpoint))


def to_buffer(checkpoint: Checkpoint) -> memoryview:
    """What `from_bytes` reads, not copied once more: a checkpoint may be large."""
    buffer = io.BytesIO()
    torch.save(checkpoint.to_dict(), buffer)
    with buffer.getbuffer() as content:
        digest = hashlib.sha256(content).digest()
    buffer.write(MAGIC + digest)
    return buffer.getbuffer()


def from_bytes(content: bytes, name: str) -> Checkpoint:
    """The checkpoint in `content`; runs no code that is in it.

    Raises CheckpointError for what is damaged, cut short, of another schema, or holds something else.
    """
    body, footer = content[:-FOOTER], content[-FOOTER:]
    if not footer.startswith(MAGIC) or footer[len(MAGIC) :] != hashlib.sha256(body).digest():
        raise CheckpointError(f"{name} is damaged or no checkpoint of distmnist: its digest does not match")
    try:
        read = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can have the unpickler raise anything
        raise CheckpointError(f"{name} is no checkpoint that can be read without running code from it") from error
    schema = schema_of(read)
    if type(schema) is not int or schema not in (1, SCHEMA):
        raise CheckpointError(f"{name} is a checkpoint of schema {schema!r}; this distmnist reads 1 and {SCHEMA}")
    try:
        return Checkpoint.from_dict(read)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{name} is no checkpoint of distmnist: {error}") from error


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes folder/last.pt; the one before becomes folder/prev.pt. OSError: the newest of them is whole.

    A last.pt that `load_newest` found damaged must be set aside first: `set_damaged_aside`.
    """
    write_atomically(folder / LAST, to_buffer(checkpoint), old=folder / PREVIOUS)


def load(path: Path) -> Checkpoint:
    """The checkpoint in `path`. CheckpointError: absent, or as `from_bytes`."""
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def load_newest(folder: Path) -> tuple[Checkpoint | None, str | None]:
    """The newest whole checkpoint in `folder`, None if it has none yet; and what is wrong with a newer one, if any.

    CheckpointError: there are checkpoints and none of them is whole.
    """
    trouble: CheckpointError | None = None
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                return load(folder / name), str(trouble) if trouble else None
            except CheckpointError as error:
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
