"""The benchmarks compute what they say: the work of a step, the ratios, the model; and all peers do the same work."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import few_digits

from benchmarks import speed_table, step
from benchmarks.limits import training_flops
from benchmarks.linkmodel import Link, Point, errors, fit
from benchmarks.peers.case import Case, remainder
from benchmarks.peers.layout import from_channels_last, to_channels_last
from benchmarks.setting import fill, markdown
from distmnist.distributed.world import World
from distmnist.models.build import build_model

PEERS = {"published": "torchvision", "resident": "torch", "lightning": "lightning", "accelerate": "accelerate"}
PEERS |= {"keras": "keras", "jax": "optax"}
ROOT = Path(__file__).parents[2]


MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("benchmarks/**/*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_imports_what_is_there(module):
    """Of this project: what it measures beside it may not be installed."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        assert not error.name.startswith(("distmnist", "benchmarks", "export"))


def test_the_flops_of_a_training_image_are_two_for_each_multiplication_of_the_three_products_of_a_layer():
    """Forward, gradient of the weights, gradient of the input; the image itself has no gradient."""
    linear = {"mlp": [(784, 128), (128, 64), (64, 10)], "cnn": [(3136, 128), (128, 64), (64, 10)]}
    products = {net: [rows * columns for rows, columns in layers] for net, layers in linear.items()}
    products["cnn"] = [28 * 28 * 9 * 1 * 32, 14 * 14 * 9 * 32 * 64, *products["cnn"]]
    for net, layers in products.items():
        assert training_flops(net) == 2 * (3 * sum(layers) - layers[0])


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_weights_survive_the_way_to_channels_last_and_back(net):
    state = build_model(net).state_dict()
    back = from_channels_last(to_channels_last(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_layer_that_reads_features_with_channels_last_gives_the_same_answer():
    net = build_model("cnn")
    features = torch.randn(3, 64, 7, 7)
    kernel, bias = to_channels_last(net.state_dict())["fc1"]
    answer = features.permute(0, 2, 3, 1).flatten(1).numpy() @ kernel + bias
    np.testing.assert_allclose(answer, net.fc1(features.flatten(1)).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_one_step_of_a_peer_on_a_batch_changes_the_weights_as_ours_does(monkeypatch, peer, net):
    """One batch holds all digits, so the order does not matter. An update of Adam's first step is about lr for each
    weight: where a gradient is nearly 0 its sign may differ, so it is the mean that is compared."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip(PEERS[peer])
    digits = few_digits(train=32).train
    case = Case(net=net, batch=32, threads=1)
    before = case.build().state_dict()
    trained = {
        name: importlib.import_module(f"benchmarks.peers.{name}").prepare(case, digits, World())()
        for name in ("ours", peer)
    }
    torch.set_flush_denormal(False)
    for name, tensor in trained["ours"].items():
        moved = (tensor - before[name]).abs().mean()
        assert moved > 1e-5
        assert (trained[peer][name] - tensor).abs().mean() < 0.05 * moved


def run_of(speeds, native_bf16=False, rounds=3):
    """A speed.json: (contestant, net, batch, amp) -> images a second, `number` times as many in round `number`."""
    training = [
        {"contestant": name, "net": net, "batch": batch, "amp": amp, "seconds": 6400 / (speed * number)}
        | {"images_per_second": speed * number, "test_accuracy": 0.9, "digits": 6400, "round": number}
        | {"dataset": "mnist", "test_digits": 10_000}
        for number in range(1, rounds + 1)
        for (name, net, batch, amp), speed in speeds.items()
    ]
    setting = {"command": "c", "date": "d", "commit": "e", "processor": "p", "cores": 2, "load": 0.0}
    return {
        "setting": setting | {"native_bf16": native_bf16, "versions": {"torch": "1"}},
        "absent": ["lightning"],
        "flops": {"mlp": 1_000_000, "cnn": 10_000_000},
        "limits": [{"off": 1e11, "bf16": 2e11}, {"off": 0.9e11, "bf16": 1.9e11}, {"off": 0.8e11, "bf16": 1e11}],
        "loader": [{"net": "cnn", "batch": 64, "amp": "off", "seconds": 0.01}],
        "training": training,
    }


SPEEDS = {
    ("ours", "cnn", 64, "off"): 300.0,
    ("ours", "cnn", 64, "bf16"): 450.0,
    ("ours", "cnn", 512, "bf16"): 5000.0,
    ("published", "cnn", 64, "off"): 100.0,
    ("resident", "cnn", 64, "off"): 120.0,
    ("off", "cnn", 64, "off"): 130.0,
    ("tuned", "cnn", 64, "off"): 125.0,
    ("jax", "cnn", 64, "bf16"): 150.0,
    (speed_table.ONE, "cnn", 64, "off"): 200.0,
    (speed_table.TWO, "cnn", 64, "off"): 340.0,
}


@pytest.mark.parametrize(
    ("native", "published", "best"), [(False, "3.00", "2.00"), (True, "4.50", "3.00")], ids=["emulated", "native"]
)
def test_the_ratios_are_of_what_amp_auto_takes_and_of_the_fastest_other_in_any_precision(native, published, best):
    rows = {row[0]: row[3] for row in speed_table.aims(speed_table.Measured(run_of(SPEEDS, native)))}
    assert rows["cnn, batch 64, against the published loop"] == published
    assert rows["cnn, batch 64, against the best other peer"] == best
    assert rows["cnn, batch 64, bf16 / fp32"] == "1.50"
    assert rows["cnn, batch 64, 2 processes / 1, one thread each"] == ("not measured" if native else "1.70")
    assert rows["cnn, best batch, share of the bf16 GEMM peak"] == "50.0%"  # 10,000 a second, 1e7 of 2e11 FLOP/s
    assert rows["mlp, batch 64, against JAX `lax.scan`"] == "not measured"
    rate = rows["cnn, batch 64, `--fast off` against eager under the same settings"]
    assert rate == ("not measured" if native else "1.04")
    if not native:
        assert rows["shuffle and loader, share of a cnn step of 64"] == "0.09%"  # 0.01 s of 6,400 / 600


def test_a_peer_that_is_not_installed_is_a_row_that_says_so():
    text = speed_table.report(run_of(SPEEDS))
    rows = [line for line in text.splitlines() if line.startswith("| Lightning")]
    assert len(rows) == 2 and all("not installed" in row for row in rows)  # one a net
    assert "emulates bf16" in text and "emulates bf16" not in speed_table.report(run_of(SPEEDS, native_bf16=True))


def test_the_fit_finds_the_link_that_made_the_points_and_tells_by_how_much_others_miss_it():
    link = Link(alpha=20e-6, bandwidth=2e9)
    points = [Point(n, size, link.ring(n, size)) for n in (2, 3, 4) for size in (1 << 10, 1 << 16, 1 << 22)]
    found = fit(points)
    assert found.alpha == pytest.approx(link.alpha) and found.bandwidth == pytest.approx(link.bandwidth)
    slow = [Point(p.processes, p.size, 2 * p.seconds) for p in points]
    assert errors(link, slow) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(("count", "expected"), [(60_000, 672), (12_800, 640), (100, 100), (650, 650)])
def test_the_warm_up_ends_in_the_same_short_batch_as_the_epoch(count, expected):
    assert remainder(Case("mlp", 64), count, 10) == expected


def test_a_page_keeps_all_but_what_stands_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    fill(page, "a", markdown(["x"], [["1"]]))
    assert page.read_text() == "before\n<!-- a -->\n| x |\n| --- |\n| 1 |\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="no <!-- b -->"):
        fill(page, "b", "")


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_a_step_without_one_of_its_fast_parts_computes_the_same_within_rounding(net):
    digits = few_digits()
    weights = {}
    for name, variant in step.variants(net, 1).items():
        if variant.replaced or name == step.OURS:
            trainer = step.prepare(variant, net, World(), digits, None)
            with variant.applied():
                trainer.run_epoch()
            weights[name] = torch.cat([tensor.flatten() for tensor in trainer.model.state_dict().values()])
    for name, each in weights.items():
        torch.testing.assert_close(each, weights[step.OURS], rtol=1e-3, atol=1e-4, msg=name)
        assert torch.equal(each, weights[step.OURS]) or name.startswith(("channels last", "plain"))


def test_steps_are_measured_once_a_round_and_nothing_stays_replaced():
    before = step.forward.select_forward, step.gradients.differentiate
    times = step.measure(World(), "mlp", 2, few_digits())
    assert step.OURS in times and "gloo, not shared memory" not in times
    assert all(len(each) == 2 and min(each) > 0 for each in times.values())
    assert (step.forward.select_forward, step.gradients.differentiate) == before
    assert not torch.are_deterministic_algorithms_enabled()
