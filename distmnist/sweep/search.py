"""Which settings a sweep tries, and in which order: four ways through the values that were listed.

A setting is option -> value. The published setting, if its values are listed, comes first in every search.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from distmnist.config import Json, TrainConfig, to_json
from distmnist.errors import UsageError
from distmnist.runs.records import Setting
from distmnist.seeds import generator, seed_for

Space = Mapping[str, Sequence[Json]]
"""option -> the values to try"""


def size(space: Space) -> int:
    """The number of settings in the space."""
    return math.prod(map(len, space.values()))


def centre(space: Space) -> Setting:
    """The published setting, as far as its values are listed; else the first value listed."""
    published = to_json(TrainConfig().options())
    return {name: published[name] if published[name] in values else values[0] for name, values in space.items()}


def one_at_a_time(space: Space) -> list[Setting]:
    """The centre, and every setting that differs from it in one option."""
    middle = centre(space)
    return [middle, *({**middle, name: v} for name in space for v in space[name] if v != middle[name])]


def grid(space: Space) -> list[Setting]:
    """Every setting."""
    middle = centre(space)
    every = (dict(zip(space, values, strict=True)) for values in itertools.product(*space.values()))
    return [middle, *(setting for setting in every if setting != middle)]


def random(space: Space, count: int, seed: int) -> list[Setting]:
    """The centre and `count` - 1 other settings, all different, a function of the arguments alone."""
    first, *others = grid(space)
    order = torch.randperm(len(others), generator=generator(seed, "random search"))
    return [first, *(others[place] for place in order[: count - 1])]


class Search(Protocol):
    """Proposes settings, numbered from 0. `known`: those that are known beforehand."""

    known: Sequence[Setting]

    def __iter__(self) -> Iterator[tuple[int, Setting]]: ...

    def tell(self, number: int, accuracy: float | None) -> None:
        """Takes note of what came of setting `number`: the accuracy on held-out digits, None if it failed."""


class Listed(Search):
    """A search that knows all its settings beforehand."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.known = settings

    def __iter__(self) -> Iterator[tuple[int, Setting]]:
        return iter(enumerate(self.known))

    def tell(self, number: int, accuracy: float | None) -> None:
        pass


class Optuna(Search):
    """A search by Optuna's tree of Parzen estimators: each setting follows from the held-out accuracies so far.

    `known`: the settings of an earlier attempt, tried first and in the same order. None is tried twice.
    """

    REPEATED_PROPOSALS = 100
    """Proposals in a row that were all tried before; then the search ends."""

    def __init__(self, space: Space, count: int, seed: int, known: Sequence[Setting] = ()) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise UsageError(
                "--search optuna needs optuna; install distmnist with the extra: pip install '.[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.count, self.known = space, min(count, size(space)), known
        self.failed = optuna.trial.TrialState.FAIL
        sampler = optuna.samplers.TPESampler(seed=seed_for(seed, "optuna", len(known)))
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        for setting in known or [centre(space)]:
            self.study.enqueue_trial(setting)
        self.trials: list[Any] = []
        self.accuracies: dict[tuple[Any, ...], float] = {}

    def __iter__(self) -> Iterator[tuple[int, Setting]]:
        repeated = 0
        tried: set[tuple[Any, ...]] = set()
        while len(tried) < self.count and repeated < self.REPEATED_PROPOSALS:
            trial = self.study.ask()
            setting = {name: trial.suggest_categorical(name, values) for name, values in self.space.items()}
            key = tuple(setting.values())
            if key in tried:
                repeated += 1
                accuracy = self.accuracies.get(key)
                self.study.tell(trial, accuracy, state=None if accuracy is not None else self.failed)
                continue
            repeated = 0
            tried.add(key)
            self.trials.append(trial)
            yield len(self.trials) - 1, setting

    def tell(self, number: int, accuracy: float | None) -> None:
        trial = self.trials[number]
        if accuracy is None:
            self.study.tell(trial, state=self.failed)
        else:
            self.accuracies[tuple(trial.params[name] for name in self.space)] = accuracy
            self.study.tell(trial, accuracy)
