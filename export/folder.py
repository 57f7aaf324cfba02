"""The manifest of an exported folder, parity.json: what must be in the folder, by which it is proved whole again."""

import hashlib
import json
from pathlib import Path

from distmnist.errors import UsageError

from .record import SCHEMA, JsonObject

MANIFEST = "parity.json"


def digests(folder: Path) -> dict[str, dict[str, str | int]]:
    """Name -> SHA-256 and size of every file but the manifest, what Python leaves beside its modules, and hidden files.

    File managers leave hidden ones wherever they look: .DS_Store, ._cnn.onnx.
    """
    found: dict[str, dict[str, str | int]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and name != MANIFEST and "__pycache__" not in path.parts and not hidden:
            with path.open("rb") as file:
                found[name] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
    return found


def dump(report: JsonObject) -> bytes:
    """parity.json: the report and, in "sha256", the digest of the same text with that left empty."""
    return (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()


def sealed(report: JsonObject) -> bytes:
    return dump(report | {"sha256": hashlib.sha256(dump(report | {"sha256": ""})).hexdigest()})


def read(folder: Path) -> tuple[JsonObject, list[str]]:
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
