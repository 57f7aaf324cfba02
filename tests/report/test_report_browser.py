"""The page in a real browser, drawn on with its mouse and by its keys; DISTMNIST_TEST_CHROMIUM=1 asks for it."""

import json
import math
import os
from pathlib import Path

import browser
import pytest
from browser import Browser
from own_images import own_images, own_run

pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("scipy", reason="needs the extra report")

from distmnist.report import reading
from distmnist.report.__main__ import main

pytest_plugins = ["report_fixtures"]
pytestmark = [
    pytest.mark.skipif("DISTMNIST_TEST_CHROMIUM" not in os.environ, reason="DISTMNIST_TEST_CHROMIUM=1 asks for it"),
    pytest.mark.skipif(browser.find() is None, reason="there is no Chromium"),
]

AREA = """(() => {
  const canvas = document.getElementById("canvas");
  canvas.scrollIntoView({behavior: "instant", block: "center"});
  const box = canvas.getBoundingClientRect();
  return [box.left, box.top, box.width];
})()"""


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    assert main([str(finished), "--output", str(folder)]) == 0
    return folder / "index.html"


def answers(view: Browser) -> str:
    """What is said once both nets have answered."""
    return view.until("(t => t.includes('says') && t)(document.getElementById('verdict').textContent)")


def clear(view: Browser) -> None:
    view.evaluate("document.getElementById('clear').click()")
    view.until("document.getElementById('verdict').textContent.startsWith('Nothing drawn')")


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (390, True)])
def test_what_is_drawn_is_read_by_both_nets_and_nothing_leaves_the_page(page: Path, width: int, dark: bool):
    with Browser(width, 844) as view:
        view.dark(dark)
        view.open(page)
        left, top, side = view.evaluate(AREA)
        turns = [2 * math.pi * step / 40 for step in range(41)]
        ring = [(left + side * (0.5 + 0.22 * math.sin(t)), top + side * (0.5 - 0.36 * math.cos(t))) for t in turns]
        line = [(left + side * 0.5, top + side * (0.15 + 0.7 * step / 20)) for step in range(21)]
        for points, digit in ((ring, 0), (line, 1)):
            view.stroke(points)
            said = answers(view)
            assert f"mlp says {digit}," in said and f"cnn says {digit}," in said
            clear(view)
        view.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.complaints == []
        asked = [url for url in view.requests if not url.startswith("data:")]
        assert asked == [page.resolve().as_uri()]


@pytest.mark.parametrize("width", [1100, 390])
def test_a_page_on_images_of_ones_own_keeps_its_width_and_complains_of_nothing(tmp_path: Path, width: int):
    names = [f"{'a very long name ' * 9}<{number}>" for number in range(30)]
    dataset = own_images(names, (3, 120, 90))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "find_dataset", lambda material, data, data_dir: dataset)
        assert main([str(own_run(tmp_path / "run", dataset)), "--output", str(tmp_path)]) == 0
    with Browser(width, 844) as view:
        view.open(tmp_path / "index.html")
        view.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        pictures = "[...document.images].map(image => [image.naturalWidth, image.width, image.height])"
        assert {tuple(sizes) for sizes in view.evaluate(pictures)} == {(72, 61, 82)}  # 84 with the border
        assert view.complaints == [] and view.evaluate("document.scripts.length") == 0


def test_the_page_forbids_itself_the_network(page: Path):
    with Browser() as view:
        view.open(page)
        refused = view.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', error => String(error))")
        assert refused.startswith("TypeError")
        assert any("Content Security Policy" in complaint for complaint in view.complaints)
        assert not any(url.startswith("http") for url in view.requests)


def test_a_digit_is_drawn_and_cleared_by_keys_alone(page: Path):
    with Browser() as view:
        view.open(page)
        view.evaluate("document.getElementById('canvas').focus()")
        view.key(" ", 32)
        for _ in range(15):
            view.key("ArrowDown", 40)
        view.key(" ", 32)
        said = answers(view)
        assert "mlp says 1," in said and "cnn says 1," in said
        for wanted in ("clear", "undo"):
            view.key("Tab", 9)
            assert view.evaluate("document.activeElement.id") == wanted
        view.evaluate("document.getElementById('canvas').focus()")
        view.key("Escape", 27)
        view.until("document.getElementById('verdict').textContent.startsWith('Nothing drawn')")
        assert view.complaints == []


def test_a_page_whose_weights_were_changed_refuses_to_answer(page: Path, tmp_path: Path):
    text = page.read_text()
    carried = json.loads(text.split('id="nets">')[1].split("</script>")[0])
    weight = carried["nets"][0]["layers"][-1]["weight"]
    changed = tmp_path / "index.html"
    changed.write_text(text.replace(weight, weight[::-1].lstrip("=").ljust(len(weight), "A")))
    with Browser() as view:
        view.open(changed)
        assert view.until("document.getElementById('verdict').textContent").startswith("No answer: mlp")
