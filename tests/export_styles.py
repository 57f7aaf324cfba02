"""Digits as people photograph and save them: each style makes an image file of one digit, uint8 [28, 28]."""

import io

import numpy as np
from PIL import Image, ImageFilter


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def ink(digit: np.ndarray, side: int) -> np.ndarray:
    """The digit enlarged: float [side, side], 1 where there is ink."""
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), np.float64) / 255


def on_paper(digit: np.ndarray, draw: np.random.Generator, size: int = 320) -> np.ndarray:
    """float [size, size], 1 where there is ink: the digit enlarged, somewhere on a sheet."""
    side = int(draw.integers(size // 3, size // 2))
    sheet = np.zeros((size, size))
    row, column = draw.integers(0, size - side, 2)
    sheet[row : row + side, column : column + side] = ink(digit, side)
    return sheet


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))


def as_it_is(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return png(Image.fromarray(digit))


def inverted(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return png(Image.fromarray(255 - digit))


def noisy_paper(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = on_paper(digit, draw)
    return png(grey(215 - 170 * sheet + draw.normal(0, 12, sheet.shape)))


def noisy_board(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Chalk: light ink on a dark ground."""
    sheet = on_paper(digit, draw)
    return jpeg(grey(40 + 170 * sheet + draw.normal(0, 12, sheet.shape)))


def tiny_on_sheet(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = np.full((500, 400), 235.0)
    row, column = draw.integers(0, 372, 2)
    sheet[row : row + 28, column : column + 28] -= 200 * (digit / 255)
    return png(grey(sheet + draw.normal(0, 4, sheet.shape)))


def off_centre(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = np.zeros((84, 84), np.uint8)
    row, column = draw.integers(0, 57, 2)
    sheet[row : row + 28, column : column + 28] = digit
    return png(Image.fromarray(sheet))


def rolled(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Moved within its 28 x 28, as far as the ink allows."""
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    down = draw.choice([-rows[0], 27 - rows[-1]])
    across = draw.choice([-columns[0], 27 - columns[-1]])
    return png(Image.fromarray(np.roll(digit, (down, across), (0, 1))))


def soft_shadow(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = on_paper(digit, draw)
    rows, columns = np.mgrid[0:1:320j, 0:1:320j]
    angle = draw.uniform(0, 2 * np.pi)
    light = 0.65 + 0.35 * np.sin(angle + 2 * (rows * np.cos(angle) + columns * np.sin(angle)))
    return jpeg(grey((225 - 180 * sheet) * light + draw.normal(0, 4, sheet.shape)))


def hard_shadow(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A straight edge through the middle of the sheet, half of which is in shadow."""
    sheet = on_paper(digit, draw)
    rows, columns = np.mgrid[-1:1:320j, -1:1:320j]
    angle = draw.uniform(0, 2 * np.pi)
    shade = (rows * np.cos(angle) + columns * np.sin(angle) > draw.uniform(-0.4, 0.4)).astype(np.float64)
    shade = np.asarray(Image.fromarray(shade.astype(np.float32)).filter(ImageFilter.BoxBlur(0)))
    return png(grey((225 - 180 * sheet) * (1 - 0.5 * shade) + draw.normal(0, 4, sheet.shape)))


def coloured(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Ink and paper of two random colours that are far enough apart."""
    while True:
        pen, paper = draw.uniform(0, 255, (2, 3))
        if np.abs(pen - paper).max() > 100:
            break
    sheet = on_paper(digit, draw)[..., None]
    return png(Image.fromarray(np.round(paper * (1 - sheet) + pen * sheet).astype(np.uint8)))


def coloured_small(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    while True:
        pen, paper = draw.uniform(0, 255, (2, 3))
        if np.abs(pen - paper).max() > 100:
            break
    sheet = (digit / 255)[..., None]
    return png(Image.fromarray(np.round(paper * (1 - sheet) + pen * sheet).astype(np.uint8)))


def alpha(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Ink of one colour, black or white or any, on nothing."""
    pen = np.broadcast_to(draw.choice([0, 255, 128, 40]), (28, 28, 3))
    return png(Image.fromarray(np.dstack([pen, digit]).astype(np.uint8)))


def alpha_opaque(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    opaque = np.full((28, 28), 255, np.uint8)
    return png(Image.fromarray(np.dstack([255 - digit] * 3 + [opaque]).astype(np.uint8)))


def sixteen_bits(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return png(Image.fromarray(digit.astype(np.uint16) * 257))


def sixteen_bits_paper(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = on_paper(digit, draw)
    return png(Image.fromarray(np.round(60000 - 50000 * sheet).astype(np.uint16)))


STYLES = [
    as_it_is,
    inverted,
    noisy_paper,
    noisy_board,
    tiny_on_sheet,
    off_centre,
    rolled,
    soft_shadow,
    hard_shadow,
    coloured,
    coloured_small,
    alpha,
    alpha_opaque,
    sixteen_bits,
    sixteen_bits_paper,
]
