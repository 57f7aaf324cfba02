"""The statistics of each step are read once, in order, at the same step on all ranks."""

import pytest
import torch

from distmnist.training import stats as stats_module
from distmnist.training.stats import StatsReader, StepStats


class FakeEvent:
    """Stands in for a CUDA event: notes whether the host has waited for the copy it stands behind."""

    def record(self):
        self.waited = False

    def synchronize(self):
        self.waited = True


@pytest.fixture
def windowed(monkeypatch):
    """A reader that works as on CUDA, on the CPU."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(StatsReader, "EVERY", 4)
    plain_empty = torch.empty
    monkeypatch.setattr(
        stats_module.torch, "empty", lambda *args, pin_memory=False, device=None, **rest: plain_empty(*args, **rest)
    )
    return StatsReader(torch.device("cuda"))


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 8, 9, 13])
def test_on_cuda_everything_is_read_once_in_order_a_window_late(windowed, steps):
    read = []
    for step in range(steps):  # at each, the device may be up to a window behind: nothing newer is waited for
        fresh = windowed.put(torch.tensor([float(step), 0.0, 1.0]))
        assert all(stats.loss_sum <= step - 4 for stats in fresh)
        read += fresh
    read += windowed.drain()
    assert read == [StepStats(float(step), 0.0, 1.0) for step in range(steps)]
    assert windowed.drain() == []


def test_on_the_cpu_all_is_read_at_once():
    reader = StatsReader(torch.device("cpu"))
    assert reader.put(torch.tensor([2.5, 1.0, 0.0])) == [StepStats(2.5, 1.0, 0.0)]
    assert reader.drain() == []
