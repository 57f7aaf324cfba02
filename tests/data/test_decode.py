"""Files are decoded by several processes as by one, and none of these outlives the work, however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from photos import photo, pixels

from distmnist.data import decode, decoder
from distmnist.data.decode import decode_files
from distmnist.data.decoder import Outcome
from distmnist.data.memory import SharedImages
from distmnist.data.pixels import examine
from distmnist.data.prepare import Preparation
from distmnist.errors import RunError

PREPARATION = Preparation(height=4, width=5, resize_mode="squash", channels=3)

linux = pytest.mark.skipif(sys.platform == "win32", reason="one process decodes there")


@pytest.fixture
def processes(monkeypatch):
    """Three processes decode, four files at a time. Those that were started, and that none of them is left."""
    monkeypatch.setattr(decode, "usable_cores", lambda: 3)
    monkeypatch.setattr(decode, "CHUNK", 4)
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    before, threads = pipes(), threading.active_count()
    yield started
    assert all(process.returncode is not None for process in started)
    assert threading.active_count() == threads
    assert pipes() == before


def pipes() -> set[str]:
    """Those that this process has open."""
    names = list(Path("/proc/self/fd").glob("*"))
    return {target for name in names if os.path.lexists(name) and "pipe:" in (target := os.readlink(name))}


def decoded(paths: list[Path], any_size: bool = False, progress=lambda done: None) -> tuple[np.ndarray, list[Outcome]]:
    memory = SharedImages.make(len(paths), (3, 4, 5))
    return memory.images.numpy(), decode_files(paths, PREPARATION, any_size, memory, progress)


def album(folder: Path, count: int) -> list[Path]:
    return [photo(folder / f"{number}.png", seed=number) for number in range(count)]


@linux
@pytest.mark.parametrize("any_size", [False, True])
def test_several_processes_give_the_bytes_and_outcomes_of_one(tmp_path, monkeypatch, processes, any_size):
    paths = album(tmp_path, 50)
    (tmp_path / "damaged").write_bytes(paths[0].read_bytes()[:60])
    (tmp_path / "text").write_text("not an image")
    (tmp_path / "empty").touch()
    paths[7:7] = [tmp_path / name for name in ("damaged", "absent", "text", "empty")]
    if any_size:
        paths[30:30] = [photo(tmp_path / "large.png", 40, 30)]
    done = []
    images, outcomes = decoded(paths, any_size, done.append)
    assert len(processes) == 3 and sum(done) == len(paths) == len(outcomes)
    monkeypatch.setattr(decode, "usable_cores", lambda: 1)
    done.clear()
    alone, expected = decoded(paths, any_size, done.append)
    assert len(processes) == 3 and sum(done) == len(paths)
    assert outcomes == expected and np.array_equal(images, alone)
    assert [row for row, outcome in enumerate(outcomes) if outcome.problem] == [7, 8, 9, 10]
    assert outcomes[8].problem == "cannot be read: No such file or directory" and outcomes[10].problem == "is empty"
    for row, outcome in enumerate(outcomes):
        assert outcome.problem or outcome.pixels == examine(images[row])
        assert (
            any_size or outcome.problem or (images[row] == pixels(4, 5, int(paths[row].stem)).transpose(2, 0, 1)).all()
        )


@linux
def test_no_process_is_started_for_a_handful_of_files(tmp_path, processes):
    decoded(album(tmp_path, 15))
    assert not processes
    decoded(album(tmp_path, 16))
    assert len(processes) == 2


@linux
@pytest.mark.parametrize("cores", [1, 3])
def test_an_image_of_another_size_stops_the_work_soon(tmp_path, monkeypatch, processes, cores):
    monkeypatch.setattr(decode, "usable_cores", lambda: cores)
    paths = album(tmp_path, 4)
    photo(paths[3], 5, 4)
    done = []
    _, outcomes = decoded(paths * 500, progress=done.append)
    assert len(done) <= cores and outcomes.count(Outcome()) == 2000 - sum(done)
    assert outcomes.count(Outcome(size=(5, 4))) == len(done) == sum(bool(outcome.pixels) for outcome in outcomes) / 3


@linux
@pytest.mark.parametrize("cores", [1, 3])
def test_a_name_that_is_not_utf_8_is_decoded_as_any_other(tmp_path, monkeypatch, processes, cores):
    monkeypatch.setattr(decode, "usable_cores", lambda: cores)
    odd = tmp_path / os.fsdecode(b"\xff\n\xc3\xa9.png")
    try:
        photo(odd, seed=1)
    except OSError:
        pytest.skip("this file system keeps such names out")
    images, outcomes = decoded([odd] * 24)
    assert all(outcome.pixels for outcome in outcomes)
    assert (images == pixels(4, 5, 1).transpose(2, 0, 1)).all()


@linux
def test_a_process_that_is_lost_is_one_line_that_names_the_files_it_had(tmp_path, processes):
    paths = album(tmp_path, 4) * 500
    done = []

    def kill_one(count):
        if not done:
            processes[0].kill()
        done.append(count)
        time.sleep(0.01)  # the others need 5 seconds to the end

    with pytest.raises(RunError) as failure:
        decoded(paths, progress=kill_one)
    told = str(failure.value)
    assert told.startswith("a process that decodes images was killed: is the memory used up? It was given ")
    assert told.endswith(f"{paths[0]} and the 3 files after it") and "\n" not in told
    assert sum(done) < 2000, "the others have gone on to the end"


@linux
def test_a_process_that_never_starts_is_one_line(tmp_path, monkeypatch, processes, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"a process that decodes images ended with exit code 1\. It was given .*0\.png"):
        decoded(album(tmp_path, 24))
    assert capfd.readouterr() == ("", "")


@linux
@pytest.mark.parametrize("cores", [1, 3])
def test_an_error_while_progress_is_shown_ends_the_work(tmp_path, monkeypatch, processes, cores):
    monkeypatch.setattr(decode, "usable_cores", lambda: cores)
    done = []

    def fail(count):
        done.append(count)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decoded(album(tmp_path, 4) * 500, progress=fail)
    assert len(done) <= cores


@linux
@pytest.mark.parametrize(("cores", "when"), [(1, "later"), (3, "later"), (3, "at-once")])
def test_ctrl_c_ends_the_work_and_stays_a_keyboard_interrupt(tmp_path, monkeypatch, processes, cores, when, capfd):
    monkeypatch.setattr(decode, "usable_cores", lambda: cores)
    if when == "at-once":  # before a process has read what it is to do

        class Interrupted(decode.ThreadPoolExecutor):
            def submit(self, *arguments):
                raise KeyboardInterrupt

        monkeypatch.setattr(decode, "ThreadPoolExecutor", Interrupted)

    done = []

    def interrupt(count):
        if not done:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        done.append(count)
        time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            decoded(album(tmp_path, 4) * 500, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sum(done) < 2000
    assert capfd.readouterr() == ("", "")


@linux
def test_the_terminals_ctrl_c_does_not_reach_the_processes(tmp_path, processes):
    """They would each write a traceback; this one ends them."""
    sessions = set()
    decoded(album(tmp_path, 24), progress=lambda _: sessions.update(os.getsid(each.pid) for each in processes))
    assert sessions == {process.pid for process in processes}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_decode
test_decode.decode.usable_cores = lambda: 3
test_decode.decoded([Path(sys.argv[1])] * 3000, progress=lambda done: os.kill(os.getpid(), signal.SIGKILL))
"""


