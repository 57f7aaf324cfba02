"""Where a benchmark ran: command, date, commit, hardware, versions; and how its tables get onto a Markdown page."""

import argparse
import importlib.metadata
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from distmnist.machine import has_native_bf16, processor, usable_cores, versions

Rows = list[list[str]]


def setting(module: str, *packages: str) -> dict[str, Any]:
    """What must stand beside every figure. `module`: as in python -m; `packages`: those installed are named, too."""
    return {
        "command": f"python -m {module} {shlex.join(sys.argv[1:])}".strip(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        "processor": processor(),
        "cores": usable_cores(),
        "native_bf16": has_native_bf16(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions() | {name: v for name in packages if (v := installed(name))},
    }


def installed(package: str) -> str | None:
    """Its version, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The clone's commit, with "+" if files differ from it; "unknown" outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    return head.stdout.strip() + ("+" if changed.stdout else "")


def describe(setting: dict[str, Any]) -> str:
    """One paragraph of Markdown."""
    bf16 = "native bf16" if setting["native_bf16"] else "no native bf16 (emulated)"
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    return (
        f"`{setting['command']}`, {setting['date']}, commit {setting['commit']}, on {setting['cores']} cores of"
        f" {setting['processor']}, {bf16}, load {setting['load']} at the start; {versions}."
    )


def markdown(head: list[str], rows: Rows) -> str:
    """A table: the first column to the left, the others to the right."""
    marks = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows))


def page(name: str) -> Path:
    """For argparse: a page must be there before a long run that is to fill it begins."""
    path = Path(name)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{name} is not a file")
    return path


def fill(page: Path, name: str, text: str) -> None:
    """Replaces what stands between <!-- name --> and <!-- /name --> on a page. Raises ValueError: no such marks."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    content = page.read_text()
    if start not in content or end not in content:
        raise ValueError(f"{page} has no {start.strip()} ... {end}")
    before, rest = content.split(start, 1)
    _, after = rest.split(end, 1)
    page.write_text(f"{before}{start}{text}\n{end}{after}")
