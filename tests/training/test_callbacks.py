"""Callbacks: what `fit` tells, in which order, and what an exception in one of them comes to."""

import os

import pytest
from digits import few_digits
from hooks import Keep
from ranks import end_processes

import distmnist
from distmnist import train
from distmnist.checkpoint.record import Checkpoint
from distmnist.config import TrainConfig
from distmnist.data import download, known
from distmnist.errors import UsageError
from distmnist.runs.callbacks import ConsoleOutput
from distmnist.training.callbacks import Callback
from distmnist.training.requests import Request
from distmnist.training.trainer import fit

SMALL = {"model": "mlp", "epochs": 2, "batch_size": 100, "amp": "off"}


class Witness(Callback):
    """Notes what it is told in `seen`."""

    def __init__(self, name="", seen=None, stop_at=None):
        self.name, self.seen, self.stop_at, self.asked = name, [] if seen is None else seen, stop_at, 0

    def note(self, what, *more):
        self.seen.append((f"{self.name}{what}", *more))

    def on_fit_start(self, config, progress, replacements):
        self.note("fit", config.model, progress.global_step, bool(replacements))

    def on_epoch_start(self, progress):
        self.note("epoch", progress.global_step)

    def request(self):
        self.asked += 1
        return Request.STOP if self.asked == self.stop_at else Request.NOTHING

    def on_step_end(self, progress):
        self.note("step", progress.global_step)

    def on_evaluation_start(self, progress):
        self.note("evaluation", progress.global_step)

    def on_epoch_end(self, epoch):
        self.note("epoch end", epoch.epoch)

    def on_checkpoint(self, checkpoint):
        self.note("checkpoint", checkpoint.progress.global_step)

    def on_fit_end(self):
        self.note("end")


def test_a_fit_tells_everything_in_order(digits):
    witness = Witness()
    fit(TrainConfig(**SMALL), digits, callbacks=[witness], checkpoint_steps=2)
    first = [("epoch", 0), ("step", 1), ("step", 2), ("checkpoint", 2), ("step", 3)]
    first += [("evaluation", 3), ("epoch end", 1), ("checkpoint", 3)]
    second = [("epoch", 3), ("step", 4), ("checkpoint", 4), ("step", 5), ("step", 6)]
    second += [("evaluation", 6), ("epoch end", 2), ("checkpoint", 6)]
    assert witness.seen == [("fit", "mlp", 0, True), *first, *second, ("end",)]


def test_a_stopped_fit_tells_its_checkpoint_and_a_resumed_one_where_it_is(digits):
    kept: list[Checkpoint] = []
    witness = Witness(stop_at=2)
    fit(TrainConfig(**SMALL), digits, callbacks=[witness, Keep(kept.append)])
    assert witness.seen == [
        ("fit", "mlp", 0, True),
        ("epoch", 0),
        ("step", 1),
        ("step", 2),
        ("checkpoint", 2),
        ("end",),
    ]
    again = Witness()
    fit(TrainConfig(**SMALL), digits, callbacks=[again], checkpoint=kept[0])
    assert again.seen[:3] == [("fit", "mlp", 2, True), ("epoch", 2), ("step", 3)]


def test_callbacks_are_called_in_the_order_given(digits):
    seen = []
    fit(TrainConfig(**SMALL, max_steps=1), digits, callbacks=[Witness("a ", seen), Witness("b ", seen)])
    assert [what for what, *_ in seen][:2] == ["a fit", "b fit"]
    assert [what.split(" ", 1)[1] for what, *_ in seen[::2]] == [what.split(" ", 1)[1] for what, *_ in seen[1::2]]


class Failing(Callback):
    def on_step_end(self, progress):
        raise ArithmeticError("the callback's own")


def test_an_exception_in_a_callback_reaches_the_caller_and_the_fit_is_ended(digits):
    witness = Witness()
    with pytest.raises(ArithmeticError, match="own"):
        fit(TrainConfig(**SMALL), digits, callbacks=[Failing(), witness])
    assert witness.seen[-1] == ("end",)


def fail_on_rank_1(folder):
    os.chdir(folder)
    known.fetch, known.load = lambda *_: None, lambda name, directory: few_digits()
    options = ["--model=mlp", "--epochs=2", "--batch-size=60", "--amp=off", "--threads=1", "--timeout=10", "--output=r"]
    return train.main(options, [Failing()] if os.environ["RANK"] == "1" else [])


def test_an_exception_in_a_callback_of_one_rank_ends_all_with_one_line(tmp_path):
    ended = end_processes(fail_on_rank_1, 2, tmp_path)
    assert all(one.code for one in ended)
    [line] = [line for one in ended for line in one.err]
    assert line.startswith("distmnist: rank 1 on ") and "ArithmeticError: the callback's own" in line


def test_a_resumed_fit_that_is_computed_otherwise_is_warned_of_once(digits):
    kept: list[Checkpoint] = []
    fit(TrainConfig(**SMALL), digits, callbacks=[Keep(kept.append)])
    told = []
    log = type("Log", (), {"warn": lambda _, line: told.append(line)})()
    output = ConsoleOutput(log, kept[0])
    assert kept[0].fast and output.resumed is kept[0]
    output.on_fit_start(TrainConfig(**SMALL), None, kept[0].fast)
    assert told == []
    output.on_fit_start(TrainConfig(**SMALL), None, ["oneDNN tensors"])
    assert len(told) == 1 and "resumed with oneDNN tensors" in told[0] and ", ".join(kept[0].fast) in told[0]


def test_the_public_names_train_a_model():
    config = distmnist.TrainConfig(max_steps=1, amp="off")
    assert config.model == "cnn"
    data = distmnist.load_dataset("sample")
    result = distmnist.fit(config, data)
    model = distmnist.build_model("cnn")
    model.load_state_dict(result.state)
    assert distmnist.Callback is Callback and distmnist.TrainConfig is TrainConfig and distmnist.fit is fit
    assert set(distmnist.__all__) <= set(dir(distmnist))
    with pytest.raises(UsageError, match="unheard-of does not exist; name a folder of class folders"):
        distmnist.load_dataset("unheard-of")
    with pytest.raises(AttributeError, match="unheard_of"):
        distmnist.unheard_of  # noqa: B018


def test_a_data_set_that_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "download", lambda *_: "no network")
    with pytest.raises(UsageError, match="no network"):
        distmnist.load_dataset("mnist", tmp_path)
