"""Getting the digits: one process downloads, whole files or none arrive, and what failed is said."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error

import pytest
from digits import arriving, made_of, published, put
from ranks import run_processes

from distmnist.data import download, known

IMAGES = "train-images-idx3-ubyte"


def fetch(directory, say=print):
    return known.fetch(directory, say, known.KNOWN_SETS["mnist"])


def find(directory):
    return known.find(directory, known.KNOWN_SETS["mnist"])


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_that_are_there_are_not_downloaded(tmp_path, mnist, monkeypatch):
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("downloads"))
    put(tmp_path, mnist)
    assert fetch(tmp_path) is None


@pytest.mark.parametrize("exists", [False, True])
def test_a_download_appears_under_its_names_only_when_it_is_whole(tmp_path, mnist, monkeypatch, exists):
    target = tmp_path / "data"
    if exists:
        target.mkdir()
    seen = []
    monkeypatch.setattr(download, "download", arriving(mnist, lambda: seen.append(find(target))))
    said = []
    assert fetch(target, said.append) is None
    assert seen == [None]
    assert known.load("mnist", target).name == "mnist"
    assert listing(tmp_path) == [f"data/MNIST/raw/{name}" for name in sorted(mnist)]
    assert str(target) in said[0]


def test_a_download_that_is_damaged_leaves_no_file_of_the_set_behind(tmp_path, mnist, monkeypatch):
    damaged = {**mnist, "t10k-labels-idx1-ubyte": b"<html>503</html>"}
    monkeypatch.setattr(download, "download", arriving(damaged))
    reason = fetch(tmp_path / "data")
    assert reason.startswith("the download is damaged: t10k-labels-idx1-ubyte is not the IDX file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exists", [False, True])
def test_a_download_that_fails_gives_its_reason_and_leaves_nothing(tmp_path, monkeypatch, exists):
    def break_off(scratch, wanted):
        put(scratch / "MNIST" / "raw", {"train-images-idx3-ubyte.gz": b"half"})
        return "the mirrors are down"

    monkeypatch.setattr(download, "download", break_off)
    directory = tmp_path / "data"
    if exists:
        directory.mkdir()
    assert fetch(directory) == "the download failed: the mirrors are down"
    assert list(tmp_path.rglob("*")) == [directory] * exists
    assert known.load_or_sample("mnist", directory, chosen=False).name == "mnist-sample"
    with pytest.raises(known.NotFound, match=f"no MNIST in {directory}: .*--data sample"):
        known.load_or_sample("mnist", directory, chosen=True)
    with pytest.raises(known.NotFound, match=f"no MNIST in {directory}: the download failed: .*--data sample"):
        known.provide("mnist", directory, True, print)


def fetch_slowly(directory, journal, files):
    """A download of this process lasts until another process looks for the files, and some time longer."""
    known.KNOWN_SETS["mnist"] = made_of("mnist", files)

    def wait_for_the_other():
        with journal.open("a") as file:
            file.write("download\n")
        while journal.read_text().count("start") < 2:
            time.sleep(0.01)
        time.sleep(0.3)  # it now waits at the lock, or downloads too

    download.download = arriving(files, wait_for_the_other)
    with journal.open("a") as file:
        file.write("start\n")
    reason = fetch(directory, lambda line: None)
    return reason, known.load("mnist", directory).name


def test_of_two_processes_at_once_one_downloads_and_both_have_the_files(tmp_path, mnist):
    journal = tmp_path / "journal"
    answers = run_processes(fetch_slowly, 2, tmp_path / "data", journal, mnist)
    assert answers == [(None, "mnist"), (None, "mnist")]
    assert journal.read_text().count("download") == 1


@pytest.mark.parametrize(
    ("below", "told"),
    [
        ("file", "that is not a directory"),
        ("file/deeper", "file is not a directory"),
        ("absent/deeper", "absent is not a directory"),
        ("photographs", "it holds other files, holiday/beach.jpg for one"),
        ("torchvision", "it holds other files, EMNIST/raw/train-images-idx3-ubyte for one"),
    ],
)
def test_where_nothing_may_be_downloaded_nothing_is_and_nothing_is_made(tmp_path, monkeypatch, mnist, below, told):
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("downloads"))
    (tmp_path / "file").write_text("a file")
    put(tmp_path / "photographs/holiday", {"beach.jpg": b"sun"})
    put(tmp_path / "torchvision/EMNIST/raw", {IMAGES: mnist[IMAGES]})
    before = sorted(tmp_path.rglob("*"))
    assert told in fetch(tmp_path / below)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_cannot_be_written_is_a_reason(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)  # root may write anywhere
    assert fetch(tmp_path / "data") == f"{tmp_path} cannot be written: Permission denied"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_hidden_files_and_empty_folders_is_downloaded_into(tmp_path, mnist, monkeypatch):
    put(tmp_path, {".gitignore": b"*", ".download.lock": b""})
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    monkeypatch.setattr(download, "download", arriving({**mnist, f"{IMAGES}.gz": b"as torchvision leaves it"}))
    assert fetch(tmp_path) is None
    assert listing(tmp_path) == sorted([".download.lock", ".gitignore", *(f"MNIST/raw/{name}" for name in mnist)])


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_download_has_left_is_cleared_away_by_the_next(tmp_path, mnist, monkeypatch, exists):
    directory = tmp_path / "data"
    if exists:
        directory.mkdir()
    left = (directory if exists else tmp_path) / ".data.download-killed/data/MNIST/raw"
    put(left, {IMAGES: b"half"})
    monkeypatch.setattr(download, "download", arriving(mnist))
    assert fetch(directory) is None
    assert listing(tmp_path) == [f"data/MNIST/raw/{name}" for name in sorted(mnist)]
    assert not [path for path in tmp_path.rglob(".*")]


class Killed(BaseException):
    """Stands in for SIGKILL."""


@pytest.mark.parametrize("exists", [False, True, "beside another set"])
def test_a_kill_between_any_two_steps_of_the_download_leaves_all_of_the_set_or_none(
    tmp_path, mnist, monkeypatch, exists
):
    """A part of it would be refused for ever, as a set that lacks files."""
    monkeypatch.setattr(download, "download", arriving(mnist))
    for number in range(1, 20):
        directory = tmp_path / str(number) / "data"
        (directory if exists else directory.parent).mkdir(parents=True)
        if exists == "beside another set":
            put(directory / "FashionMNIST/raw", {IMAGES: b"another"})
        with monkeypatch.context() as deadly:
            calls = iter(range(1, 100))

            def count(original, calls=calls, number=number):
                def call(*args, **kwargs):
                    if next(calls) >= number:
                        raise Killed
                    return original(*args, **kwargs)

                return call

            for name in ("rename", "mkdir", "rmdir", "unlink"):
                deadly.setattr("os." + name, count(getattr(os, name)))
            try:
                fetch(directory)
            except Killed:
                killed = True
            else:
                killed = False
        assert find(directory) in (None, {name: directory / "MNIST/raw" / name for name in mnist})
        assert fetch(directory) is None and known.load("mnist", directory).name == "mnist"
        if not killed:
            assert number > 3
            return
    pytest.fail("the download never ended")


@pytest.mark.parametrize("option", ["mnist", "fashion-mnist", "kmnist"])
def test_torchvision_downloads_what_the_mirror_serves(tmp_path, mnist, monkeypatch, option):
    """The real path but for the host: torchvision, http, MD5, gunzip, verification, renaming."""
    from torchvision import datasets

    wanted = made_of(option, mnist)
    monkeypatch.setitem(known.KNOWN_SETS, option, wanted)
    served = put(tmp_path / "mirror", mnist, zipped=True)
    source = getattr(datasets, wanted.torchvision)

    class Mirror(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(source, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in served.iterdir()}
        monkeypatch.setattr(source, "resources", list(digests.items()))
        assert known.fetch(tmp_path / "data", print, wanted) is None
        server.shutdown()
    found = known.load(option, tmp_path / "data")
    assert (found.name, len(found.train), len(found.test)) == (option, 30, 20)


def test_mirrors_that_refuse_are_a_reason_in_one_line(tmp_path):
    """The tests' proxy refuses every connection."""
    reason = download.download(tmp_path, known.KNOWN_SETS["mnist"])
    assert "refused" in reason and "\n" not in reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("no route"), "<urlopen error no route>"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("Error downloading it:\nthe last mirror is down"), "the last mirror is down"),
    ],
)
def test_a_mirror_gets_ten_seconds_at_most_and_any_failure_is_a_reason_in_one_line(
    tmp_path, monkeypatch, error, reason
):
    limits = []

    def fail(*_, **__):
        limits.append(socket.getdefaulttimeout())
        raise error

    monkeypatch.setattr("torchvision.datasets.MNIST", fail)
    assert download.download(tmp_path, known.KNOWN_SETS["mnist"]) == reason
    assert 0 < 2 * limits[0] <= 10  # https, then http
    assert socket.getdefaulttimeout() is None


def test_torchvision_is_not_imported_when_there_is_nothing_to_download(tmp_path, mnist):
    put(tmp_path, mnist)
    code = (
        "import dataclasses, json, sys; from pathlib import Path; from distmnist.data import known, idx\n"
        "files = {name: idx.IdxFile(tuple(shape), md5) for name, (shape, md5, _) in json.loads(sys.argv[2]).items()}\n"
        "wanted = known.KNOWN_SETS['mnist'] = dataclasses.replace(known.KNOWN_SETS['mnist'], files=files)\n"
        "assert known.fetch(Path(sys.argv[1]), print, wanted) is None\n"
        "print(known.load('mnist', Path(sys.argv[1])).name, 'torchvision' in sys.modules)"
    )
    table = json.dumps(published(mnist))
    done = subprocess.run([sys.executable, "-c", code, tmp_path, table], capture_output=True, text=True, check=True)
    assert done.stdout == "mnist False\n"
