"""The plots: what they show, that their bytes are the same each time, and that they fit into a page."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from distmnist import plots
from distmnist.checkpoint.record import Epoch

pytest.importorskip("matplotlib", reason="needs the extra report")

HISTORY = [
    Epoch(epoch=1, step=5, train_loss=0.5, test_loss=0.2, test_accuracy=0.95, lr=0.001, images_per_second=1.0),
    Epoch(epoch=2, step=10, train_loss=0.1, test_loss=0.1, test_accuracy=0.97, lr=0.001, images_per_second=1.0),
]
LATER = [replace(epoch, test_accuracy=epoch.test_accuracy + 0.02) for epoch in HISTORY]


def test_a_curve_is_the_mean_of_its_repeats_over_the_epochs_that_all_have():
    with plots.style():
        axes = plots.accuracy({"mlp": [HISTORY, LATER[:1]]}).axes[0]
    (mean,) = (line for line in axes.lines if line.get_label() == "mlp")
    np.testing.assert_allclose(mean.get_ydata(), [96.0])
    assert len(axes.lines) == 3  # the mean, and each repeat


def test_no_interval_is_drawn_where_there_is_none():
    row = {"label": "mlp", "values": [0.97], "interval": None, "published": None}
    with plots.style():
        one = plots.comparison([row]).axes[0]
        three = plots.comparison([{**row, "values": [0.96, 0.97, 0.98], "interval": (0.95, 0.99)}]).axes[0]
    assert [line.get_xdata().tolist() for line in one.lines] == [[97.0]]
    assert [95.0, 99.0] in [line.get_xdata().tolist() for line in three.lines]


def test_the_same_run_gives_the_same_bytes():
    matrix = np.diag([5] * 10)
    first, second = (plots.of_run({"mlp": HISTORY}, {"mlp": matrix}) for _ in range(2))
    assert first == second and set(first) == {"loss.svg", "accuracy.svg", "confusion-mlp.svg"}


def test_an_svg_in_a_page_has_the_pages_colours_and_ids_of_its_own_whatever_the_labels_are():
    with plots.style():
        file = plots.written(plots.accuracy({"<b>&$x": [HISTORY]}), "svg")
    inlined = [plots.inline(file, name, 'a "label" & <more>') for name in ("one", "two")]
    for text in inlined:
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == 'a "label" & <more>' and root.get("width") is None
        assert "<b>&$x" in "".join(root.itertext())
        named = [element.get("id") for element in root.iter() if element.get("id")]
        asked = re.findall(r'(?:url\(|href=")#([^)"]+)', text)
        assert len(named) == len(set(named)) and asked and set(asked) <= set(named)
        assert "var(--a)" in text and "<style" not in text
        left = {colour for colour in re.findall(r"#[0-9a-f]{6}\b", text)}
        assert left <= {"#ffffff", "#000000"}, left
    assert not set(re.findall(r'id="([^"]+)"', inlined[0])) & set(re.findall(r'id="([^"]+)"', inlined[1]))
