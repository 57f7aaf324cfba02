"""What every test has: no trace of a launcher in the environment, one thread, no way out to the network."""

import os
import sys
from pathlib import Path

import pytest
import torch
from digits import few_digits, made_of, synthetic_files

from distmnist import train
from distmnist.data import known
from distmnist.data.dataset import Dataset
from distmnist.distributed.launcher import VARIABLES

CLOSED = "http://127.0.0.1:9"
"""A proxy that refuses at once (the discard port): a download that a test has not replaced fails without delay."""

# As in an activated environment: printed hints then say "python". Here, not in a fixture: the forkserver inherits it.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the launcher's and the user's own variables out of the environment, and the network with them."""
    for name in (*VARIABLES, "DISTMNIST_DATA", "OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, CLOSED)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """300 + 120 digits of the sample."""
    return few_digits()


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """30 + 20 synthetic digits that are taken for MNIST: file name -> content. Put them where a test wants them."""
    files = synthetic_files()
    monkeypatch.setitem(known.KNOWN_SETS, "mnist", made_of("mnist", files))
    return files


@pytest.fixture
def command(monkeypatch, tmp_path, capsys, digits):
    """Runs the command in an empty directory on a few digits. Returns exit code, lines of output, lines of errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(known, "fetch", lambda *_: None)
    monkeypatch.setattr(known, "load", lambda name, directory: digits)

    def run(*arguments):
        code = train.main(arguments)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run
