"""Test images as small pictures that the page carries: a page of any images stays small."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

SIDE = 96
"""Pixels that a picture has at most on a side. A larger image is reduced, a smaller one keeps its pixels."""

BYTES = 8192
"""Of a picture's file, at most. A PNG, exact, as far as it fits: always for 28 x 28 or 32 x 32. Else a JPEG."""

SHOWN = 84
"""CSS pixels of the longer side on the page, of every picture."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """url: a data URL; width, height: in CSS pixels; enlarged: its pixels are to be seen as squares."""

    url: str
    width: int
    height: int
    enlarged: bool


def picture(pixels: np.ndarray) -> Picture:
    """pixels: uint8 [C, H, W] with one channel or three."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    longest = max(image.size)
    width, height = (max(1, round(SHOWN * side / longest)) for side in image.size)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kind, content = "png", saved(image, "PNG", optimize=True)
    while len(content) > BYTES:  # once, but for images that hardly compress
        kind, content = "jpeg", saved(image, "JPEG")
        image = image.reduce(2)
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(url, width, height, enlarged=longest <= SHOWN)


def saved(image: Image.Image, kind: str, **options: bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
