"""The report on images of one's own: named classes, colour, any size and number, and nothing of MNIST's."""

import base64
import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from html_page import Page
from made_up import change
from own_images import own_images, own_run
from PIL import Image

from distmnist.data.dataset import ClassCounts, Dataset, Duplicates
from distmnist.errors import UsageError
from distmnist.report import answers, reading
from distmnist.report import page as pages
from distmnist.report.__main__ import main
from distmnist.report.pictures import BYTES, SIDE, picture

for needed in ("matplotlib", "scipy"):
    pytest.importorskip(needed, reason="needs the extra report")

HOSTILE = ("</script><b>'\"&amp;", "قطة", "猫と犬", "a name " * 60 + "end")
"""Names that would leave their place in the page, are written otherwise, or are far too long."""


def reported(run: Path, dataset: Dataset) -> Path:
    """The folder of the report on the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "find_dataset", lambda material, data, data_dir: dataset)
        assert main([str(run)]) == 0
    return run / "report"


def mislabelled(dataset: Dataset) -> Dataset:
    """With the labels of every third test image changed, so that any good model makes mistakes."""
    labels = dataset.test.labels.clone()
    labels[::3] = (labels[::3] + 1) % len(dataset.class_names)
    return dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, labels=labels))


def shown_as(dataset: Dataset, predictions: np.ndarray) -> answers.Shown:
    """A model that was never trained, with these predictions."""
    labels = dataset.test.labels.numpy()
    net = SimpleNamespace(name="mlp", dataset=dataset.describe(), predictions=predictions, labels=labels)
    net = reading.Net(**vars(net), run=Path(), seed=0, options={}, result=None, history=[], losses=np.ones(len(labels)))
    return answers.Shown(net, None, np.full(len(labels), 0.5), 0)


@pytest.fixture(scope="module")
def garden() -> Dataset:
    """Colour images that are no square, three classes of different sizes."""
    return mislabelled(own_images(["rose", "tulip", "a lily of the valley"], (3, 40, 56), tests=(10, 30, 20)))


@pytest.fixture(scope="module")
def run(garden: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_run(tmp_path_factory.mktemp("own") / "run", garden)


@pytest.fixture(scope="module")
def text(run: Path, garden: Dataset) -> str:
    return (reported(run, garden) / "index.html").read_text()


def test_the_page_tells_the_classes_and_the_data_set_by_name_and_nothing_of_mnist(text: str):
    words = Page(text).words()
    assert "On 60 test images of garden: mlp" in words and "name garden" in words
    assert "40 x 56 pixels (height x width), 3 channels (colour)" in words
    assert "3: rose , tulip , a lily of the valley" in words and "0.3000, 0.3000, 0.3000" in words
    assert "a lily of the valley predicted as tulip" in words
    assert not re.search(r"digit|MNIST|[Pp]ublished|\bnets?\b", words)
    assert "<script" not in text and 'class="images ink"' not in text and 'id="draw"' not in text


def test_the_balanced_accuracy_and_macro_f1_stand_on_the_page_of_an_uneven_test_set(run: Path, text: str):
    words = Page(text).words()
    for net in reading.read_run(run).nets.values():
        recalls, f1s = [], []
        for label in range(3):
            right = sum(net.predictions[net.labels == label] == label)
            of_it, said = sum(net.labels == label), sum(net.predictions == label)
            recalls.append(100 * right / of_it)
            f1s.append(100 * 2 * right / (of_it + said))
        assert f"none from one seed {np.mean(recalls):.2f} %" in words
        assert f"{net.name}: balanced accuracy {np.mean(recalls):.2f} %, macro F1 {np.mean(f1s):.2f} %" in words
    assert "seeds accuracy s.d. 95 % interval balanced accuracy test loss" in words


def test_a_small_image_is_shown_pixel_for_pixel_in_its_colours_and_proportions(text: str, garden: Dataset):
    shown = [attributes for tag, attributes in Page(text).tags if tag == "img"]
    assert shown and {(one["width"], one["height"]) for one in shown} == {("84", "60")}
    for one in shown:
        index = int(one["alt"].removeprefix("Test image "))
        head, _, content = one["src"].partition(",")
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert head == "data:image/png;base64"
        assert (pixels == garden.test.images[index].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 300, 40), (3, 96, 96), (3, 5, 2000)])
def test_a_large_image_takes_no_more_bytes_than_the_bound_whatever_it_shows(shape: tuple[int, int, int]):
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, shape, dtype=np.uint8)
    for pixels in (noise, noise // 128 * 255, np.full(shape, 200, np.uint8)):
        made = picture(pixels)
        content = base64.b64decode(made.url.partition(",")[2])
        image = Image.open(io.BytesIO(content))
        assert len(content) <= BYTES and max(image.size) <= SIDE and image.mode == ("L" if shape[0] == 1 else "RGB")
        assert max(made.width, made.height) == 84 and made.height == max(1, round(84 * shape[1] / max(shape)))
        assert not made.enlarged


def test_images_like_mnists_of_another_name_are_no_digits(tmp_path: Path):
    clothes = own_images([f"garment {n}" for n in range(10)], (1, 28, 28), name="fashion-mnist")
    text = (reported(own_run(tmp_path / "run", clothes), clothes) / "index.html").read_text()
    words = Page(text).words()
    assert "On 40 test images of fashion-mnist" in words and "garment 3" in words
    assert "<script" not in text and " ink" not in text and not re.search(r"digit|[Pp]ublished|97\.42|98\.88", words)
    assert "balanced accuracy" in words and "balanced accuracy test loss" not in words  # all classes have four


def test_names_of_any_writing_and_length_stay_in_their_place(tmp_path: Path):
    dataset = mislabelled(own_images(HOSTILE, (1, 16, 16), name='<i>"my" set</i>'))
    folder = reported(own_run(tmp_path / "run", dataset), dataset)
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert "<b>'" not in text and "<i>" not in text and "<script" not in text
    assert 'On 16 test images of <i>"my" set</i>' in page.words()
    for name in HOSTILE[:3]:
        assert name in page.words()
    titles = {attributes["title"] for tag, attributes in page.tags if tag == "bdi" and "title" in attributes}
    assert {title[:200] for title in titles} == {HOSTILE[3][:200], HOSTILE[0]}  # the second one in the matrix's head
    assert len(text) < 500_000 and max(map(len, titles)) <= 300


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, reading.Net]:
    dataset = own_images([f"species {number}" for number in range(100)], (3, 12, 12), tests=(4, 5, 3))
    run = own_run(tmp_path_factory.mktemp("hundred") / "run", dataset, ["mlp"])
    return (reported(run, dataset) / "index.html").read_text(), reading.read_run(run).nets["mlp"]


def test_a_hundred_classes_are_told_by_the_most_confused_pairs_and_no_matrix(hundred):
    text, net = hundred
    assert 'class="matrix"' not in text and "and 80 more" in Page(text).words() and len(text) < 500_000
    table = text.partition('<table class="pairs">')[2].partition("</table>")[0]
    rows = re.findall(r"<bdi>species (\d+)</bdi>.*?<bdi>species (\d+)</bdi></td><td>(\d+)</td><td>([\d.]+)", table)
    counts = [int(count) for _, _, count, _ in rows]
    assert len(rows) == pages.PAIRS and counts == sorted(counts, reverse=True)
    wrong = net.predictions != net.labels
    pairs = list(zip(net.labels[wrong].tolist(), net.predictions[wrong].tolist(), strict=True))
    assert counts[0] == max(map(pairs.count, pairs))
    for label, prediction, count, share in rows:
        assert pairs.count((int(label), int(prediction))) == int(count)
        assert float(share) == pytest.approx(100 * int(count) / sum(net.labels == int(label)), abs=0.05)


def test_the_figures_of_each_class_are_folded_away_the_worst_first(hundred):
    text, net = hundred
    (folded,) = re.findall(r"<details><summary>The figures of each class</summary>.*?</details>", text, re.DOTALL)
    rows = re.findall(r"species (\d+)</bdi></th><td>(\d+)</td><td>([\d.]+).*?<td>([\d.]+).*?<td>([\d.]+)", folded)
    assert sorted(int(index) for index, *_ in rows) == list(range(100))
    f1s = [float(f1) for *_, f1 in rows]
    assert f1s == sorted(f1s) and f1s[0] < f1s[-1]
    for index, images, _, recall, _ in rows:
        of_it = net.labels == int(index)
        assert int(images) == sum(of_it)
        assert float(recall) == pytest.approx(100 * np.mean(net.predictions[of_it] == int(index)), abs=0.005)


def test_a_class_without_test_images_comes_last_and_counts_in_no_mean():
    dataset = own_images(["a", "b", "c"], (1, 8, 8), tests=(0, 2, 2))
    shown = shown_as(dataset, np.array([1, 0, 2, 2]))
    assert [(one.index, one.images) for one in shown.classes()] == [(1, 2), (2, 2), (0, 0)]
    assert shown.macro_f1() == pytest.approx((2 / 3 + 1) / 2)
    assert shown.confused(5) == [answers.Confused(1, 0, 1, 0.5)]


def test_what_else_is_known_of_the_data_set_is_told_in_a_line_each():
    plain = own_images(["a", "b"], (3, 8, 8)).describe()
    told = dict(pages.described(plain))
    assert (
        told.keys() & {"preparation", "decoder", "validation images", "duplicates", "skipped files", "digest"} == set()
    )
    more = dataclasses.replace(
        plain,
        preparation={"height": 8, "resize_mode": "squash"},
        digest="5e" * 32,
        duplicates=Duplicates(1, 2_000, (("a/1.png", "b/2.png"),)),
        class_counts=ClassCounts(tuple(range(7, 60)), (), (1, 2000)),
        skipped=3,
    )
    told = dict(pages.described(more))
    assert told["preparation"] == "height 8, resize_mode squash" and told["digest"] == "5e" * 32
    assert told["duplicates"].startswith("1 images for testing") and told["duplicates"].endswith(
        "2,000 have two labels: a/1.png = b/2.png"
    )
    assert told["images per class"].startswith("train 7 to 59") and told["skipped files"] == "3"
    assert "validation images" not in told


def test_a_class_that_is_none_is_damage(run: Path, tmp_path: Path):
    result = reading.read_run(run).nets["mlp"].result
    with np.load(run / "mlp/predictions.npz") as arrays:
        found = dict(arrays)
    (tmp_path / "mlp").mkdir()
    for kind, wrong in ((np.int32, -1), (np.int32, 3), (np.float32, 0)):
        predictions = found["predictions"].astype(kind)
        predictions[0] = wrong
        np.savez(tmp_path / "mlp/predictions.npz", **{**found, "predictions": predictions})
        with pytest.raises(UsageError, match="a class that is not from 0 to 2"):
            reading.read_predictions(tmp_path, "mlp", result, 3)


def test_runs_and_checkpoints_on_data_sets_of_one_name_and_size_are_not_mixed(
    run: Path, garden: Dataset, tmp_path: Path
):
    other = own_run(tmp_path / "run", dataclasses.replace(garden, class_names=("rose", "tulip", "weed")), ["mlp"])
    with pytest.raises(UsageError, match=r"different data sets do not compare: .* has another class_names"):
        reading.read([run, other])
    change(other / "summary.json", lambda s: s["dataset"].update(class_names=list(garden.class_names)))
    with pytest.raises(UsageError, match=r"mlp was trained on another data set than summary\.json tells"):
        answers.show(reading.read_run(other).nets["mlp"], garden.test)


def test_more_classes_than_a_byte_holds_are_told(tmp_path: Path):
    dataset = own_images([str(number) for number in range(300)], (1, 8, 8), tests=(1,))
    run = own_run(tmp_path / "run", dataset, ["mlp"])
    assert reading.read_run(run).nets["mlp"].predictions.dtype == np.int32
    text = (reported(run, dataset) / "index.html").read_text()
    assert "classes 300: 0 , 1 ," in Page(text).words() and len(text) < 500_000
    assert torch.equal(dataset.test.labels, torch.arange(300))
