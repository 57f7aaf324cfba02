"""The folder to deploy: written apart, published by a rename, and proved whole again by its manifest, parity.json."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distmnist.checkpoint import sync_directory
from distmnist.config import RunError, UsageError

MANIFEST = "parity.json"
SCHEMA = 1


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """An empty folder beside `output` that takes its place at the end of the block, if that ends well.

    Raises UsageError if `output` is there and is no export, or cannot be written.
    """
    check_replaceable(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written: {error.strerror}; name another") from error
    try:
        yield staged
        check_replaceable(output)
        publish(staged, output)
    except OSError as error:
        raise RunError(
            f"{output} cannot be written: {error.strerror or error}; what was there before is whole"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def check_replaceable(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"--output {output} is no directory; name another")
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise UsageError(f"--output {output} holds other files than an export (no {MANIFEST}); name another")


def publish(staged: Path, output: Path) -> None:
    """Renames `staged` to `output`. The export that was there is moved aside first and comes back if that fails."""
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    staged.chmod(0o777 & ~umask())
    if not output.exists():
        os.rename(staged, output)
    else:
        aside = staged.with_name(f"{staged.name}-old")
        os.rename(output, aside)
        try:
            os.rename(staged, output)
        except OSError:
            os.rename(aside, output)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync_directory(output.parent)


def umask() -> int:
    """mkdtemp makes folders that only their owner may read; a deploy folder is as public as the user's others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> SHA-256 and size of every file but the manifest, what Python leaves beside predict.py, and hidden files.

    File managers leave hidden ones wherever they look: .DS_Store, ._cnn.onnx.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and name != MANIFEST and "__pycache__" not in path.parts and not hidden:
            with path.open("rb") as file:
                found[name] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
    return found


def dump(report: dict[str, Any]) -> bytes:
    """parity.json: the report and, in "sha256", the digest of the same text with that left empty."""
    return (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()


def sealed(report: dict[str, Any]) -> bytes:
    return dump(report | {"sha256": hashlib.sha256(dump(report | {"sha256": ""})).hexdigest()})


def read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The manifest of an export, and what in the folder is not as it says. Raises UsageError: no export at all.

    If the manifest itself cannot be trusted, that is the only failure, and the report is empty.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is no exported folder (no {MANIFEST}); name one, or export a run")
    try:
        content = path.read_bytes()
        report = json.loads(content)
        if report["schema"] != SCHEMA:
            raise UsageError(f"{path} has schema {report['schema']}; this distmnist reads {SCHEMA}")
        if sealed(report) != content:
            return {}, [f"{MANIFEST} was changed: its digest does not match"]
        listed = report["files"]
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, [f"{MANIFEST} is damaged"]
    there = digests(folder)
    failures = [f"{name} is missing" for name in listed if name not in there]
    failures += [f"{name} is not of this export" for name in there if name not in listed]
    failures += [
        f"{name} was changed: SHA-256 differs" for name in listed if name in there and there[name] != listed[name]
    ]
    return report, failures
