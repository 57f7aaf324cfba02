"""--weights: what is read, what fits, and what is refused."""

import copy
import hashlib
import os
import pickle

import pytest
import torch
from digits import few_digits
from safetensors.torch import save_file
from torch import nn

from distmnist.checkpoint.storage import load, save
from distmnist.checkpoint.weights import load_weights
from distmnist.config import TrainConfig
from distmnist.errors import UsageError
from distmnist.models.build import build_model
from distmnist.training.callbacks import Callback
from distmnist.training.trainer import fit


def model(classes=10, seed=0):
    return build_model("any_models:Mixed", num_classes=classes, seed=seed)


@pytest.fixture
def other():
    """Weights that no seed gives."""
    found = model(seed=1)
    with torch.no_grad():
        found.norm.running_mean.fill_(0.5)
    return found


WAYS = {
    "safetensors": lambda state, path: save_file({name: value.contiguous() for name, value in state.items()}, path),
    "a state dict": torch.save,
    "of the old format": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "in a checkpoint of Lightning": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "in a checkpoint": lambda state, path: torch.save({"model": state, "lr": 0.1}, path),
    "of DistributedDataParallel": lambda state, path: torch.save({f"module.{n}": v for n, v in state.items()}, path),
    "half precision": lambda state, path: torch.save(
        {n: v.bfloat16() if v.is_floating_point() else v for n, v in state.items()}, path
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_read_by_what_they_are_whatever_the_file_is_called(way, other, tmp_path):
    path = tmp_path / "w.bin"
    WAYS[way](other.state_dict(), path)
    mine = model()
    told = load_weights(mine, path, 10)
    assert told.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and told.reinitialized == ()
    for name, value in mine.state_dict().items():
        wanted = other.state_dict()[name]
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted.bfloat16().to(wanted.dtype) if way == "half precision" else wanted), name


def test_counters_of_batch_norms_may_be_missing(other, tmp_path):
    state = {name: value for name, value in other.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(dict(state), tmp_path / "w.pt")
    mine = model()
    load_weights(mine, tmp_path / "w.pt", 10)
    assert torch.equal(mine.norm.running_mean, other.norm.running_mean)


def test_a_last_layer_for_other_classes_keeps_the_weights_it_has(other, tmp_path):
    torch.save(other.state_dict(), tmp_path / "w.pt")
    mine = model(classes=7)
    before = copy.deepcopy(mine.last.state_dict())
    assert load_weights(mine, tmp_path / "w.pt", 7).reinitialized == ("last.weight", "last.bias")
    assert all(torch.equal(value, mine.last.state_dict()[name]) for name, value in before.items())
    assert torch.equal(mine.norm.weight, other.norm.weight) and torch.equal(mine.first.weight, other.first.weight)


def changed(state, **changes):
    return {name: value for name, value in {**state, **changes}.items() if value is not None}


REFUSED = {
    "missing": (lambda state: changed(state, **{"norm.weight": None}), r"it has no norm\.weight$"),
    "unknown": (lambda state: changed(state, extra=torch.ones(1)), r"this one has no extra$"),
    "other shape": (lambda state: changed(state, **{"norm.bias": torch.ones(3)}), r"norm\.bias has the shape \[3\]"),
    "another width": (
        lambda state: changed(state, **{"last.weight": torch.ones(7, 9), "last.bias": torch.ones(7)}),
        r"last\.weight has the shape \[7, 9\], and in this one \[10, 12\]$",
    ),
    "two layers": (
        lambda state: changed(state, **{"last.bias": torch.ones(7), "idle.bias": torch.ones(7)}),
        "of another model",
    ),
    "not finite": (lambda state: changed(state, **{"last.bias": torch.full((10,), torch.inf)}), "is not finite"),
    "nothing": (lambda state: {}, "holds no state dict"),
    "numbers": (lambda state: {"model": {"a": 1}}, "holds no state dict"),
    "a list": (lambda state: list(state.values()), "holds no state dict"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_weights_of_another_model_are_refused_in_one_line(what, other, tmp_path):
    change, told = REFUSED[what]
    torch.save(change(dict(other.state_dict())), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=told) as error:
        load_weights(model(), tmp_path / "w.pt", 10)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--weights {tmp_path}")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"x" * 100, b"\x90\0\0\0\0\0\0\0{" + b"}" * 20, pickle.dumps(Trap())]
)
def test_a_file_that_is_damaged_or_hostile_is_refused_and_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UsageError, match=r"^--weights .* is (neither safetensors nor|no whole safetensors file)"):
        load_weights(model(), tmp_path / "w.pt", 10)
    torch.save({"model": Trap()}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="can be read without running code"):
        load_weights(model(), tmp_path / "w.pt", 10)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match=f"^--weights {path} cannot be read: "):
            load_weights(model(), path, 10)


class Keep(Callback):
    def on_checkpoint(self, checkpoint):
        self.checkpoint = copy.deepcopy(checkpoint)


def test_a_fit_starts_from_them_and_notes_their_digest_in_checkpoint_and_result(other, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(other.state_dict(), path)
    config, kept = TrainConfig(model="any_models:Mixed", amp="off", epochs=1, lr=1e-9, weights=path), Keep()
    result = fit(config, few_digits(), callbacks=[kept])
    assert torch.allclose(result.state["last.weight"], other.last.weight, atol=1e-6)
    assert result.figures.initial_weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    save(tmp_path, kept.checkpoint)
    stored = load(tmp_path / "last.pt")
    assert stored.initial_weights == result.figures.initial_weights
    path.unlink()  # a resumed fit does not need it
    again = fit(config, few_digits(), checkpoint=stored)
    assert again.figures.initial_weights == result.figures.initial_weights
    assert again.figures.weights_sha256 == result.figures.weights_sha256


def test_a_checkpoint_of_ones_own_is_a_start(tmp_path):
    kept = Keep()
    fit(TrainConfig(model="mlp", amp="off", max_steps=2), few_digits(), callbacks=[kept])
    save(tmp_path, kept.checkpoint)
    mine = build_model("mlp")
    load_weights(mine, tmp_path / "last.pt", 10)
    assert all(torch.equal(value, kept.checkpoint.model[name]) for name, value in mine.state_dict().items())
    assert isinstance(mine, nn.Module)