@linux
def test_the_processes_end_with_the_one_that_started_them_and_say_nothing(tmp_path):
    """They hold its standard error: `run` returns when all of them have ended."""
    path = photo(tmp_path / "0.png")
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    ended = subprocess.run(command, env=variables, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")


@linux
def test_modules_in_the_current_directory_are_not_taken_for_pythons(tmp_path, monkeypatch, processes, capfd):
    for name in ("random", "mmap", "numpy", "msgspec", "PIL", "distmnist"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    _, outcomes = decoded(album(tmp_path / "set", 24))
    assert len(processes) == 3 and all(outcome.pixels for outcome in outcomes) and capfd.readouterr() == ("", "")


@linux
def test_the_processes_import_from_where_this_one_does(tmp_path, monkeypatch, processes):
    """As in a program that has put distmnist, or Pillow, on sys.path itself."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "msgspec.py").write_text("raise SystemExit(7)")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other"), *sys.path])
    with pytest.raises(RunError, match="exit code 7"):
        decoded(album(tmp_path, 24))


def test_the_processes_import_no_torch():
    command = "import sys, distmnist.data.decoder; sys.exit('torch' in sys.modules)"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", command], env=variables).returncode == 0


def test_a_large_file_that_is_no_image_is_refused_by_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "AT_ONCE", 1000)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("all of it is read"))
    (tmp_path / "film.dat").write_bytes(b"film" * 1000)
    out = np.zeros((3, 4, 5), np.uint8)
    assert decoder.decode(tmp_path / "film.dat", PREPARATION, True, out).problem.startswith(
        "is damaged, or not an image"
    )
    large = photo(tmp_path / "large.png", 40, 50)
    assert large.stat().st_size > 1000 and decoder.decode(large, PREPARATION, True, out).pixels == examine(out)
    assert decoder.decode(large, PREPARATION, False, out) == Outcome(size=(40, 50))


@pytest.mark.parametrize("resize_mode", ["squash", "crop", "pad"])
def test_images_of_one_pixel_are_decoded(tmp_path, resize_mode):
    out = np.zeros((3, 1, 1), np.uint8)
    one = Preparation(height=1, width=1, resize_mode=resize_mode, channels=3)
    found = decoder.decode(photo(tmp_path / "0.png", 1, 1, seed=3), one, False, out)
    assert out.ravel().tolist() == pixels(1, 1, 3).ravel().tolist() == list(found.pixels.sums)
