"""The page's JavaScript beside export.predict and the nets: the same drawing gives the same pixels and logits."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from distmnist.config import ACTIVATIONS
from distmnist.data.dataset import MNIST_MEAN, MNIST_STD, normalise
from distmnist.data.known import load_sample
from distmnist.models.build import MODELS, build_model
from export import predict

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's JavaScript under node: not here")

SCRIPT = Path(__file__).parents[2] / "distmnist" / "report" / "net.js"
BOUND = 1e-4
"""On logits, as export/parity.py derives it: both add up the same float32 weights, in another order (measured: 4e-6).
Pixels may differ by one level of 255 where a value lies within rounding of a half (measured: none does)."""

PROGRAM = """
const page = require(process.argv[1]), asked = JSON.parse(require("fs").readFileSync(0));
const plane = (text) => Uint8Array.from(Buffer.from(text, "base64"));
console.log(JSON.stringify({
  prepared: asked.rasters.map((raster) => page.prepare(plane(raster))).map((p) => ({...p, pixels: [...p.pixels]})),
  logits: asked.nets.map((net) => { const whole = page.unpack(net);
    return asked.pixels.map((pixels) => [...page.logits(whole, plane(pixels), asked.mean, asked.std)]); }),
  working: page.WORKING,
}));
"""


def encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def ask(rasters: Any = (), nets: Any = (), pixels: Any = ()) -> dict[str, Any]:
    asked = {"rasters": [encoded(r) for r in rasters], "pixels": [encoded(p) for p in pixels]}
    asked |= {"nets": list(nets), "mean": MNIST_MEAN[0], "std": MNIST_STD[0]}
    done = subprocess.run(
        ["node", "-e", PROGRAM, str(SCRIPT)], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def drawings() -> list[np.ndarray]:
    """Digits of every size and place, scrawls of up to three strokes, sheets blank, full and of two marks: uint8."""
    draw = np.random.default_rng(0)
    sheets = [np.zeros((160, 160), np.uint8), np.full((160, 160), 255, np.uint8), np.zeros((160, 160), np.uint8)]
    sheets[2][40:100, 30:40] = sheets[2][60:110, 120:132] = 255
    sheets.append(np.zeros((160, 160), np.uint8))
    sheets[3][40:100, 30:40] = sheets[3][40:50, 47:80] = (
        255  # a stroke that does not quite meet: it belongs to the digit
    )
    for image in load_sample().test.images[:24, 0].numpy():
        side = int(draw.integers(40, 160))
        row, column = draw.integers(0, 161 - side, 2)
        sheet = np.zeros((160, 160), np.uint8)
        sheet[row : row + side, column : column + side] = np.asarray(Image.fromarray(image).resize((side, side)))
        sheets.append(sheet)
    for _ in range(24):
        sheet = Image.new("L", (160, 160))
        for _ in range(int(draw.integers(1, 4))):
            points = [tuple(point) for point in draw.integers(0, 160, (int(draw.integers(1, 6)), 2)).tolist()]
            ImageDraw.Draw(sheet).line(points, fill=255, width=int(draw.integers(3, 25)), joint="curve")
        sheets.append(np.asarray(sheet))
    return sheets


def test_a_drawing_becomes_the_pixels_that_predict_makes_of_it() -> None:
    sheets = drawings()
    answer = ask(rasters=sheets)
    assert answer["working"] == predict.WORKING
    kinds = set()
    for sheet, prepared in zip(sheets, answer["prepared"], strict=True):
        pixels, remarks = predict.from_drawing(sheet.astype(np.float32) / 255)
        here = np.array(prepared["pixels"]).reshape(28, 28)
        assert np.abs(here - pixels).max() <= 1
        told = [
            prepared["blank"] and "blank: no ink found",
            prepared["several"] and "several blobs: the largest was read",
        ]
        assert [remark for remark in told if remark] == remarks
        kinds.add(tuple(remarks))
    assert len(kinds) == 3  # whole, blank and several: all are among the drawings


def test_predict_takes_a_file_of_such_a_drawing_as_a_drawing() -> None:
    """Digits and strokes of the page's pen, 13 of 160 pixels wide: saved and given to predict, the same pixels."""
    draw = np.random.default_rng(1)
    for sheet in drawings()[4:28]:
        pixels, remarks = predict.prepare_digit(Image.fromarray(sheet))
        expected, told = predict.from_drawing(sheet.astype(np.float32) / 255)
        assert (pixels == expected).all()
        assert remarks == told
    for _ in range(12):
        page = Image.new("L", (160, 160))
        points = [tuple(point) for point in draw.integers(10, 150, (4, 2)).tolist()]
        ImageDraw.Draw(page).line(points, fill=255, width=13, joint="curve")
        pixels, _ = predict.prepare_digit(page)
        assert (pixels == predict.from_drawing(np.asarray(page, np.float32) / 255)[0]).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_net_answers_in_the_page_as_it_does_here(activation: str):
    from distmnist.report.page import layers

    nets = [build_model(name, activation=activation, seed=3).requires_grad_(False).eval() for name in MODELS]
    for net in nets:  # as far from zero as trained weights: the last layer's answers are then of some size
        for parameter in net.parameters():
            parameter.mul_(2)
    images = load_sample().test.images[:8]
    answer = ask(nets=[{"activation": activation, "layers": layers(net)} for net in nets], pixels=images.numpy())
    for net, logits in zip(nets, answer["logits"], strict=True):
        there = net(normalise(images, MNIST_MEAN[0], MNIST_STD[0]))
        assert there.abs().max() > 0.5
        assert (torch.tensor(logits) - there).abs().max() < BOUND
