"""A directory that this user may not enter: every command says so in one line that names the path, exit code 2."""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import Ended, run_module

SMALL = ["--model=mlp", "--max-steps=1", "--amp=off", "--threads=1"]
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
NOBODY = 65534

if sys.platform == "win32" or (IS_ROOT and sys.platform != "linux"):
    pytest.skip("no directory is closed to this user", allow_module_level=True)


def obey() -> None:
    """Has root obey the rights of directories that are not root's: see capabilities(7) and capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, dac_override, dac_read_search = 0x20080522, 1, 2
    header, sets = (ctypes.c_uint32 * 2)(version_3, 0), (ctypes.c_uint32 * 6)()
    for call in (libc.capget, libc.capset):
        if call(header, sets):
            raise OSError(ctypes.get_errno(), "capabilities")
        for kind in range(2):  # the effective and the permitted ones, for capset to set
            sets[kind] &= ~(1 << dac_override | 1 << dac_read_search)


def run(folder: Path, module: str, *arguments: str) -> Ended:
    return run_module(module, *arguments, folder=folder, before=obey if IS_ROOT else None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with one in it, `closed`, that programs started by `run` may not enter."""
    folder = tmp_path_factory.mktemp("permissions")
    closed = folder / "closed"
    (closed / "inside").mkdir(parents=True)
    (closed / "probe.json").write_text("{}")
    if IS_ROOT:
        os.chown(closed, NOBODY, NOBODY)
    closed.chmod(0)
    if run(folder, "json.tool", "closed/probe.json").code == 0:
        pytest.skip("no directory is closed to this user")
    yield folder
    closed.chmod(0o700)
    shutil.rmtree(closed)


@pytest.mark.parametrize(
    "command",
    [
        ["distmnist.train", "--data=sample", *SMALL, "--output=closed/inside"],
        ["distmnist.train", "--data=sample", *SMALL, "--resume", "--output=closed"],
        ["distmnist.train", *SMALL, "--data-dir=closed"],
        ["distmnist.train", *SMALL, "--data-dir=closed/inside"],
        ["distmnist.study", "--data=sample", *SMALL, "--output=closed/inside"],
        ["distmnist.sweep", "--data=sample", "--output=closed/inside"],
        ["distmnist.report", "closed/inside"],
        ["export", "closed"],
        ["export", "closed/inside/last.pt"],
        ["export", "--verify=closed/inside"],
        ["export.predict", "closed/inside/a.onnx", "1.png"],
    ],
    ids=lambda command: " ".join([command[0], *(word for word in command if "closed" in word)]),
)
def test_every_command_names_the_directory_that_it_may_not_enter(place, command):
    done = run(place, *command)
    assert done.code == 2, done.err
    [line] = done.err
    assert "closed" in line and line.startswith("distmnist: ")


def test_the_doctor_names_them_among_its_findings(place):
    done = run(place, "distmnist.doctor", "--data-dir=closed/inside", "--output=closed/inside")
    assert (done.code, done.err) == (1, [])
    problems = [line for line in done.out if line.startswith("problem")]
    assert len(problems) == 2 and all("closed" in line for line in problems), done.out
