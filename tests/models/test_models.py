"""The two published models: layers, names, initial weights, and what they become for other images."""

import pytest
import torch
from digits import random_digits
from torch.nn import functional

from distmnist.config import ACTIVATIONS, MODEL_NAMES, resolve
from distmnist.errors import UsageError
from distmnist.models.build import MODELS, build_model
from distmnist.models.cnn import CNN
from distmnist.models.mlp import FullyConnectedNN

PUBLISHED = {
    "mlp": {
        "fc1.weight": (128, 784),
        "fc1.bias": (128,),
        "fc2.weight": (64, 128),
        "fc2.bias": (64,),
        "fc3.weight": (10, 64),
        "fc3.bias": (10,),
    },
    "cnn": {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,),
        "fc1.weight": (128, 3136),
        "fc1.bias": (128,),
        "fc2.weight": (64, 128),
        "fc2.bias": (64,),
        "fc3.weight": (10, 64),
        "fc3.bias": (10,),
    },
}
PARAMETERS = {"mlp": 109_386, "cnn": 429_258}


def by_hand(weights, images, activation):
    """Logits from the published description, layer by layer."""
    x = images
    for name in ("conv1", "conv2"):
        if f"{name}.weight" in weights:
            x = activation(functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1))
            x = functional.max_pool2d(x, 2)
    x = x.flatten(1)
    for name in ("fc1", "fc2"):
        x = activation(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
    return x @ weights["fc3.weight"].T + weights["fc3.bias"]


@pytest.fixture
def images():
    return random_digits(5).batch(torch.arange(5))[0]


@pytest.mark.parametrize("net", PUBLISHED)
def test_names_shapes_and_number_of_parameters_are_the_published_ones(net):
    model = build_model(net)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == PUBLISHED[net]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[net]
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


def test_the_classes_have_the_published_names_and_all_trains_the_baseline_first():
    assert list(MODELS.items()) == [("mlp", FullyConnectedNN), ("cnn", CNN)]


@pytest.mark.parametrize("net", PUBLISHED)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_are_those_of_the_published_layers_for_every_activation(net, activation, images):
    model = build_model(net, activation=activation).eval()
    expected = by_hand(model.state_dict(), images, getattr(functional, activation))
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", PUBLISHED)
def test_an_empty_batch_gives_no_logits(net, images):
    assert build_model(net)(images[:0]).shape == (0, 10)


@pytest.mark.parametrize("net", PUBLISHED)
def test_initial_weights_depend_on_seed_and_net_only_and_no_global_random_state_is_touched(net):
    first = build_model(net, seed=1).state_dict()
    torch.rand(5)
    before = torch.get_rng_state()
    again = build_model(net, seed=1, activation="gelu", dropout=0.5).state_dict()
    other = build_model(net, seed=1 + 2**32).state_dict()  # torch.manual_seed takes this for 1
    assert torch.equal(torch.get_rng_state(), before)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.equal(build_model("mlp", seed=1).fc3.weight, build_model("cnn", seed=1).fc3.weight)


@pytest.mark.parametrize("net", PUBLISHED)
def test_initial_weights_are_spread_as_torchs_layers_spread_them(net):
    """Uniform within 1/sqrt(fan in), torch.nn.Linear's and Conv2d's documented default: the published recipe's."""
    for name, weight in build_model(net).state_dict().items():
        if name.endswith("weight"):
            bound = weight[0].numel() ** -0.5
            assert 0.9 * bound < weight.abs().max() <= bound
            assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("net", PUBLISHED)
def test_dropout_works_in_training_only_and_adds_no_parameter(net, images):
    plain, dropping = build_model(net), build_model(net, dropout=0.5)
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(dropping.eval()(images), plain(images))
    dropping.train()
    assert not torch.equal(dropping(images), plain(images))
    assert not torch.equal(dropping(images), dropping(images))


def test_an_unknown_net_is_a_key_error_for_the_library_and_one_line_for_the_command():
    with pytest.raises(UsageError, match="--model transformer is unknown; choose from all, mlp, cnn"):
        build_model("transformer")
    assert resolve({}).models == list(MODELS) == list(MODEL_NAMES) and resolve({"model": "cnn"}).models == ["cnn"]


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        ("mlp", (3 * 20 * 33 + 1) * 128 + 129 * 64 + 65 * 7),
        ("cnn", 28 * 32 + 289 * 64 + 2561 * 128 + 129 * 64 + 65 * 7),
    ],
)
def test_a_model_is_built_for_the_images_and_classes_of_its_data(net, parameters):
    model = build_model(net, num_classes=7, in_chans=3, image_size=(20, 33), seed=2)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, 3, 20, 33)).shape == (2, 7)


def test_images_that_two_poolings_leave_nothing_of_are_refused():
    with pytest.raises(UsageError, match="3 x 28 are too small"):
        build_model("cnn", image_size=(3, 28))


def test_a_model_is_given_the_arguments_that_its_signature_names(monkeypatch):
    given = []

    def mine(in_chans, image_size, width=3):
        given.append((in_chans, image_size, width))
        return torch.nn.Flatten()

    monkeypatch.setitem(MODELS, "mine", mine)
    build_model("mine", in_chans=3, image_size=(32, 32), dropout=0.5)
    build_model("mine", image_size=(32, 16))
    assert given == [(3, 32, 3), (1, (32, 16), 3)]
