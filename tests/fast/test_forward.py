"""What stands for a model's forward computes what the model itself does; where which is used."""

import pytest
import torch
from digits import random_digits
from torch.nn import functional

from distmnist.fast.forward import FunctionalMLP, OneDNNCNN, select_forward
from distmnist.models.build import build_model
from distmnist.models.mlp import FullyConnectedNN
from distmnist.training.precision import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

needs_onednn = pytest.mark.skipif(
    not isinstance(select_forward(build_model("cnn"), CPU, "off"), OneDNNCNN), reason="needs an x86 CPU with oneDNN"
)


def gradients(net, model, images, labels):
    loss = functional.cross_entropy(net(images), labels, reduction="sum")
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


@needs_onednn
@pytest.mark.parametrize("count", [0, 1, 7, 64])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_onednn_answers_and_gradients_are_the_nets_own_within_rounding(count, dropout):
    model = build_model("cnn", dropout=dropout, seed=5)
    net = select_forward(build_model("cnn", dropout=dropout, seed=5), CPU, "off")
    images, labels = random_digits(64, seed=count).batch(torch.arange(count))
    torch.manual_seed(1)
    loss, expected = gradients(model, model, images, labels)
    torch.manual_seed(1)
    found_loss, found = gradients(net, net.cnn, images, labels)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for mine, reference in zip(found, expected, strict=True):
        assert float((mine - reference).norm()) <= 1e-5 * float(reference.norm())


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_functional_answers_and_gradients_are_the_nets_own_to_the_bit(activation, amp):
    model = build_model("mlp", activation=activation)
    net = select_forward(model, CPU, amp)
    assert isinstance(net, FunctionalMLP)
    assert [id(parameter) for parameter in net.parameters()] == [id(parameter) for parameter in model.parameters()]
    batch = random_digits(7).batch(torch.arange(7))
    with Precision(amp, CPU).autocast():
        (loss, expected), (found_loss, found) = (gradients(each, model, *batch) for each in (model, net))
    assert found_loss == loss and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_nothing_stands_for_a_model_with_dropout_or_of_a_users_own():
    class Mine(FullyConnectedNN):
        pass

    for model in (build_model("mlp", dropout=0.1), Mine()):
        assert select_forward(model, CPU, "off") is None


@needs_onednn
def test_onednn_has_the_nets_parameters_laid_out_as_their_gradients_come():
    model = build_model("cnn")
    net = select_forward(model, CPU, "off")
    assert [id(parameter) for parameter in net.parameters()] == [id(parameter) for parameter in model.parameters()]
    _, found = gradients(net, model, *random_digits(8).batch(torch.arange(8)))
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        assert parameter.stride() == gradient.stride()  # else DDP copies, and says so


@pytest.mark.parametrize(
    ("device", "amp", "activation", "capability", "onednn", "onednn_runs"),
    [
        (CPU, "off", "relu", "AVX512", True, True),
        (CPU, "off", "relu", "AVX2", True, True),
        (CUDA, "off", "relu", "AVX512", True, False),
        (CPU, "bf16", "relu", "AVX512", True, False),
        (CPU, "off", "tanh", "AVX512", True, False),
        (CPU, "off", "relu", "SVE256", True, False),
        (CPU, "off", "relu", "DEFAULT", True, False),
        (CPU, "off", "relu", "AVX512", False, False),
    ],
)
def test_where_the_cnn_runs_on_onednns_tensors(monkeypatch, device, amp, activation, capability, onednn, onednn_runs):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    model = build_model("cnn", activation=activation)
    net = select_forward(model, device, amp)
    assert model.conv2.weight.is_contiguous()
    assert (isinstance(net, OneDNNCNN) and net.cnn is model) if onednn_runs else net is None
