"""Signals: a request that the loop asks for, never an exception in the middle of a step."""

import os
import signal

import pytest

from distmnist import train
from distmnist.runs import job
from distmnist.training import requests
from distmnist.training.requests import Request, Signals


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(requests.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_lasting_request_to_stop_and_its_handler_is_given_back(number, clock):
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals() == Request.NOTHING and signals.fatal is None
        os.kill(os.getpid(), number)
        assert signals() & Request.STOP and signals() & Request.STOP
        assert signals.fatal == number
    assert signal.getsignal(number) == before


def test_the_same_ctrl_c_arriving_twice_is_one_and_a_second_one_interrupts_at_once(clock):
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 0.5
        os.kill(os.getpid(), signal.SIGINT)  # torchrun's copy of it
        assert signals() & Request.STOP
        clock[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_does_not_break_off_the_last_snapshot(clock):
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 5.0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals() & Request.STOP and signals.fatal == signal.SIGINT


def test_ctrl_c_before_training_begins_answers_130_without_a_word(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupted)
    assert train.main([]) == 130
    assert capsys.readouterr() == ("", "")


def test_sigusr1_requests_one_checkpoint_and_training_continues():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert [signals(), signals()] == [Request.CHECKPOINT, Request.NOTHING]
        assert signals.fatal is None
