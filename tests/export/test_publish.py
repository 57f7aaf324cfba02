"""Where an export is put: whole or not at all, wherever a kill strikes, and in directories that cannot be renamed."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from distmnist.errors import UsageError
from export import folder, publish

OLD, NEW = {"cnn.onnx": b"old", "mlp/0.pb": b"old", "mlp.onnx": b"old"}, {"mlp.onnx": b"new", "mlp/1.pb": b"new"}


def fill(where: Path, files: dict[str, bytes]) -> None:
    """Makes an export of `files` in `where`, as `export.job` does: the manifest last."""
    for name, content in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)
    report = {"schema": folder.SCHEMA, "sha256": "", "files": folder.digests(where)}
    publish.write_atomically(where / folder.MANIFEST, folder.sealed(report))


def export(output: Path, files: dict[str, bytes] = NEW) -> None:
    with publish.staging(output) as staged:
        fill(staged, files)


def found(output: Path) -> dict[str, bytes] | None:
    """The files of the export, None if there is none. Fails if it is not whole, or not by itself in its directory."""
    if not (output / folder.MANIFEST).exists():
        return None
    report, failures = folder.read(output)
    assert failures == []
    there = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert there == {*report["files"], folder.MANIFEST}
    return {name: (output / name).read_bytes() for name in report["files"]}


@pytest.fixture
def mount():
    """mount(TARGET, *OPTIONS) mounts a file system there, as `docker -v` does. Skips where that is not permitted."""
    if sys.platform != "linux":
        pytest.skip("mounts as Linux does")
    mounted = []

    def mount(target: Path, *options: str) -> Path:
        target.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, target], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting needs root: {done.stderr.strip()}")
        mounted.append(target)
        return target

    yield mount
    for target in reversed(mounted):
        subprocess.run(["umount", target], check=True)


@pytest.fixture(params=["beside", "no exchange", "inside", "tmpfs", "bind"])
def place(request, tmp_path, monkeypatch) -> Path:
    """The directory for the export, in each of the ways in which one takes its place."""
    output = tmp_path / "parent" / "out"
    output.parent.mkdir()
    if request.param == "no exchange":
        monkeypatch.setattr(publish, "exchange", lambda one, other: False)
    if request.param == "inside":
        output.mkdir()
        monkeypatch.chdir(output)
    if request.param == "tmpfs":
        request.getfixturevalue("mount")(output, "-t", "tmpfs", "tmpfs")
    if request.param == "bind":
        (tmp_path / "source").mkdir()
        request.getfixturevalue("mount")(output, "--bind", str(tmp_path / "source"))
    return output


def test_an_export_takes_the_place_of_the_one_before_and_nothing_else_is_left(place):
    export(place, OLD)
    assert found(place) == OLD
    export(place)
    assert found(place) == NEW
    assert [path.name for path in place.parent.iterdir()] == ["out"]
    assert {path.name for path in place.rglob("*") if path.is_dir()} == {"mlp"}


def test_an_export_into_a_new_directory_is_as_public_as_the_users_others(tmp_path):
    export(tmp_path / "deeper/out")
    (tmp_path / "usual").mkdir()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deeper/out", tmp_path / "usual")}
    assert len(modes) == 1


def test_an_export_that_fails_leaves_the_one_before(place):
    export(place, OLD)
    with pytest.raises(KeyboardInterrupt), publish.staging(place) as staged:
        (staged / "mlp.onnx").write_bytes(b"half")
        raise KeyboardInterrupt
    assert found(place) == OLD and [path.name for path in place.parent.iterdir()] == ["out"]


def empty(place: Path) -> None:
    """Takes away the export; the directory stays if it is a mount point, or where this process is."""
    for path in place.iterdir() if place.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):
        place.rmdir() if Path.cwd() != place else None


STEPS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")


def killed(output: Path, number: int) -> bool:
    """Exports in a process that dies before its step `number` on the disk; False if it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child runs nothing of torch
        child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            die_at(number)
            export(output)
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def die_at(number: int) -> None:
    count = 0

    def deadly(original):
        def step(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                os._exit(9)
            return original(*args, **kwargs)

        return step

    for name in STEPS:
        setattr(os, name, deadly(getattr(os, name)))
    publish.exchange = deadly(publish.exchange)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("before", [None, OLD], ids=["first", "again"])
@pytest.mark.parametrize("place", ["beside", "no exchange", "inside", "tmpfs"], indirect=True)
def test_wherever_an_export_is_killed_the_next_finds_the_old_or_the_new_one_whole(place, before, request, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of exports; a step all the same
    seen = set()
    for number in range(1, 60):
        empty(place)
        if before:
            export(place, before)
        if not killed(place, number):
            assert number > 8 and found(place) == NEW
            break
        if request.node.callspec.params["place"] == "beside" and sys.platform == "linux":
            assert found(place) in (before, NEW)  # at every moment, not only after the next export has begun
        publish.recover(place)
        now = found(place) if place.is_dir() else None
        assert now in (before, NEW), f"killed at step {number}"
        assert {path.name for path in place.parent.iterdir()} <= {"out"}, f"killed at step {number}"
        seen.add(now == NEW)
        export(place, OLD)
        assert found(place) == OLD
    else:
        pytest.fail("the export never ended")
    assert seen == {False, True}


def test_a_parent_that_cannot_be_written_is_no_hindrance_for_a_directory_that_can(tmp_path, mount):
    """As in a container whose user may write to the volume alone."""
    parent = mount(tmp_path / "parent", "-t", "tmpfs", "tmpfs")
    output = mount(parent / "out", "-t", "tmpfs", "tmpfs")
    subprocess.run(["mount", "-o", "remount,ro", parent], check=True)
    export(output, OLD)
    export(output)
    assert found(output) == NEW


def test_a_directory_that_cannot_be_written_is_refused_before_the_proof(tmp_path, mount):
    output = mount(tmp_path / "out", "-t", "tmpfs", "-o", "ro", "tmpfs")
    with pytest.raises(UsageError, match=r"--output .*out cannot be written: Read-only"), publish.staging(output):
        pytest.fail("the proof began")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_hidden_folder_of_an_export_that_runs_is_left_alone_by_another(tmp_path):
    output = tmp_path / "out"
    with publish.staging(output) as staged:
        fill(staged, OLD)
        export(output)
        assert found(output) == NEW and staged.is_dir()
    assert found(output) == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_hidden_folder_that_is_not_of_an_export_is_left_alone(tmp_path):
    for name in (".out-photographs", ".out-locked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "new").write_text("mine")
    (tmp_path / ".out-locked" / publish.LOCK).write_text("")
    (tmp_path / ".out-locked" / "thesis").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    export(tmp_path / "out")
    assert sorted(path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts) == before


def test_in_a_mount_point_files_that_no_export_has_listed_are_kept(tmp_path, monkeypatch):
    output = tmp_path / "out"
    export(output, OLD)
    (output / "notes.txt").write_text("mine")
    (tmp_path / "secret").write_text("mine")
    monkeypatch.chdir(output)
    report = {"schema": folder.SCHEMA, "files": {"../secret": {}, **folder.digests(output)}}
    del report["files"]["notes.txt"]
    (output / folder.MANIFEST).write_bytes(folder.sealed(report))
    export(output)
    assert (output / "notes.txt").exists() and (tmp_path / "secret").exists()
    assert {path.name for path in output.iterdir()} == {"mlp", "mlp.onnx", "notes.txt", folder.MANIFEST}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own")
def test_two_directories_change_places_in_one_step_and_a_missing_one_is_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / name).mkdir(parents=True)
    if not publish.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "a/b").exists() and (tmp_path / "b/a").exists()
    with pytest.raises(FileNotFoundError):
        publish.exchange(tmp_path / "a", tmp_path / "absent")
