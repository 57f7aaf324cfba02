"""The recipes hold no idle setting; the ablation takes each back by itself, and its table says what it gained."""

import pytest

from benchmarks.ablation import summarize, variants
from distmnist.commandline import parse
from distmnist.config import TrainConfig, resolve_model
from distmnist.recipes import RECIPES


@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("recipe", [name for name in RECIPES if RECIPES[name]])
def test_each_variant_sets_one_setting_back_to_its_default_and_every_setting_has_one(recipe, net):
    whole = resolve_model({"recipe": recipe}, net).options()
    defaults = TrainConfig(model=net).options()
    typed = list(variants(recipe, net).values())
    assert typed[0] == []
    taken_back = []
    for options in typed[1:]:
        variant = resolve_model(parse(["--recipe", recipe, *options]).explicit, net).options()
        changed = [name for name in whole if variant[name] != whole[name]]
        assert len(changed) == 1 and variant[changed[0]] == defaults[changed[0]]
        taken_back += changed
    assert sorted(taken_back) == sorted(name for name in whole if whole[name] != defaults[name])
    settings = RECIPES[recipe].get("*", {}) | RECIPES[recipe].get(net, {})
    assert len(settings) == len(taken_back), "a setting that is its default is idle"


def test_a_setting_that_is_tried_comes_beside_the_whole_recipe():
    *_, (name, typed) = variants("best", "cnn", ["weight_decay=0.01"]).items()
    assert (name, typed) == ("and --weight-decay 0.01", ["--weight-decay", "0.01"])


def test_differences_are_taken_seed_by_seed():
    whole, without = [99.0, 98.0, 97.0], [98.9, 97.7, 96.9]
    assert summarize(whole, whole).split() == ["98.000", "1.000", "0.577"]
    mean, spread, error, difference, paired_error = map(float, summarize(without, whole).split())
    assert (mean, spread, error) == (97.833, 1.007, 0.581)
    assert (difference, paired_error) == (-0.167, 0.067)
