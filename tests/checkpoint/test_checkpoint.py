"""Checkpoints: whole or refused; what was on disk before survives whatever happens to the next."""

import errno
import hashlib
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from distmnist.checkpoint import storage
from distmnist.checkpoint.record import Checkpoint, Epoch, ProgressState
from distmnist.checkpoint.source import fill
from distmnist.checkpoint.storage import (
    MAGIC,
    CheckpointError,
    from_bytes,
    load,
    load_newest,
    save,
    to_bytes,
    weights_sha256,
)
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import RunError
from distmnist.models.cnn import CNN
from distmnist.runs import rundir
from distmnist.runs.rundir import RunDirectory


def checkpoint(step=3):
    return Checkpoint(
        model={"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([-1.5])},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scaler={},
        progress=ProgressState(
            global_step=step,
            optimizer_steps=step,
            loss_sum=0.5,
            history=(EPOCH,),
            train_seconds=1.0,
            epoch_seconds=0.5,
        ),
        config={"model": "mlp", "max_steps": None},
        dataset=DatasetFacts("made up", 6, 2),
        fast=("a part",),
    )


EPOCH = Epoch(
    epoch=1, step=3, train_loss=0.5, test_loss=0.25, test_accuracy=0.5, lr=0.1, images_per_second=9.0, val_loss=0.75
)
SCHEMA_1 = {
    "version": 1,
    "model": {"w": torch.zeros(2)},
    "train": {
        "optimizer": {"state": {}},
        "scaler": {},
        "position": 5,
        "updates": 4,
        "loss_sum": 0.5,
        "history": [EPOCH.to_json()],
        "train_seconds": 1.0,
        "epoch_seconds": 0.5,
    },
    "config": {"model": "mlp"},
    "dataset": {"name": "made up", "train": 6, "test": 2},
    "result": None,
}


def same(one, other):
    if isinstance(one, Checkpoint):
        one, other = one.to_dict(), other.to_dict()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    return one == other


def signed(body: bytes) -> bytes:
    """With the footer of the format, computed here on its own."""
    return body + b"distmnist-sha256" + hashlib.sha256(body).digest()


def saved(content, path) -> Path:
    torch.save(content, path)
    path.write_bytes(signed(path.read_bytes()))
    return path


def test_what_is_saved_is_loaded_and_the_one_before_is_kept(tmp_path):
    save(tmp_path, checkpoint(1))
    assert same(load(tmp_path / "last.pt"), checkpoint(1))
    save(tmp_path, checkpoint(2))
    assert load(tmp_path / "last.pt").progress.global_step == 2
    assert load(tmp_path / "prev.pt").progress.global_step == 1
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "prev.pt"]
    assert load_newest(tmp_path)[0].progress.global_step == 2 and load_newest(tmp_path)[1] is None


def test_plain_torch_load_reads_a_checkpoint(tmp_path):
    save(tmp_path, checkpoint())
    assert same(torch.load(tmp_path / "last.pt", weights_only=True), checkpoint().to_dict())


def test_a_checkpoint_cut_anywhere_or_with_any_byte_changed_is_refused():
    content = to_bytes(checkpoint())
    assert same(from_bytes(content, "x"), checkpoint())
    for position in range(len(content)):
        changed = content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]
        for wrong in (content[:position], changed):
            with pytest.raises(CheckpointError, match="x is damaged"):
                from_bytes(wrong, "x")
    with pytest.raises(CheckpointError):
        from_bytes(content + b"\0", "x")


@pytest.mark.parametrize("schema", [0, 3, "1", True, None])
def test_a_checkpoint_of_another_schema_is_refused_by_its_number(tmp_path, schema):
    path = saved({**checkpoint().to_dict(), "schema": schema}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"other.pt is a checkpoint of schema {schema!r}; .* reads 1 and 2$"):
        load(path)


def test_a_checkpoint_of_schema_1_is_read(tmp_path):
    read = load(saved(SCHEMA_1, tmp_path / "old.pt"))
    assert (read.progress.global_step, read.progress.optimizer_steps, read.progress.history) == (5, 4, (EPOCH,))
    assert (read.optimizer, read.scaler, read.config) == ({"state": {}}, {}, {"model": "mlp"})
    assert (read.fast, read.written, read.versions, read.result) == (None, None, None, None)


