"""Decodes the image files of a data set, on all cores."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

import distmnist
from distmnist.data.decoder import Outcome, Setting, Task, decode
from distmnist.data.memory import SharedImages
from distmnist.data.prepare import Preparation
from distmnist.errors import RunError
from distmnist.machine import usable_cores
from distmnist.text import shown

CHUNK = 32
"""Files that a process decodes at a time: enough to make its messages cheap, few enough for a lively progress bar."""


def decode_files(
    paths: Sequence[Path],
    preparation: Preparation,
    any_size: bool,
    memory: SharedImages,
    progress: Callable[[int], None],
) -> list[Outcome]:
    """Decodes the files into the memory, in order. Returns what came of each.

    any_size: see `decoder.decode`; if not, decoding stops soon after an image of another size, and the outcomes of the
    rest are empty. progress: called with the number of files that were just done, by one thread at a time.

    The work is done by processes, because half of what Pillow needs for a small image holds the interpreter's lock.
    Raises RunError if one of them is lost.
    """
    starts = iter(range(0, len(paths), CHUNK))
    outcomes = [Outcome()] * len(paths)
    lock, stop = threading.Lock(), threading.Event()

    def work(decode_chunk: Callable[[list[Task]], list[Outcome]]) -> None:
        try:
            while not stop.is_set():
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                chunk = [Task(start + i, os.fsencode(path)) for i, path in enumerate(paths[start : start + CHUNK])]
                found = decode_chunk(chunk)
                outcomes[start : start + CHUNK] = found
                with lock:
                    progress(len(chunk))
                if any(outcome.size for outcome in found):
                    return
        finally:
            stop.set()  # at the end, or where there is no use in going on: an image of another size, or an error

    workers = min(usable_cores(), len(paths) // (2 * CHUNK))
    if workers < 2 or os.name == "nt":  # Windows hands on no file descriptors
        images = memory.images.numpy()
        work(lambda chunk: [decode(paths[row], preparation, any_size, images[row]) for row, _ in chunk])
        return outcomes
    setting = Setting(memory.file, memory.labels.nbytes, preparation, any_size)
    with ThreadPoolExecutor(workers) as threads, contextlib.ExitStack() as processes:
        decoders = [processes.enter_context(decoder(setting)) for _ in range(workers)]
        for done in [threads.submit(work, one) for one in decoders]:
            done.result()
    return outcomes


@contextlib.contextmanager
def decoder(setting: Setting) -> Iterator[Callable[[list[Task]], list[Outcome]]]:
    """A process that decodes. It is out of reach of the terminal's Ctrl-C, which is for this one, and ends with it."""
    root = str(Path(distmnist.__file__).parents[1])
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, [*sys.path, root])),
        "OPENBLAS_NUM_THREADS": "1",  # numpy would start threads that have nothing to do
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "distmnist.data.decoder"],  # -P: a random.py of the user's is not Python's
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
        pass_fds=[setting.file],
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    questions, answers = process.stdin, process.stdout

    def decode_chunk(tasks: list[Task]) -> list[Outcome]:
        try:
            questions.write(msgspec.json.encode(tasks) + b"\n")
            questions.flush()
            line = answers.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            files = f"{shown(os.fsdecode(tasks[0].path))} and the {len(tasks) - 1} files after it"
            raise RunError(f"a process that decodes images {ending(process.wait())} It was given {files}")
        return msgspec.json.decode(line, type=list[Outcome])

    with process:
        try:
            questions.write(msgspec.json.encode(setting) + b"\n")
            yield decode_chunk
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                questions.close()  # what was not written yet would raise once more


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "was killed: is the memory used up?"
    return f"ended with exit code {code}."
