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
    first, second = (plots.of_run({"mlp": HISTORY}, {"mlp": matrix}, list("0123456789")) for _ in range(2))
    assert first == second and set(first) == {"loss.svg", "accuracy.svg", "confusion-mlp.svg"}


def confused(class_names, matrix=None):
    """The axes of the confusion matrix, and its files: SVG and PNG."""
    matrix = np.eye(len(class_names), dtype=int) if matrix is None else matrix
    with plots.style():
        figure = plots.confusion(matrix, "cnn", class_names)
        return figure.axes[0], plots.written(figure, "svg"), plots.written(figure, "png")


def test_a_confusion_matrix_has_every_name_and_number_as_far_as_they_can_be_read():
    names = [f"class {number}" for number in range(plots.COUNTED)]
    axes, _, _ = confused(names, np.full((plots.COUNTED, plots.COUNTED), 7))
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [text.get_text() for text in axes.texts] == ["7"] * plots.COUNTED**2 and not axes.images
    axes, svg, _ = confused([f"class {number}" for number in range(100)], np.full((100, 100), 7))
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"class {number}" for number in range(0, 100, 5)]
    assert not axes.texts and axes.images[0].get_array().shape == (100, 100, 4)
    assert len(svg) < 50_000


def test_the_more_mistakes_the_stronger_and_what_is_right_has_another_colour():
    matrix = np.zeros((30, 30), int)
    matrix[0, 1], matrix[2, 3], matrix[4, 4] = 9, 1, 50
    image = confused([str(number) for number in range(30)], matrix)[0].images[0].get_array()
    assert image[0, 1, 3] > image[2, 3, 3] > 0 == image[1, 0, 3] and image[4, 4, 3] > 0
    assert (image[0, 1, :3] == image[2, 3, :3]).all() and (image[0, 1, :3] != image[4, 4, :3]).any()


def test_long_names_are_cut_to_different_ones_and_the_svg_tells_the_whole():
    names = [
        "cat",
        "a very long name, <one> & \"'",
        "a very long name, two",
        'quotes " alone',
        "猫\x07と\ud800犬",
        "#b5502b",
    ]
    short = plots.shortened(names)
    assert short == ["cat", "a very long na…1", "a very long na…2", 'quotes " alone', "猫�と�犬", "#b5502b"]
    _, file, png = confused(names)  # a character that the font lacks is no warning
    assert confused(names)[1:] == (file, png)
    for text in (file.decode(), plots.inline(file, "plot", "told")):
        root = ElementTree.fromstring(text)
        titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        assert sorted(titles) == sorted(names[1:3] * 2)
        assert all("".join(root.itertext()).count(name) == 2 for name in short)


def test_an_axis_of_accuracies_ends_at_100():
    perfect = [replace(epoch, test_accuracy=1.0) for epoch in HISTORY]
    row = {"label": "mlp", "values": [1.0], "interval": None, "published": None}
    with plots.style():
        assert plots.accuracy({"mlp": [perfect]}).axes[0].get_ylim()[1] == plots.FULL
        assert plots.comparison([row]).axes[0].get_xlim()[1] == plots.FULL


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
