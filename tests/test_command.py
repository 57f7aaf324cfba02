"""The command as people type it: real processes, real signals, torchrun itself."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from digits import put

from distmnist import train
from distmnist.data import known

ROOT = Path(__file__).parents[1]
PLAIN = [sys.executable, "-m", "distmnist.train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
TORCHRUN += ["--nproc_per_node=2", *PLAIN[1:]]
"""With an address, torchrun itself needs no host name that resolves; the workers never do."""
ENDLESS = ["--model=mlp", "--epochs=100000", "--batch-size=200", "--output=a", "--amp=off", "--threads=1"]


@contextlib.contextmanager
def started(folder: Path, *command: str) -> Iterator[subprocess.Popen]:
    """The command, run in `folder`, in a process group of its own that ends with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(folder: Path, *command: str) -> tuple[int, str, str]:
    with started(folder, *command) as process:
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def resume_in_this_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on for five steps with the interrupted run in folder/a and looks at what it says then."""
    monkeypatch.chdir(folder)
    position = torch.load("a/mlp/last.pt", weights_only=True)["progress"]["global_step"]
    assert json.loads(Path("a/summary.json").read_text())["status"] == "interrupted"
    assert train.main(["--resume", "--output=a", f"--max-steps={position + 5}"]) == 0
    written = json.loads(Path("a/summary.json").read_text())
    assert written["status"] == "finished"
    assert (written["models"]["mlp"]["steps"], written["models"]["mlp"]["count"]) == (position + 5, 1000)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--lr", "nan"], "--lr nan must be above 0 and finite"),
        (["--epoch=3"], "unrecognized arguments: --epoch=3"),
        (["--data-dir=data"], "data/train-images-idx3-ubyte holds 4 bytes, not 47040016"),
        (["--resume", "--output=absent"], "absent holds no run"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_2(tmp_path, arguments, told):
    names = known.KNOWN_SETS["mnist"].files
    put(tmp_path / "data", {name: b"\0\0\x08" + bytes([1 + 2 * ("images" in name)]) for name in names})
    code, out, err = finish(tmp_path, *PLAIN, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"distmnist: [^\n]*\n", err) and told in err
    assert not [path for path in tmp_path.glob("*/*") if path.parent.name != "data"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_run_that_goes_on_and_no_traceback(tmp_path, monkeypatch, number, code):
    with started(tmp_path, *PLAIN, *ENDLESS) as process:
        wait_for(tmp_path / "a/mlp/last.pt", process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err and "NOT MNIST but the 5,000-digit SAMPLE" in err
    assert out.splitlines()[-1].startswith("interrupted; to go on:") and "--resume --output a" in out
    resume_in_this_process(tmp_path, monkeypatch)


def test_a_signal_to_torchrun_leaves_a_run_that_goes_on_and_no_traceback_of_ours(tmp_path, monkeypatch):
    with started(tmp_path, *TORCHRUN, *ENDLESS) as process:
        wait_for(tmp_path / "a/mlp/last.pt", process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert out.count("interrupted; to go on:") == 1
    assert "distmnist/" not in err  # no frame of ours in whatever torchrun itself prints
    resume_in_this_process(tmp_path, monkeypatch)
