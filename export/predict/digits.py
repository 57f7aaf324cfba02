"""Makes what a model trained on MNIST sees of an image: the digit on it, as MNIST's digits were made."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from .pieces import BLANK, LEVELS, SEVERAL, find_digit, with_what_is_near
from .raster import (
    CENTRE,
    FIT,
    SIDE,
    WORKING,
    box,
    grown,
    ink_depth,
    labelled,
    main_axis,
    resized,
    shrunk,
    smoothed,
    toned,
)

if TYPE_CHECKING:
    from PIL.Image import Image

DOUBTFUL = "doubtful: the net is not sure of it when the image is moved by a pixel"
OFF_CENTRE = 1.0
"""Pixels. MNIST's digits have their centre of mass within 0.5 of CENTRE, each and every one of the 70,000."""


def prepare_digit(image: "Image") -> tuple[np.ndarray, list[str]]:
    """An image of any size and mode -> uint8 [28, 28], as MNIST's digits were made, and warnings.

    An image of 28 x 28, white on black, is taken as it is; if it is off the middle, it is moved there. Anything else:
    the digit found, ink told from paper, cropped, fitted to 20 pixels, centred by mass. In a drawing, light strokes on
    exact black, all there is is ink.
    """
    planes = to_planes(image)
    if planes.shape[:2] == (SIDE, SIDE) and np.ptp(planes, axis=2).max() < 8:
        grey = planes.mean(2)
        border = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()])
        if np.median(border) < 64 and grey.mean() < 128:
            pixels = np.round(grey).astype(np.uint8)
            remarks = [] if pixels.max() >= 64 else [BLANK]
            return (centred(pixels) if off_centre(pixels) > OFF_CENTRE else pixels), remarks
    if planes.shape[2] == 1 and is_drawing(planes[..., 0] / 255):
        return from_drawing(planes[..., 0] / 255)
    return from_photograph(planes)


def is_drawing(ink: np.ndarray) -> bool:
    """Whether two thirds of float32 [h, w] are exactly black and the rest is nowhere as thick as a sheet of paper."""
    if np.count_nonzero(ink) * 3 > ink.size or not ink.any():
        return False
    mask = ink > 0.5 * ink.max()
    top, bottom, left, right = box(mask)
    return not shrunk(np.pad(mask, 1), round(0.15 * max(bottom - top, right - left))).any()


