"""A directory that this user may not enter: every command says so in one line that names the path, exit code 2."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--model=mlp", "--max-steps=1", "--amp=off", "--threads=1"]
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
NOBODY = 65534

if sys.platform == "win32" or (IS_ROOT and sys.platform != "linux"):
    pytest.skip("no directory is closed to this user", allow_module_level=True)


def obey() -> None:
    """Has root's next program obey the rights of directories that are not root's: see capabilities(7)."""
    pr_capbset_drop, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(pr_capbset_drop, capability, 0, 0, 0)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        preexec_fn=obey if IS_ROOT else None,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with one in it, `closed`, that programs started by `run` may not enter."""
    folder = tmp_path_factory.mktemp("permissions")
    closed = folder / "closed"
    (closed / "inside").mkdir(parents=True)
    if IS_ROOT:
        os.chown(closed, NOBODY, NOBODY)
    closed.chmod(0)
    if run(folder, "-c", "import os; os.listdir('closed')").returncode == 0:
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
    done = run(place, "-m", *command)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "closed" in done.stderr and done.stderr.startswith("distmnist: ")


def test_the_doctor_names_them_among_its_findings(place):
    done = run(place, "-m", "distmnist.doctor", "--data-dir=closed/inside", "--output=closed/inside")
    assert done.returncode == 1 and done.stderr == ""
    problems = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert len(problems) == 2 and all("closed" in line for line in problems), done.stdout