WRONG = {
    "$.progress.global_step": ("progress", "global_step", "7"),
    "$.progress.history[0].lr": ("progress", "history", [{**EPOCH.to_json(), "lr": None}]),
    "$.progress.loss_sum": ("progress", "loss_sum", [1.0]),
    "$.dataset.train": ("dataset", "train", 1.5),
    "$.model[...]": ("model", "w", 1.0),
    "$.config[...]": ("config", "model", ["mlp"]),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_field_of_the_wrong_type_is_refused_by_its_place(tmp_path, place):
    group, name, wrong = WRONG[place]
    content = checkpoint().to_dict()
    content[group] = {**content[group], name: wrong}
    with pytest.raises(CheckpointError) as refusal:
        load(saved(content, tmp_path / "x.pt"))
    assert f"at `{place}`" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("group", ["model", "optimizer", "progress", "config", "dataset"])
def test_a_missing_field_is_refused_by_its_name(tmp_path, group):
    content = checkpoint().to_dict()
    del content[group]
    with pytest.raises(CheckpointError, match=group):
        load(saved(content, tmp_path / "x.pt"))
    old = {
        name: value
        for name, value in SCHEMA_1.items()
        if name != {"optimizer": "train", "progress": "train"}.get(group, group)
    }
    with pytest.raises(CheckpointError):
        load(saved(old, tmp_path / "x.pt"))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    for content in ([1, 2], {"model": {}}, torch.zeros(2)):
        with pytest.raises(CheckpointError):
            load(saved(content, tmp_path / "x.pt"))
    (tmp_path / "y.pt").write_bytes(signed(b"not a zip file"))
    for name in ("y.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            load(tmp_path / name)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_with_a_right_digest_is_not_run(tmp_path, zipped):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    content = {**checkpoint().to_dict(), "extra": Evil(marker)}
    if zipped:
        saved(content, path)
    else:
        path.write_bytes(signed(pickle.dumps(content, protocol=2)))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load(path)
    assert not marker.exists()


def damage(path):
    path.write_bytes(path.read_bytes()[:-7])


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_that_is_said(tmp_path):
    assert load_newest(tmp_path) == (None, None)
    save(tmp_path, checkpoint(1))
    save(tmp_path, checkpoint(2))
    damage(tmp_path / "last.pt")
    found, trouble = load_newest(tmp_path)
    assert found.progress.global_step == 1 and "last.pt is damaged" in trouble
    damage(tmp_path / "prev.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        load_newest(tmp_path)


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, checkpoint(1))
    replace = os.replace

    def die(source, target):
        if Path(target).name == "last.pt":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, checkpoint(2))
    assert load_newest(tmp_path)[0].progress.global_step == 1


class Killed(BaseException):
    """Stands in for SIGKILL."""


def die_at(monkeypatch, number, after):
    """Has the call `number` of those that change a name on the disk or make one durable be the last of the process."""
    calls = 0

    def deadly(original):
        def call(*args):
            nonlocal calls
            calls += 1
            if calls > number or (calls == number and not after):
                raise Killed
            original(*args)
            if calls == number:
                raise Killed

        return call

    for name in ("replace", "fsync", "unlink"):
        monkeypatch.setattr(os, name, deadly(getattr(os, name)))


def whole(folder):
    """The position of each whole checkpoint in the folder."""
    found = {}
    for name in ("last.pt", "prev.pt"):
        try:
            found[name] = load(folder / name).progress.global_step
        except CheckpointError:
            continue
    return found


def run_with_a_damaged_newest_checkpoint(path):
    """Its directory, with the checkpoint before loaded: the one of step 1."""
    (path / "mlp").mkdir(parents=True)
    save(path / "mlp", checkpoint(1))
    save(path / "mlp", checkpoint(2))
    damage(path / "mlp/last.pt")
    directory = RunDirectory(path)
    assert directory.load("mlp")[0].progress.global_step == 1
    return directory


def test_a_run_resumed_from_prev_has_two_whole_checkpoints_after_its_first_save(tmp_path):
    directory = run_with_a_damaged_newest_checkpoint(tmp_path / "run")
    damaged = (tmp_path / "run/mlp/last.pt").read_bytes()
    directory.save("mlp", checkpoint(3))
    assert whole(tmp_path / "run/mlp") == {"last.pt": 3, "prev.pt": 1}
    assert (tmp_path / "run/mlp/last.pt.damaged").read_bytes() == damaged
    directory.save("mlp", checkpoint(4))
    assert whole(tmp_path / "run/mlp") == {"last.pt": 4, "prev.pt": 3}
    directory.release()


@pytest.mark.parametrize("after", [False, True])
def test_wherever_a_save_is_killed_after_a_resume_from_prev_the_run_can_be_resumed(tmp_path, monkeypatch, after):
    for number in range(1, 20):
        run = tmp_path / str(number)
        directory = run_with_a_damaged_newest_checkpoint(run)
        with monkeypatch.context() as deadly:
            die_at(deadly, number, after)
            try:
                directory.save("mlp", checkpoint(3))
            except Killed:
                killed = True
            else:
                killed = False
        directory.release()
        if not killed:
            assert number > 6  # two renames, a sync; a sync, two renames, a sync
            return
        assert whole(run / "mlp"), f"killed at call {number}"
        again = RunDirectory(run)
        assert again.load("mlp")[0].progress.global_step in (1, 3)
        again.save("mlp", checkpoint(4))
        assert len(whole(run / "mlp")) == 2
        again.release()
    pytest.fail("the save never ended")


def test_a_save_costs_no_reading_of_the_checkpoints_on_disk(tmp_path, monkeypatch):
    directory = run_with_a_damaged_newest_checkpoint(tmp_path / "run")
    monkeypatch.setattr(storage, "from_bytes", lambda *_: pytest.fail("a checkpoint was read"))
    directory.save("mlp", checkpoint(3))
    directory.save("mlp", checkpoint(4))
    directory.release()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def no_sync(monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def no_room(monkeypatch):
    resource = pytest.importorskip("resource", reason="no limits of this kind on Windows")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = storage.write_atomically

    def confined(*args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            write(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    for module in (storage, rundir):
        monkeypatch.setattr(module, "write_atomically", confined)


@pytest.mark.parametrize("fail", [no_sync, no_room])
def test_a_full_disk_leaves_what_was_there_as_it_was_and_no_temporary_file(tmp_path, monkeypatch, fail):
    directory = RunDirectory(tmp_path / "run")
    directory.save("mlp", checkpoint(1))
    directory.save("mlp", checkpoint(2))
    directory.write("summary.json", b"interrupted")
    before = contents(directory.path)
    assert before.keys() == {"last.pt", "prev.pt", "metrics.jsonl", "summary.json"}
    fail(monkeypatch)
    with pytest.raises(RunError, match=r"mlp cannot be written: .*; the checkpoint before is whole"):
        directory.save("mlp", checkpoint(3))
    with pytest.raises(RunError, match=r"summary\.json cannot be written: .*; what was there before is whole"):
        directory.write("summary.json", b"finished" * 1000)
    assert contents(directory.path) == before
    directory.release()


def test_a_checkpoint_is_durable_before_it_takes_its_name_and_its_name_afterwards(tmp_path, monkeypatch):
    save(tmp_path, checkpoint(1))
    events = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor):
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(source, target):
        events.append(f"{Path(source).suffix} to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    save(tmp_path, checkpoint(2))
    assert events == ["file", ".pt to prev.pt", ".tmp to last.pt", "directory"]


def test_the_digest_of_weights_is_over_float32_little_endian_c_order_in_the_order_of_the_state_dict():
    weight = torch.arange(24.0).reshape(2, 3, 2, 2) / 7
    bias = torch.tensor([0.5, -2.0], dtype=torch.bfloat16)
    by_hand = np.asarray(weight.numpy(), "<f4").tobytes("C") + np.array([0.5, -2.0], "<f4").tobytes()
    expected = hashlib.sha256(by_hand).hexdigest()
    for laid_out in (
        weight,
        weight.to(memory_format=torch.channels_last),
        weight.transpose(0, 3).clone().transpose(0, 3),
    ):
        assert weights_sha256({"w": laid_out, "b": bias}) == expected
    assert weights_sha256({"b": bias, "w": weight}) != expected
    assert MAGIC == b"distmnist-sha256"


def test_a_model_from_a_checkpoint_has_the_strides_of_a_new_one_whatever_training_left():
    """torch chooses kernels by them, and an export would be traced otherwise."""
    state = CNN().to(memory_format=torch.channels_last).state_dict()
    with torch.device("meta"):
        model = CNN()
    fill(model, {name: tensor.contiguous() for name, tensor in state.items()}, Path("x"))
    assert {name: tensor.stride() for name, tensor in model.state_dict().items()} == {
        name: tensor.stride() for name, tensor in CNN().state_dict().items()
    }
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
