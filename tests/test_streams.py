"""Output that cannot be written stops no training, and ends every other command without a traceback."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from ranks import run_module

from distmnist import streams
from distmnist.console import Log
from distmnist.doctor import __main__ as doctor
from distmnist.doctor import examination
from distmnist.report import __main__ as report
from distmnist.report import page
from export import __main__ as export
from export import predict

pytest_plugins = ["export_fixtures"]

ROOT = Path(__file__).parents[1]
MODULES = [f"distmnist.{name}" for name in ("train", "study", "sweep", "report", "doctor", "doctor.network")]
MODULES += ["export", "export.predict"]
TINY = ["--data=sample", "--model=mlp", "--epochs=1", "--batch-size=500", "--amp=off", "--threads=1"]
FULL = "distmnist: standard output cannot be written: No space left on device\n"


def run(folder: Path, module: str, *arguments: str, **streams_and_variables) -> subprocess.CompletedProcess:
    variables = streams_and_variables.pop("variables", {})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, timeout=120, **streams_and_variables
    )


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    """The writing end of a pipe whose other end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_closed_pipe_ends_every_command_without_a_word(tmp_path, module, unbuffered):
    with nobody_reads() as pipe:
        done = run(tmp_path, module, "--help", stdout=pipe, variables={"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (0, "")


@needs_full
@pytest.mark.parametrize("module", MODULES)
def test_a_full_disk_ends_every_command_with_one_line(tmp_path, module):
    with open("/dev/full", "wb") as full:
        done = run(tmp_path, module, "--help", stdout=full)
    assert (done.returncode, done.stderr) == (1, FULL)


def lose_the_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


@needs_full
def test_training_goes_on_to_its_end_when_its_output_is_lost(tmp_path):
    done = run_module("distmnist.train", *TINY, "--output=pipe", folder=tmp_path, before=lose_the_reader)
    assert (done.code, done.err) == (0, [])
    done = run_module("distmnist.train", *TINY, "--output=full", folder=tmp_path, out=Path("/dev/full"))
    assert (done.code, done.err) == (0, [])
    closed = [sys.executable, "-m", "distmnist.train", *TINY, "--output=closed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *closed], cwd=tmp_path, env=environment, check=True)
    for name in ("pipe", "full", "closed"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["status"] == "finished"


@needs_full
def test_a_study_goes_on_to_its_end_when_its_output_is_lost(tmp_path):
    options = [*TINY[:-1], "--repeats=1", "--recipes=reference", "--jobs=1", "--output=s"]
    done = run_module("distmnist.study", *options, folder=tmp_path, out=Path("/dev/full"))
    assert (done.code, done.err) == (0, [])
    assert json.loads((tmp_path / "s/study.json").read_text())["status"] == "finished"


def test_what_an_encoding_lacks_is_escaped_before_anything_is_written(tmp_path):
    done = run_module("distmnist.train", *TINY, "--output=ü", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, [])
    assert "output: \\xfc" in done.out and json.loads((tmp_path / "ü/summary.json").read_text())


def test_a_name_that_is_no_text_is_escaped_in_every_encoding(monkeypatch):
    for encoding, shown in (("utf-8", b"\xc3\xbc\\udcff\n"), ("ascii", b"\\xfc\\udcff\n")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        streams.say("ü" + os.fsdecode(b"\xff"))
        assert raw.getvalue() == shown


class Lost(io.StringIO):
    """A stream that cannot be written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


LOST = pytest.mark.parametrize(
    ("number", "code", "told"), [(errno.EPIPE, 0, ""), (errno.ENOSPC, 1, FULL)], ids=["pipe", "full"]
)


@LOST
def test_a_report_and_an_export_are_written_all_the_same(
    monkeypatch, capsys, tmp_path, trained_run, few_batches, number, code, told
):
    monkeypatch.setattr(sys, "stdout", Lost(number))
    monkeypatch.setattr(page, "write", lambda *_: tmp_path / "index.html")
    assert report.main(["somewhere"]) == code
    assert capsys.readouterr().err == told
    output = tmp_path / "export"
    assert export.main([str(trained_run / "mlp/last.pt"), f"--output={output}"]) == code
    assert capsys.readouterr().err == told and (output / "parity.json").exists()


@LOST
def test_predict_tells_a_reader_that_has_gone_from_a_full_disk(
    monkeypatch, capsys, tmp_path, exported, number, code, told
):
    Image.new("L", (28, 28)).save(tmp_path / "1.png")
    monkeypatch.setattr(sys, "stdout", Lost(number))
    assert predict.main([str(exported / "mlp.pixels.onnx"), str(tmp_path / "1.png")]) == code
    assert capsys.readouterr().err == told


@LOST
def test_the_doctor_examines_to_the_end_and_its_findings_count(monkeypatch, capsys, number, code, told):
    def look(report, world, *_):
        report.add(examination.Finding(level, "data", "words"))
        return False

    monkeypatch.setattr(sys, "stdout", Lost(number))
    monkeypatch.setattr(examination, "look_at_hosts", look)
    level = examination.OK
    assert doctor.main([]) == code
    assert capsys.readouterr().err == told
    level = examination.PROBLEM
    assert doctor.main([]) == 1
    assert capsys.readouterr().err == told


def test_a_log_without_streams_and_with_lost_ones_says_nothing_and_raises_nothing(monkeypatch):
    for stream in (None, Lost(errno.EIO)):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        log = Log()
        log.say("words")
        log.warn("words")
        with log.progress("words", 1) as bar:
            bar.update()
