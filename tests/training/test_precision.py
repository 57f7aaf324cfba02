"""Mixed precision: what is chosen and why, and what the gradient scaler does when a gradient overflows."""

import math

import pytest
import torch
from hooks import Keep
from torch import nn
from torch.nn import functional

from distmnist import machine
from distmnist.config import TrainConfig
from distmnist.models.build import build_model
from distmnist.training import precision
from distmnist.training.loss import loss_sums
from distmnist.training.optimizer import learning_rate
from distmnist.training.parts import fast_is_there
from distmnist.training.precision import Precision, choose_amp
from distmnist.training.trainer import fit

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("requested", "device", "native", "chosen", "reason"),
    [
        ("auto", CPU, True, "bf16", "this CPU"),
        ("auto", CPU, False, "off", "this CPU has no native bf16"),
        ("auto", CUDA, True, "bf16", "this GPU"),
        ("auto", CUDA, False, "fp16", "no native bf16"),
        *((kind, device, False, kind, "asked") for kind in ("off", "bf16", "fp16") for device in (CPU, CUDA)),
    ],
)
def test_what_amp_is_chosen_and_why(monkeypatch, requested, device, native, chosen, reason):
    other = not native
    monkeypatch.setattr(precision, "has_native_bf16", lambda: native if device == CPU else other)
    emulated = {True: True, False: native}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: emulated[including_emulation])
    amp, why = choose_amp(requested, device)
    assert amp == chosen and reason in why


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_only_bf16_arithmetic_counts_as_native(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, **capabilities}, raising=False)
    assert machine.has_native_bf16() is native
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # before torch 2.6 or so
    assert machine.has_native_bf16() is False


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_net_computes_in_the_chosen_type_and_the_loss_in_float32(digits, amp, dtype):
    model = build_model("mlp")
    seen = []
    model.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    with Precision(amp, CPU).autocast():
        images, labels = digits.train.batch(torch.arange(8))
        loss_sum, _ = loss_sums(model(images), labels)
    assert seen == [dtype] and loss_sum.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())


def sgds():
    """Plain SGD of torch, and fast/'s, each with the rate 1."""
    yield lambda weights: torch.optim.SGD([weights], lr=1.0, fused=True)
    if fast_is_there():
        from distmnist.fast.optimizer import FusedSGD

        yield lambda weights: FusedSGD([weights], lr=1.0)


def one_step(sgd, amp, gradient, grad_clip=0.0):
    """An SGD update with rate 1 from weights 0. Returns the weights, whether they were updated, the Precision."""
    weights = nn.Parameter(torch.zeros(2))
    engine = Precision(amp, CPU, grad_clip)
    optimizer = sgd(weights)
    engine.scale((weights * torch.tensor(gradient)).sum()).backward()
    return weights.detach(), engine.step(optimizer, [weights]), engine


@pytest.mark.parametrize("sgd", list(sgds()))
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_clipping_limits_the_norm_of_the_unscaled_gradient_and_leaves_a_smaller_one_alone(amp, sgd):
    assert one_step(sgd, amp, [30.0, -40.0], grad_clip=5.0)[0].tolist() == pytest.approx([-3.0, 4.0], rel=1e-5)
    assert one_step(sgd, amp, [0.3, -0.4], grad_clip=5.0)[0].tolist() == pytest.approx([-0.3, 0.4])
    assert one_step(sgd, amp, [30.0, -40.0])[0].tolist() == pytest.approx([-30.0, 40.0])


@pytest.mark.parametrize("sgd", list(sgds()))
@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_an_infinite_gradient_skips_the_update_and_halves_the_scale_and_a_finite_one_does_neither(grad_clip, sgd):
    weights, updated, engine = one_step(sgd, "fp16", [math.inf, 1.0], grad_clip)
    assert weights.tolist() == [0, 0] and updated is False
    assert engine.scaler.get_scale() == 2**15
    weights, updated, engine = one_step(sgd, "fp16", [0.5, 0.5], grad_clip)
    assert weights.tolist() == [-0.5, -0.5] and updated is True
    assert engine.scaler.get_scale() == 2**16
    other = Precision("fp16", CPU)
    other.load_state_dict(one_step(sgd, "fp16", [math.inf, 1.0])[2].state_dict())
    assert other.scaler.get_scale() == 2**15


@pytest.mark.parametrize("fast", ["auto", "off"])
def test_a_skipped_step_consumes_its_batch_but_advances_neither_the_schedule_nor_the_weights(fast, monkeypatch, digits):
    """fp16 on the CPU; the gradient of the third of four steps is made infinite."""
    calls, saved = [], []
    scale = Precision.scale
    monkeypatch.setattr(Precision, "scale", lambda self, loss: scale(self, loss) * overflow())

    def overflow():
        calls.append(1)
        return math.inf if len(calls) == 3 else 1.0

    config = TrainConfig(model="mlp", amp="fp16", schedule="cosine", epochs=1, batch_size=75, fast=fast)
    result = fit(config, digits, callbacks=[Keep(saved.append)])
    last = saved[-1]
    assert (last.progress.global_step, last.progress.optimizer_steps) == (4, 3)
    assert last.scaler["scale"] == 2**15
    assert result.history[-1].lr == learning_rate(config, 2, 4)
    assert all(tensor.isfinite().all() for tensor in result.state.values())
    assert {int(state["step"]) for state in last.optimizer["state"].values()} == {3}


def gradient(amp, digits):
    model = build_model("cnn", seed=3)
    engine = Precision(amp, CPU)
    with engine.autocast():
        images, labels = digits.train.batch(torch.arange(64))
        loss_sum, _ = loss_sums(model(images), labels)
    engine.scale(loss_sum / 64).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]) / engine.scaler.get_scale()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_gradients_in_half_precision_are_those_of_float32_within_its_rounding(digits, amp):
    exact, rounded = gradient("off", digits), gradient(amp, digits)
    error = float((rounded - exact).norm() / exact.norm())
    assert 0 < error < {"bf16": 0.1, "fp16": 0.01}[amp]


def test_the_oracle_of_these_tests_is_the_mean_cross_entropy(digits):
    model = build_model("cnn", seed=3)
    images, labels = digits.train.batch(torch.arange(64))
    functional.cross_entropy(model(images), labels).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(gradient("off", digits), expected, rtol=1e-4, atol=1e-7)
