"""A model of one's own: what it is passed, its initial weights, and what is found out before it is trained."""

import copy
import os
import re
import sys

import pytest
import torch
from torch import nn

from distmnist.config import resolve
from distmnist.errors import UsageError
from distmnist.models.build import build_model
from distmnist.models.custom import check_custom, check_model, ignores

pytest_plugins = ["own_models"]

SHAPE = (3, 12, 16)
DATA = {"num_classes": 3, "in_chans": 3, "image_size": (12, 16)}


def test_a_callable_is_passed_what_it_names_and_the_rest_by_model_args(mine):
    model = build_model("mine:Net", **DATA, dropout=0.25, activation="tanh", model_args="width=5")
    assert model.layers[1].weight.shape == (5, 3 * 12 * 16) and model.layers[5].weight.shape == (3, 5)
    assert model.layers[4].p == 0.25
    assert build_model("mine:Net", num_classes=2, image_size=(8, 8)).layers[1].in_features == 64


def test_what_model_args_give_wins(mine):
    assert build_model("mine:Net", **DATA, model_args="num_classes=7,dropout=0.5").layers[5].out_features == 7


def test_a_callable_with_any_keyword_is_passed_the_number_of_classes_alone(mine):
    build_model("mine:small", **DATA, model_args="colour=red")
    assert sys.modules["mine"].given == [{"num_classes": 3, "colour": "red"}]
    model = build_model("torchvision.models:resnet18", **{**DATA, "num_classes": 4})
    assert model.fc.out_features == 4


def test_initial_weights_depend_on_seed_and_full_name_only_and_no_generator_is_touched(mine):
    before = torch.get_rng_state()
    first, again = (build_model("mine:Net", **DATA, seed=1).state_dict() for _ in range(2))
    torch.rand(3)
    other_seed = build_model("mine:Net", **DATA, seed=2).layers[1].weight
    other_name = build_model("mine:Cnn", **DATA, seed=1).layers[1].weight
    weight = first["layers.1.weight"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(weight, other_seed) and not torch.equal(weight, other_name)
    torch.set_rng_state(before)
    build_model("mine:Net", **DATA)
    check_model(build_model("mine:Net", **DATA, dropout=0.5), SHAPE, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_current_directory_comes_last_in_the_search_for_modules(mine):
    before = [*sys.path]
    check_custom("mine:Net", None)
    assert sys.path == [*before, os.getcwd()]
    sys.path.insert(0, sys.path.pop())
    before = [*sys.path]
    check_custom("mine:Net", None)
    assert sys.path == before


REFUSED = {
    "no_such_module:net": "no module no_such_module, neither installed nor in",
    "mine:no_such_name": "mine has no callable no_such_name",
    "mine:number": "mine has something else as its callable number",
    "mine:deep": "missing a required argument: 'depth'; give it with --model-args",
    "mine:nothing": "made an object of type NoneType; return a torch.nn.Module",
    "mine:whole": "has no parameters",
    "mine:broken": "raised KeyError: 'lost'; it was called with num_classes=3",
    "builtins:dict": "does not say which arguments it takes",
    "mine.py:Net": "no module mine.py",
    "mine:Net x": "is not of the form package.module:callable",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_model_is_one_line_that_names_it(mine, name):
    with pytest.raises(UsageError, match=REFUSED[name]) as caught:
        build_model(name, **DATA)
    assert f"--model {name}" in str(caught.value) and "\n" not in str(caught.value)


def test_lazy_layers_are_refused(mine):
    with pytest.raises(UsageError, match=r"--model mine:deep has lazy layers"):
        build_model("mine:deep", **DATA, model_args="depth=1")


def test_arguments_that_the_callable_does_not_know_are_refused_with_those_it_knows(mine):
    with pytest.raises(
        UsageError, match=r"--model-args depth: --model mine:Net has no such argument; it takes .*width"
    ):
        build_model("mine:Net", **DATA, model_args="depth=3")
    with pytest.raises(UsageError, match="--model-args is for a model of your own, and mlp is none"):
        build_model("mlp", model_args="depth=3")


def test_an_option_has_an_effect_where_the_callable_names_it_and_model_args_do_not(mine):
    assert ignores("mine:Net", "activation", None) and ignores("mine:small", "dropout", None)
    assert not ignores("mine:Net", "dropout", "width=3") and ignores("mine:Net", "dropout", "dropout=0.5")


def test_the_trial_finds_parameters_without_a_gradient_and_leaves_the_model_alone(mine):
    model = build_model("mine:Net", **DATA, dropout=0.5, model_args="spare=True")
    model.spare.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    with torch.no_grad():
        assert check_model(model, SHAPE, 3) == ("spare.weight",)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


WRONG = {
    "mine:of_five": r"returns float32 \[2, 5\] for 2 images of 3 classes",
    "mine:grey": "RuntimeError: Given groups=1, .*the images have 3 channels and it takes 1: .*--channels 1",
    "mine:Words": "returns an object of type dict",
    "mine:Numbers": r"returns int64 \[2, 3\]",
    "mine:Infinite": "not finite",
    "mine:Detached": "raised RuntimeError: element 0 of tensors does not require grad",
    "mine:OnlyInTraining": r"returns int64 \[2\]",
    "mine:Leaving": "raised SystemExit: done",
    "mine:small": "raised RuntimeError: mat1 and mat2 shapes cannot be multiplied.*the images are 3 x 12 x 17",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_is_no_classifier_of_the_images_is_one_line(mine, name):
    shape = (3, 12, 17) if name == "mine:small" else SHAPE
    model = build_model(name, num_classes=3, in_chans=3, image_size=shape[1:])
    with pytest.raises(UsageError) as caught:
        check_model(model, shape, 3, f"--model {name}")
    line = str(caught.value)
    assert re.search(WRONG[name], line) and line.startswith(f"--model {name}") and "\n" not in line


def test_a_model_that_cannot_be_copied_is_one_line():
    model = nn.Linear(2, 2)
    model.extra = model.weight * 2
    with pytest.raises(UsageError, match="the model raised RuntimeError: Only Tensors created explicitly"):
        check_model(model, (1, 1, 2), 2)


def test_names_are_resolved_without_an_import():
    job = resolve({"model": "cnn,no.such.module:Net,mlp", "model_args": "depth=3"})
    assert job.models == ["cnn", "no.such.module:Net", "mlp"] and job.names == ["cnn", "Net", "mlp"]
    assert [config.model_args for config in job.configs] == [None, "depth=3", None]
    assert resolve({"model": "all,m:net,cnn"}).names == ["mlp", "cnn", "net"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "a:x,b:y"}, "names 2 models of your own"),
        ({"model": "a:CNN"}, "something else called CNN"),
        ({"model": "a:plots"}, "something else called plots"),
        ({"model": "a:Report"}, "something else called Report"),
        ({"model": "a:all"}, "something else called all"),
        ({"model": "a b:net"}, "not of the form package.module:callable"),
        ({"model": "a:b:c"}, "not of the form"),
        ({"model": ":net"}, "not of the form"),
        ({"model": "../a:net"}, "not of the form"),
        ({"model_args": "depth=3"}, "--model-args is for a model of your own"),
        ({"model": "a:net", "model_args": "depth"}, "--model-args depth cannot be understood"),
    ],
)
def test_names_that_cannot_be_used_are_refused_without_an_import(options, told):
    with pytest.raises(UsageError, match=told):
        resolve(options)
