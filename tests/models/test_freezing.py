"""--freeze: which parameters keep their values, and which modules their statistics."""

import pytest
import torch
from any_models import Mixed
from digits import few_digits
from ranks import run_ranks

from distmnist.config import TrainConfig
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.models.build import build_model
from distmnist.models.freezing import freeze, set_training
from distmnist.training.trainer import fit


@pytest.mark.parametrize(
    ("patterns", "names", "in_eval"),
    [
        ("norm", {"norm.weight", "norm.bias"}, ("norm",)),
        ("norm.*", {"norm.weight", "norm.bias"}, ("norm",)),
        ("norm.weight", {"norm.weight"}, ()),
        ("last.bias, id*", {"last.bias", "idle.weight", "idle.bias"}, ()),
        (
            "first",
            {"first.bias", "first.parametrizations.weight.original"},
            ("first.parametrizations.weight.0",),  # spectral norm's vectors
        ),
    ],
)
def test_a_pattern_names_parameters_and_layers_with_all_that_is_in_them(patterns, names, in_eval):
    model = Mixed()
    assert freeze(model, patterns) == in_eval
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == names
    set_training(model, in_eval)
    assert {name for name, module in model.named_modules() if not module.training} == {*in_eval}


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        ("norm,nothing", r"--freeze 'nothing' matches no layer .* layers are: first, norm, drop, idle, last$"),
        ("*", "leaves nothing to train"),
        ("NORM", "matches no layer"),
    ],
)
def test_a_pattern_that_matches_nothing_or_everything_is_refused(patterns, told):
    with pytest.raises(UsageError, match=told):
        freeze(Mixed(), patterns)


def state_after(world, options):
    start = {"model": "any_models:Mixed", "batch_size": 44, "amp": "off", "max_steps": 3, "weight_decay": 0.1}
    return fit(TrainConfig(**{**start, **options}), few_digits(), world=world).state


@pytest.mark.parametrize("options", [{}, {"virtual_ranks": 2}, {"optimizer": "sgd"}])
def test_what_is_frozen_is_the_same_after_training_and_the_rest_is_not(options):
    before = build_model("any_models:Mixed").state_dict()
    for size in (1, 2):
        given = {**options, "freeze": "norm,first"}
        after = state_after(World(), given) if size == 1 else run_ranks(state_after, size, given)[1]
        for name, value in before.items():
            kept = name.startswith(("norm.", "first.", "idle.", "mask"))
            assert torch.equal(value, after[name]) == kept, (name, size)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_published_models_can_be_frozen_in_part(model):
    before = build_model(model).state_dict()
    after = state_after(World(), {"model": model, "freeze": "fc1"})
    assert {name for name, value in before.items() if torch.equal(value, after[name])} == {"fc1.weight", "fc1.bias"}


def test_a_frozen_batch_norm_does_not_mind_a_single_image():
    fit(
        TrainConfig(model="any_models:Mixed", batch_size=23, max_steps=1, amp="off", freeze="norm"),
        few_digits(),  # 300 = 13 x 23 + 1
    )