def to_planes(image: "Image") -> np.ndarray:
    """float32 [h, w, 1 or 3], 0 to 255, at most 4 x WORKING a side; transparency laid over its opposite."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        bits = max(8, int(np.ceil(np.log2(max(float(values.max()), 1) + 1))))  # 10 or 12 of 16 may be in use
        image = Image.fromarray(values * np.float32(255 / (2**bits - 1)))
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    if max(image.size) > 4 * WORKING:
        image.thumbnail((4 * WORKING, 4 * WORKING), Image.Resampling.BOX, reducing_gap=2.0)
    values = np.asarray(image, dtype=np.float32)
    if values.ndim == 2:
        return values[..., None]
    if values.shape[2] == 3:
        return values
    colours, alpha = values[..., :3], values[..., 3:] / 255
    inked = float((colours * alpha).sum()) / max(float(alpha.sum()) * 3, 1.0)
    return colours * alpha + (255.0 if inked < 128 else 0.0) * (1 - alpha)


def from_drawing(ink: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Ink, float32 [h, w] in 0 to 1, that need not be told from paper -> uint8 [28, 28] and warnings.

    The report's page does the same with what is drawn there: distmnist/report/net.js. Keep the two in sync.
    """
    peak = float(ink.max())
    if peak < LEVELS[0] or float(ink.min()) > 0.1 * peak:
        return np.zeros((SIDE, SIDE), np.uint8), [BLANK]
    mask = ink > 0.25 * peak
    labels, count = labelled(mask)
    digit = with_what_is_near(labels == np.bincount(labels[mask]).argmax(), mask)
    rest = np.bincount(labels[mask & ~digit], minlength=count)
    several = rest.max() > 0.15 * np.count_nonzero(digit)
    return drawn(ink, digit), [SEVERAL] if several else []


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a digit is, in an image and in its overview.

    planes, small: float32 [h, w, c]; digit: bool, of small's size; relative: the share of the ink's depth from which on
    it is told from what is around it.
    """

    planes: np.ndarray
    small: np.ndarray
    digit: np.ndarray
    relative: float
    remarks: list[str]

    @property
    def scale(self) -> float:
        return max(self.planes.shape) / max(self.small.shape)

    @property
    def size(self) -> int:
        top, bottom, left, right = box(self.digit)
        return max(bottom - top, right - left)

    def around(self, share: float) -> tuple[slice, slice]:
        """Rows and columns of `planes`: the digit and a share of its size around it."""
        top, bottom, left, right = box(self.digit)
        margin, scale, (height, width) = share * self.size, self.scale, self.digit.shape
        return (
            slice(max(0, int((top - margin) * scale)), min(round(height * scale), round((bottom + margin) * scale))),
            slice(max(0, int((left - margin) * scale)), min(round(width * scale), round((right + margin) * scale))),
        )


def from_photograph(planes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """float32 [h, w, c] -> uint8 [28, 28] and warnings.

    The digit is looked for in an overview of the image; what the model sees is then made from a closer look.
    """
    found = look(planes)
    if found is None:
        return np.zeros((SIDE, SIDE), np.uint8), [BLANK]
    if found.scale > 1.5 and found.size < WORKING / 3:  # small in a large image: find its strokes again
        rows, columns = found.around(0.6)
        again = look(planes[rows, columns])
        if again is not None:
            there = np.array(box(again.digit)) * again.scale + np.repeat([rows.start, columns.start], 2)
            if is_same_place(np.array(box(found.digit)) * found.scale, there):
                found = dataclasses.replace(again, remarks=found.remarks)
    depth = closer_depth(found)
    peak = float(depth.max())
    if peak == 0:
        return np.zeros((SIDE, SIDE), np.uint8), [BLANK]
    return drawn(depth, depth > min(max(found.relative, 0.2), 0.6) * peak), found.remarks


def look(planes: np.ndarray) -> Found | None:
    """float32 [h, w, c] -> the digit on it; None if it is blank."""
    small = overview(planes)
    found = find_digit(smoothed(toned(small, main_axis(small))))
    return None if found is None else Found(planes, small, *found)


def closer_depth(found: Found) -> np.ndarray:
    """float32, at most WORKING a side: the ink around the digit, in the colours that tell this ink from this paper."""
    from PIL import Image

    digit, small, scale = found.digit, found.small, found.scale
    beside = grown(digit, 4) & ~grown(digit, 2)
    axis = small[digit].mean(0) - small[beside if beside.any() else ~digit].mean(0)
    light = bool(axis.sum() > 0)
    rows, columns = found.around(0.3)
    closer = toned(found.planes[rows, columns], axis if light else -axis)
    closer = resized(closer[..., None], min(WORKING, max(closer.shape)))[..., 0]
    bottom, right = min(rows.stop / scale, digit.shape[0]), min(columns.stop / scale, digit.shape[1])
    near = Image.fromarray(grown(digit, 2).astype(np.float32)).resize(
        closer.shape[::-1], Image.Resampling.BILINEAR, box=(columns.start / scale, rows.start / scale, right, bottom)
    )
    return ink_depth(smoothed(closer), light) * (np.asarray(near) > 0.5)


def is_same_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes, [top, bottom, left, right], share more than half of what they cover together."""
    common = np.minimum(a[1::2], b[1::2]) - np.maximum(a[::2], b[::2])
    shared = common.clip(0).prod()
    return bool(shared > 0.5 * (np.diff(a)[::2].prod() + np.diff(b)[::2].prod() - shared))


def overview(planes: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] with as many pixels as a square of WORKING has, the longer side at most twice WORKING."""
    height, width = planes.shape[:2]
    return resized(planes, round(min(max(height, width) * WORKING / (height * width) ** 0.5, 2 * WORKING)))


def drawn(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """float32 [h, w], where the digit is, bool [h, w] -> uint8 [28, 28], as MNIST's digits were made."""
    full = np.percentile(depth[mask], 75)
    ink = np.clip((depth / full - 0.1) / 0.8, 0, 1) * grown(mask, 1)
    top, bottom, left, right = box(ink > 0.2)
    return centred(np.round(255 * fitted(ink[top:bottom, left:right])).astype(np.uint8))


def fitted(ink: np.ndarray) -> np.ndarray:
    """Ink, float [h, w] in 0 to 1, with its longer side scaled to 20 pixels, edges softened."""
    from PIL import Image

    height, width = ink.shape
    scale = FIT / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return ink
    return np.clip(np.asarray(Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)), 0, 1)


def centre_of_mass(pixels: np.ndarray) -> tuple[float, float]:
    weights = pixels.astype(np.float64)
    total = weights.sum()
    if total == 0:
        return CENTRE, CENTRE
    rows, columns = np.indices(pixels.shape)
    return float((rows * weights).sum() / total), float((columns * weights).sum() / total)


def off_centre(pixels: np.ndarray) -> float:
    """How far the centre of mass of uint8 [28, 28] is from the middle, in pixels, along the worse axis."""
    return max(abs(at - CENTRE) for at in centre_of_mass(pixels))


def centred(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w], at most 28 a side -> uint8 [28, 28], its centre of mass in the middle as far as it fits."""
    if not pixels.any():
        return np.zeros((SIDE, SIDE), np.uint8)
    top, bottom, left, right = box(pixels > 0)
    ink = pixels[top:bottom, left:right]
    out = np.zeros((SIDE, SIDE), np.uint8)
    row, column = (
        min(max(round(CENTRE - at), 0), SIDE - size) for at, size in zip(centre_of_mass(ink), ink.shape, strict=True)
    )
    out[row : row + ink.shape[0], column : column + ink.shape[1]] = ink
    return out
