"""Getting the digits: one process downloads, whole files or none arrive, and what failed is said."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error

import pytest
from digits import published, put
from ranks import run_processes

from distmnist import data, idx
from distmnist.config import UsageError


def arriving(files, during=lambda: None):
    """Stands in for `data.download`: the files arrive in the scratch directory, as torchvision leaves them."""

    def download(scratch):
        during()
        put(scratch / "MNIST" / "raw", files)

    return download


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_that_are_there_are_not_downloaded(tmp_path, mnist, monkeypatch):
    monkeypatch.setattr(data, "download", lambda scratch: pytest.fail("downloads"))
    put(tmp_path, mnist)
    assert data.fetch(tmp_path, print) is None


def test_a_download_appears_under_its_names_only_when_it_is_whole(tmp_path, mnist, monkeypatch):
    target = tmp_path / "new" / "data"
    seen = []
    monkeypatch.setattr(data, "download", arriving(mnist, lambda: seen.append(data.find(target))))
    said = []
    assert data.fetch(target, said.append) is None
    assert seen == [None]
    assert data.load(target).name == "mnist"
    assert listing(target) == [".download.lock", *(f"MNIST/raw/{name}" for name in sorted(mnist))]
    assert str(target) in said[0]


def test_a_download_that_is_damaged_leaves_no_file_of_the_set_behind(tmp_path, mnist, monkeypatch):
    damaged = {**mnist, "t10k-labels-idx1-ubyte": b"<html>503</html>"}
    monkeypatch.setattr(data, "download", arriving(damaged))
    try:
        assert data.fetch(tmp_path, print)
    except UsageError as error:
        assert "t10k-labels-idx1-ubyte" in str(error)
    assert data.find(tmp_path) is None


def test_a_download_that_fails_gives_its_reason_and_the_sample(tmp_path, monkeypatch):
    def break_off(scratch):
        put(scratch / "MNIST" / "raw", {"train-images-idx3-ubyte.gz": b"half"})
        return "the mirrors are down"

    monkeypatch.setattr(data, "download", break_off)
    assert data.fetch(tmp_path, print) == "the mirrors are down"
    assert listing(tmp_path) == [".download.lock"]
    assert data.load(tmp_path).name == "mnist-sample"


def fetch_slowly(directory, journal, files):
    idx.FILES = published(files)

    def say_so():
        with journal.open("a") as file:
            file.write("download\n")
        time.sleep(0.3)

    data.download = arriving(files, say_so)
    reason = data.fetch(directory, lambda line: None)
    return reason, data.load(directory).name


def test_of_two_processes_at_once_one_downloads_and_both_have_the_files(tmp_path, mnist):
    journal = tmp_path / "journal"
    answers = run_processes(fetch_slowly, 2, tmp_path / "data", journal, mnist)
    assert answers == [(None, "mnist"), (None, "mnist")]
    assert journal.read_text() == "download\n"


@pytest.mark.parametrize("below", ["data", "data/deeper"])
def test_a_directory_that_cannot_be_made_is_refused_even_for_root(tmp_path, below):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UsageError, match=r"--data-dir .*data.* cannot be written"):
        data.fetch(tmp_path / below, print)


def test_torchvision_downloads_what_the_mirror_serves(tmp_path, mnist, monkeypatch):
    """The real path but for the host: torchvision, http, gunzip, verification, renaming."""
    from torchvision.datasets import MNIST

    put(tmp_path / "mirror", mnist, zipped=True)

    class Mirror(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "mirror"))

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", [(f"{name}.gz", None) for name in mnist])
        assert data.fetch(tmp_path / "data", print) is None
        server.shutdown()
    assert data.load(tmp_path / "data").describe() == {"name": "mnist", "train": 30, "test": 20}


def test_mirrors_that_refuse_are_a_reason_in_one_line(tmp_path):
    """The tests' proxy refuses every connection."""
    reason = data.download(tmp_path)
    assert "refused" in reason and "\n" not in reason


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError(), RuntimeError("all\nmirrors")])
def test_a_mirror_gets_ten_seconds_at_most_and_any_failure_is_a_reason(tmp_path, monkeypatch, error):
    limits = []

    def fail(*_, **__):
        limits.append(socket.getdefaulttimeout())
        raise error

    monkeypatch.setattr("torchvision.datasets.MNIST", fail)
    assert data.download(tmp_path)
    assert 0 < 2 * limits[0] <= 10  # https, then http
    assert socket.getdefaulttimeout() is None


def test_torchvision_is_not_imported_when_there_is_nothing_to_download(tmp_path, mnist):
    put(tmp_path, mnist)
    code = (
        "import json, sys; from pathlib import Path; from distmnist import data, idx, job\n"
        "idx.FILES = {name: (tuple(shape), md5) for name, (shape, md5) in json.loads(sys.argv[2]).items()}\n"
        "assert data.fetch(Path(sys.argv[1]), print) is None\n"
        "print(data.load(Path(sys.argv[1])).name, data.load(Path('nowhere')).name, 'torchvision' in sys.modules)"
    )
    table = json.dumps(published(mnist))
    done = subprocess.run([sys.executable, "-c", code, tmp_path, table], capture_output=True, text=True, check=True)
    assert done.stdout == "mnist mnist-sample False\n"
