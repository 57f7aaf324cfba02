"""Digits as people photograph, draw and save them: each style makes an image file of one digit, uint8 [28, 28].

`STYLES` is what export/predict/ is measured on, by benchmarks/pictures.py; `FIRST` are those of the first edition.
A style draws sizes, places, colours and noise from the generator that it is given, within what its docstring says.
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Style = Callable[[np.ndarray, np.random.Generator], bytes]


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


FIRST: list[Style] = [
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


# Pieces that the styles below are put together from ------------------------------------------------------------------


def scaled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """float [h, w] -> float [height, width] in 0 to 1."""
    image = Image.fromarray(values.astype(np.float32))
    return np.clip(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64), 0, 1)


def enlarged(digit: np.ndarray, longest: int) -> np.ndarray:
    """The digit without its margin: float [h, w], the longer side `longest`, 1 where there is ink."""
    rows, columns = np.flatnonzero((digit > 40).any(1)), np.flatnonzero((digit > 40).any(0))
    tight = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 255
    scale = longest / max(tight.shape)
    return scaled(tight, max(1, round(tight.shape[0] * scale)), max(1, round(tight.shape[1] * scale)))


def placed(shape: np.ndarray, draw: np.random.Generator, height: int = 320, width: int = 320) -> np.ndarray:
    """float [height, width]: the shape somewhere on an empty sheet, not closer to its edge than a twentieth."""
    sheet, margin = np.zeros((height, width)), min(height, width) // 20
    row = int(draw.integers(margin, height - margin - shape.shape[0] + 1))
    column = int(draw.integers(margin, width - margin - shape.shape[1] + 1))
    sheet[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    return sheet


def somewhere(digit: np.ndarray, draw: np.random.Generator, height: int = 320, width: int = 320) -> np.ndarray:
    """float [height, width]: the digit, its longer side 30 to 60 % of the sheet's shorter one."""
    return placed(enlarged(digit, int(draw.uniform(0.3, 0.6) * min(height, width))), draw, height, width)


def skeleton(shape: np.ndarray) -> np.ndarray:
    """bool [h, w] -> bool [h, w]: the strokes' middle lines (Zhang and Suen, CACM 27(3), 1984)."""
    mask = np.pad(shape, 1).astype(np.uint8)
    while True:
        before = mask.sum()
        for first in (True, False):
            p = np.stack(  # the eight neighbours, clockwise from the north
                [
                    np.roll(mask, at, (0, 1))
                    for at in [(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)]
                ]
            )
            count = p.sum(0)
            turns = ((p == 0) & (np.roll(p, -1, 0) == 1)).sum(0)
            n, e, s, w = p[0], p[2], p[4], p[6]
            free = (n * e * s == 0) & (e * s * w == 0) if first else (n * e * w == 0) & (n * s * w == 0)
            mask[(mask == 1) & (count >= 2) & (count <= 6) & (turns == 1) & free] = 0
        if mask.sum() == before:
            return mask[1:-1, 1:-1].astype(bool)


def written(digit: np.ndarray, longest: int, width: float) -> np.ndarray:
    """The digit's middle lines drawn with a round pen `width` pixels wide: float [h, w], 1 where there is ink."""
    reach, fine = int(width) + 2, 3  # drawn three times as large, then reduced: soft edges
    lines = np.pad(skeleton(enlarged(digit, longest) > 0.5), reach)
    image = Image.new("L", (lines.shape[1] * fine, lines.shape[0] * fine))
    pen, radius = ImageDraw.Draw(image), fine * width / 2
    for row, column in (np.argwhere(lines) + 0.5) * fine:
        pen.ellipse((column - radius, row - radius, column + radius, row + radius), fill=255)
    return np.asarray(image.reduce(fine), np.float64) / 255


def clouds(draw: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth random values, float [height, width] in 0 to 1, that change about `cells` times across the image."""
    return scaled(draw.uniform(0, 1, (cells + 1, cells + 1)), height, width)


def light(draw: np.random.Generator, height: int, width: int, darkest: float) -> np.ndarray:
    """Light that falls in from one side: float [height, width], 1 to `darkest` in a straight line."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = draw.uniform(0, 2 * np.pi)
    slope = (rows * np.cos(angle) + columns * np.sin(angle)) / (abs(np.cos(angle)) + abs(np.sin(angle)))
    return darkest + (1 - darkest) * (slope + 1) / 2


def mixed(sheet: np.ndarray, pen: tuple[float, ...] | np.ndarray, paper: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """float [h, w, 3]: `pen` where the sheet, float [h, w], has ink, `paper`, [3] or [h, w, 3], elsewhere."""
    return np.asarray(paper) * (1 - sheet[..., None]) + np.asarray(pen) * sheet[..., None]


def snapped(values: np.ndarray, draw: np.random.Generator, noise: float = 4, quality: int = 88) -> bytes:
    """A JPEG as a camera saves it, float [h, w] or [h, w, 3] in 0 to 255."""
    values = values + draw.normal(0, noise, values.shape)
    return jpeg(Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8)), quality)


def blur(values: np.ndarray, radius: float) -> np.ndarray:
    """float [h, w] blurred by a Gaussian of that radius in pixels, continued by its border."""
    reach = int(3 * radius) + 1
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    for _ in range(2):
        rows = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
        values = sum(weight * rows[at : at + len(values)] for at, weight in enumerate(weights / weights.sum())).T
    return values


PENS = [(25, 25, 30), (30, 40, 120), (20, 20, 20), (150, 25, 30), (35, 35, 90)]
"""Black, blue, red."""


def paper_page(digit: np.ndarray, draw: np.random.Generator, paper: tuple[float, ...] = (236, 234, 228)) -> np.ndarray:
    """float [240, 320, 3]: a sheet by itself, the digit 35 to 60 % of its height, in one of PENS."""
    shape = enlarged(digit, int(240 * draw.uniform(0.35, 0.6)))
    return mixed(placed(shape, draw, 240, 320), PENS[draw.integers(len(PENS))], paper)


def laid(page: np.ndarray, table: np.ndarray, draw: np.random.Generator, shadow: float = 0.3) -> np.ndarray:
    """float [h, w, 3]: the page on a table of this size, seen slightly askew, filling 35 to 90 % of the picture."""
    height, width = table.shape[:2]
    share = draw.uniform(0.35, 0.9)
    tall, wide = height * share**0.5, width * share**0.5
    angle = np.deg2rad(draw.uniform(-6, 6))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * [wide, tall]
    corners = corners @ turn.T + draw.uniform(-0.02, 0.02, (4, 2)) * min(wide, tall)
    corners += [width / 2, height / 2] + draw.uniform(-0.5, 0.5, 2) * [width - wide, height - tall]
    h, w = page.shape[:2]
    rows, wanted = [], []
    for (x, y), (u, v) in zip(corners, [(0, 0), (w, 0), (w, h), (0, h)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        wanted += [u, v]
    numbers = np.linalg.solve(rows, wanted).tolist()

    def seen(plane: np.ndarray) -> np.ndarray:
        image = Image.fromarray(plane.astype(np.float32))
        return np.asarray(
            image.transform((width, height), Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BILINEAR),
            np.float64,
        )

    there = seen(np.ones((h, w)))[..., None]
    shade = 1 - shadow * np.roll(blur(there[..., 0], 5), (4, 4), (0, 1))[..., None]
    return table * shade * (1 - there) + np.dstack([seen(plane) for plane in np.moveaxis(page, 2, 0)]) * there


def plain_table(draw: np.random.Generator, low: float, high: float, height: int = 360, width: int = 480) -> np.ndarray:
    """float [height, width, 3] of one greyish colour between `low` and `high`, unevenly lit."""
    colour = draw.uniform(low, high) + draw.uniform(-12, 12, 3)
    return colour * light(draw, height, width, draw.uniform(0.7, 1))[..., None]


def wood(draw: np.random.Generator, height: int = 360, width: int = 480) -> np.ndarray:
    """float [height, width, 3]: brown with a grain, and joints between boards."""
    grain = scaled(draw.uniform(0, 1, (height // 3, 4)), height, width) * 0.35 + clouds(draw, height, width, 6) * 0.3
    grain[(np.arange(height) + draw.integers(90)) % 90 < 2] = 1
    return np.array([150, 105, 70]) * draw.uniform(0.6, 1.1) * (1 - 0.6 * grain[..., None])


def cloth(draw: np.random.Generator, height: int = 360, width: int = 480) -> np.ndarray:
    """float [height, width, 3]: a table cloth of squares."""
    side = int(draw.integers(18, 40))
    rows, columns = np.indices((height, width)) // side
    colour = draw.uniform(40, 160, 3)
    return 225 - (225 - colour) * ((rows % 2) * 0.5 + (columns % 2) * 0.5)[..., None]


def stone(draw: np.random.Generator, height: int = 360, width: int = 480) -> np.ndarray:
    """float [height, width, 3]: speckled, from nearly black to light grey."""
    grains = blur(draw.normal(0, 1, (height, width)), 1.2)
    return np.repeat((draw.uniform(60, 130) + 110 * grains)[..., None], 3, 2).clip(5, 215)


def rules(height: int, width: int, step: float, thick: float, angle: float, at: float) -> np.ndarray:
    """float [height, width]: parallel lines, `angle` in radians from level, `step` and `thick` in pixels."""
    rows, columns = np.indices((height, width))
    place = (rows * np.cos(angle) + columns * np.sin(angle) + at) % step
    return np.clip(thick / 2 + 0.5 - np.abs(place - step / 2), 0, 1)


def on_lines(digit: np.ndarray, draw: np.random.Generator, lines: np.ndarray, colour: tuple[float, ...]) -> bytes:
    """A photograph of the digit written across printed lines, float [h, w]."""
    height, width = lines.shape
    paper = mixed(lines, colour, (240, 240, 236))
    values = mixed(somewhere(digit, draw, height, width), PENS[draw.integers(len(PENS))], paper)
    return snapped(values * light(draw, height, width, draw.uniform(0.75, 1))[..., None], draw)


def framed(digit: np.ndarray, draw: np.random.Generator, cells: int, radius: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A row of printed boxes with the digit in one of them: the digit's ink and the boxes', float [h, w] each."""
    side, thick = int(draw.integers(110, 150)), int(draw.integers(2, 5))
    height, width = side + 80, side * cells + 80
    boxes, (rows, columns) = np.zeros((height, width)), np.indices((height, width))
    for cell in range(cells):
        down = np.abs(rows - 40 - side / 2) - side / 2 + radius
        across = np.abs(columns - 40 - (cell + 0.5) * side) - side / 2 + radius
        # Distance from the outline, negative inside.
        distance = (
            np.hypot(np.maximum(down, 0), np.maximum(across, 0)) + np.minimum(np.maximum(down, across), 0) - radius
        )
        boxes = np.maximum(boxes, np.clip(thick / 2 + 0.5 - np.abs(distance), 0, 1))
    shape = enlarged(digit, int(side * draw.uniform(0.5, 0.78)))
    sheet, chosen = np.zeros((height, width)), int(draw.integers(cells))
    row, column = (thick + 4 + int(draw.integers(side - 2 * thick - 7 - size)) for size in shape.shape)
    row, column = 40 + row, 40 + chosen * side + column
    sheet[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    return sheet, boxes


def png_of_16_bits(values: np.ndarray) -> bytes:
    """uint16 [h, w, 3] as a PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")


def deep(digit: np.ndarray, draw: np.random.Generator, bits: int) -> bytes:
    """Dark on light, values of `bits` bits in a PNG of 16, not scaled up: as scanners and scientific cameras save."""
    sheet, white = somewhere(digit, draw), 2**bits - 1
    values = white * (0.92 - draw.uniform(0.5, 0.85) * sheet) + draw.normal(0, white / 100, sheet.shape)
    return png(Image.fromarray(np.clip(values, 0, white).round().astype(np.uint16)))


def tight(shape: np.ndarray, draw: np.random.Generator, most: float = 0.1) -> np.ndarray:
    """float [h, w]: the shape with a margin of 0 to `most` of its longer side, on each side by itself."""
    margins = (draw.uniform(0, most, (2, 2)) * max(shape.shape)).astype(int)
    return np.pad(shape, margins)


# Margins -------------------------------------------------------------------------------------------------------------


def tight_crop(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Black on white without noise, enlarged, a margin of 0 to 10 %."""
    return png(grey(255 * (1 - tight(enlarged(digit, int(draw.integers(40, 300))), draw))))


def no_margin(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Black on white, the ink up to every edge."""
    return png(grey(255 * (1 - enlarged(digit, int(draw.integers(40, 300))))))


def tight_chalk(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """White on black, enlarged, a margin of 0 to 10 %."""
    return png(grey(255 * tight(enlarged(digit, int(draw.integers(40, 300))), draw)))


def tight_at_size(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Black on white as small as MNIST's digits are, cropped."""
    return png(grey(255 * (1 - tight(enlarged(digit, 20), draw))))


def tight_photograph(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Blue or black on uneven paper, a margin of 0 to 10 %."""
    sheet = tight(enlarged(digit, int(draw.integers(120, 300))), draw)
    values = mixed(sheet, PENS[draw.integers(len(PENS))], draw.uniform(180, 235, 3))
    return snapped(values * light(draw, *sheet.shape, 0.8)[..., None], draw, 6)


def tight_brush(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A thick pen, cropped: ink covers about half of the picture."""
    longest = int(draw.integers(100, 240))
    return png(grey(250 - 235 * tight(written(digit, longest, longest * 0.2), draw)))


# Sheets of paper on a table ------------------------------------------------------------------------------------------


def paper_on_dark_table(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return snapped(laid(paper_page(digit, draw), plain_table(draw, 25, 70), draw), draw)


def paper_on_black(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Without noise: scanned with the lid open."""
    page = np.repeat((255 - 255 * somewhere(digit, draw, 240, 320))[..., None], 3, 2)
    return png(Image.fromarray(laid(page, np.zeros((360, 480, 3)), draw).clip(0, 255).astype(np.uint8)))


def paper_on_grey_table(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return snapped(laid(paper_page(digit, draw), plain_table(draw, 90, 150), draw), draw)


def paper_on_light_table(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """The table is hardly darker than the sheet; the sheet's shadow shows its edge."""
    return snapped(laid(paper_page(digit, draw), plain_table(draw, 180, 215), draw), draw)


def paper_on_wood(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return snapped(laid(paper_page(digit, draw), wood(draw), draw), draw)


def paper_on_cloth(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return snapped(laid(paper_page(digit, draw), cloth(draw), draw), draw)


def paper_on_stone(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return snapped(laid(paper_page(digit, draw), stone(draw), draw), draw)


def yellow_note(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A sticky note, on a table of any grey."""
    paper = (draw.uniform(225, 250), draw.uniform(210, 230), draw.uniform(90, 140))
    return snapped(laid(paper_page(digit, draw, paper), plain_table(draw, 30, 190), draw), draw)


def slate_on_table(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Chalk on a dark board that lies on something light."""
    page = mixed(
        placed(enlarged(digit, int(240 * draw.uniform(0.35, 0.6))), draw, 240, 320), (225, 225, 220), (45, 52, 50)
    )
    return snapped(laid(page, plain_table(draw, 150, 230), draw), draw)


def paper_in_shadow(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A dark table, light from one side, twice as dark at the other."""
    values = laid(paper_page(digit, draw), plain_table(draw, 30, 90), draw)
    return snapped(values * light(draw, *values.shape[:2], 0.5)[..., None], draw)


def ruled_paper_on_table(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    page = mixed(rules(240, 320, draw.uniform(22, 40), 1.6, 0, draw.uniform(0, 40)), (150, 175, 215), (240, 240, 236))
    sheet = placed(enlarged(digit, int(240 * draw.uniform(0.35, 0.6))), draw, 240, 320)
    return snapped(laid(mixed(sheet, PENS[draw.integers(len(PENS))], page), plain_table(draw, 30, 110), draw), draw)


def paper_off_the_edge(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A dark table is seen along one or two sides only."""
    values = mixed(somewhere(digit, draw, 300, 400), PENS[draw.integers(len(PENS))], (232, 230, 226))
    sides = draw.permutation(4)[: draw.integers(1, 3)]
    rows, columns = np.indices((420, 520))
    lean = draw.uniform(-0.06, 0.06, 4)
    table = np.zeros((420, 520), bool)
    for side in sides.tolist():
        across, along = (rows, columns - 260) if side < 2 else (columns, rows - 210)
        edge = 60 + lean[side] * along if side % 2 == 0 else [360, 460][side // 2] + lean[side] * along
        table |= across < edge if side % 2 == 0 else across > edge
    whole = np.pad(values, ((60, 60), (60, 60), (0, 0)), mode="edge")
    whole = np.where(blur(table, 1)[..., None] > 0.5, draw.uniform(25, 90), whole)
    return snapped(whole, draw)


# Printed lines and boxes ---------------------------------------------------------------------------------------------


def ruled(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    lines = rules(320, 320, draw.uniform(26, 60), draw.uniform(1, 2.5), draw.uniform(-0.05, 0.05), draw.uniform(0, 60))
    return on_lines(digit, draw, lines, (150, 175, 215))


def ruled_in_grey(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Darker lines: half of what the ink has over the paper."""
    lines = rules(320, 320, draw.uniform(26, 60), draw.uniform(1, 2.5), draw.uniform(-0.05, 0.05), draw.uniform(0, 60))
    return on_lines(digit, draw, lines, (140, 140, 145))


def ruled_with_margin(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Blue lines and a red one down the side."""
    lines = rules(320, 320, draw.uniform(26, 60), 1.6, 0, draw.uniform(0, 60))
    paper = mixed(lines, (150, 175, 215), (240, 240, 236))
    at = int(draw.integers(20, 60))
    paper[:, at : at + 3] = (225, 110, 120)
    return snapped(mixed(somewhere(digit, draw), PENS[draw.integers(len(PENS))], paper), draw)


def squared(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    step, angle = draw.uniform(16, 40), draw.uniform(-0.05, 0.05)
    lines = [rules(320, 320, step, 1.5, turn, draw.uniform(0, 40)) for turn in (angle, angle + np.pi / 2)]
    return on_lines(digit, draw, np.maximum(*lines), (165, 190, 220))


def squared_in_grey(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Darker lines: half of what the ink has over the paper."""
    step, angle = draw.uniform(16, 40), draw.uniform(-0.05, 0.05)
    lines = [rules(320, 320, step, 1.5, turn, draw.uniform(0, 40)) for turn in (angle, angle + np.pi / 2)]
    return on_lines(digit, draw, np.maximum(*lines), (140, 140, 145))


def dotted(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A grid of dots."""
    step = draw.uniform(16, 36)
    lines = [rules(320, 320, step, 2.5, turn, draw.uniform(0, 40)) for turn in (0, np.pi / 2)]
    return on_lines(digit, draw, np.minimum(*lines), (120, 120, 125))


def in_a_box(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A printed box as black as the ink."""
    sheet, boxes = framed(digit, draw, 1)
    return snapped(235 - 190 * np.maximum(sheet, boxes), draw)


def in_a_round_box(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """With round corners, coloured, as on a form."""
    sheet, boxes = framed(digit, draw, 1, radius=20)
    return snapped(mixed(sheet, PENS[draw.integers(len(PENS))], mixed(boxes, (235, 120, 60), (250, 248, 245))), draw)


def in_a_row_of_boxes(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Three or four boxes side by side, the digit in one."""
    sheet, boxes = framed(digit, draw, int(draw.integers(3, 5)))
    return snapped(235 - np.maximum(190 * sheet, 150 * boxes), draw)


def box_cut_off(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A box of a form, cropped along its printed lines."""
    sheet, boxes = framed(digit, draw, 1)
    top, bottom, left, right = (40 + int(draw.integers(-6, 4)) for _ in range(4))
    return snapped((235 - 190 * np.maximum(sheet, boxes))[top:-bottom, left:-right], draw)


def above_a_line(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Written over a printed base line that it does not touch."""
    shape = enlarged(digit, int(draw.integers(100, 160)))
    column, gap = int(draw.integers(40, 380 - shape.shape[1])), int(draw.integers(10, 24))
    sheet = np.zeros((260, 420))
    sheet[210 - gap - shape.shape[0] : 210 - gap, column : column + shape.shape[1]] = shape
    sheet[210:213, 20:400] = 0.9
    return snapped(230 - 180 * sheet, draw)


# Pens ----------------------------------------------------------------------------------------------------------------


def hair_thin(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Lines of one to two pixels, the digit 100 to 180 high."""
    sheet = placed(written(digit, int(draw.integers(100, 180)), draw.uniform(1, 2)), draw)
    return snapped(240 - 190 * sheet, draw)


def ballpoint(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = placed(written(digit, int(draw.integers(100, 180)), draw.uniform(3, 5)), draw)
    return snapped(mixed(sheet, PENS[draw.integers(len(PENS))], (236, 234, 228)), draw)


def thin_and_small(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A digit of 40 to 60 pixels in a thin pen on a photograph of 640 x 480."""
    sheet = placed(written(digit, int(draw.integers(40, 60)), 2), draw, 480, 640)
    return snapped(232 - 180 * sheet, draw)


def felt_tip(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    longest = int(draw.integers(100, 180))
    sheet = placed(written(digit, longest, longest * draw.uniform(0.1, 0.16)), draw)
    return snapped(mixed(sheet, PENS[draw.integers(len(PENS))], (236, 234, 228)), draw)


def brush(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Strokes a fifth of the digit wide."""
    longest = int(draw.integers(100, 180))
    return snapped(235 - 200 * placed(written(digit, longest, longest * draw.uniform(0.17, 0.21)), draw), draw)


def pencil(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Grey, grainy: the paper shows through."""
    sheet = placed(written(digit, int(draw.integers(100, 180)), draw.uniform(4, 7)), draw)
    grain = np.clip(1.2 + 0.9 * blur(draw.normal(0, 1, sheet.shape), 0.8) * 2, 0.25, 1)
    return snapped(235 - 110 * sheet * grain, draw)


def drying_marker(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Ink from full to a third of it along the strokes."""
    sheet = somewhere(digit, draw)
    return snapped(238 - 190 * sheet * (0.33 + 0.67 * clouds(draw, *sheet.shape, 7)), draw)


def whiteboard(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A coloured marker on a shiny board that reflects a lamp."""
    sheet = placed(written(digit, int(draw.integers(100, 180)), draw.uniform(6, 10)), draw)
    pen = [(40, 60, 170), (190, 40, 45), (30, 130, 70), (30, 30, 35)][draw.integers(4)]
    rows, columns = np.indices(sheet.shape)
    row, column = draw.uniform(0, 320, 2)
    lamp = 60 * np.exp(-(((rows - row) / 40) ** 2 + ((columns - column) / 70) ** 2))
    return snapped(mixed(sheet, pen, (200, 202, 205)) + lamp[..., None], draw)


# Screenshots ---------------------------------------------------------------------------------------------------------


def card_with_shadow(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A white card with a soft shadow on a light page."""
    height, width = int(draw.integers(160, 260)), int(draw.integers(180, 360))
    card = np.zeros((360, 480))
    top, left = int(draw.integers(20, 340 - height)), int(draw.integers(20, 460 - width))
    card[top : top + height, left : left + width] = 1
    page = draw.uniform(225, 245) * (1 - 0.35 * np.roll(blur(card, 8), 5, 0))
    page[card > 0] = 255
    page[top : top + height, left : left + width] -= draw.uniform(180, 255) * somewhere(digit, draw, height, width)
    return png(grey(page))


def dark_card(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """The same by night: a dark grey card on a darker page, light ink."""
    height, width = int(draw.integers(160, 260)), int(draw.integers(180, 360))
    page = np.full((360, 480), draw.uniform(10, 25))
    top, left = int(draw.integers(20, 340 - height)), int(draw.integers(20, 460 - width))
    page[top : top + height, left : left + width] = draw.uniform(38, 55) + 180 * somewhere(digit, draw, height, width)
    return png(grey(page))


def ink_with_shadow(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Dark ink that throws a soft shadow on white."""
    sheet = somewhere(digit, draw)
    shadow = np.roll(blur(sheet, draw.uniform(4, 9)), (8, 8), (0, 1))
    return png(grey(255 * (1 - 0.35 * shadow) * (1 - sheet) + 30 * sheet))


def light_ink_with_glow(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    sheet = somewhere(digit, draw)
    glow = blur(sheet, draw.uniform(4, 9))
    paper = np.array([20, 24, 40]) + glow[..., None] * [30, 70, 90]
    return png(Image.fromarray(mixed(sheet, (150, 235, 255), paper).clip(0, 255).astype(np.uint8)))


def window(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A drawing program: a coloured bar with three buttons above a white sheet."""
    sheet = somewhere(digit, draw, 300, 400)
    body = np.repeat((252 - draw.uniform(180, 250) * sheet)[..., None], 3, 2)
    bar = np.broadcast_to(draw.uniform(60, 210, 3), (34, 400, 3)).copy()
    rows, columns = np.indices((34, 400))
    for at, colour in zip((18, 38, 58), [(250, 95, 87), (252, 188, 46), (40, 200, 64)], strict=True):
        bar[np.hypot(rows - 17, columns - at) < 6] = colour
    return png(Image.fromarray(np.concatenate([bar, body]).astype(np.uint8)))


# Depths, palettes, transparency, what else a file may hold -----------------------------------------------------------


def eight_bits(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return png(grey(235 - draw.uniform(120, 220) * somewhere(digit, draw)))


def ten_bits(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return deep(digit, draw, 10)


def twelve_bits(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return deep(digit, draw, 12)


def sixteen_bits_noisy(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return deep(digit, draw, 16)


def sixteen_bits_colour(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    values = mixed(somewhere(digit, draw, 160, 200), PENS[draw.integers(len(PENS))], (236, 234, 228))
    return png_of_16_bits(np.round(values * 257))


def one_bit(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return png(Image.fromarray(somewhere(digit, draw) < 0.5))


def four_bits(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A palette of 16 colours, dithered."""
    values = mixed(somewhere(digit, draw), draw.uniform(0, 90, 3), draw.uniform(170, 255, 3))
    return png(Image.fromarray(values.astype(np.uint8)).quantize(16, dither=Image.Dither.FLOYDSTEINBERG))


def transparent_photograph(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A cut-out: ink of any dark colour, random colours hidden where it is transparent."""
    sheet = somewhere(digit, draw)
    hidden = draw.uniform(0, 255, (320, 320, 3))
    colours = np.where(sheet[..., None] > 0.02, draw.uniform(0, 120, 3), hidden)
    return png(Image.fromarray(np.dstack([colours, 255 * sheet]).astype(np.uint8)))


def transparent_sticker(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Dark ink on a white, round sticker; transparent around it."""
    shape = enlarged(digit, int(draw.integers(110, 150)))
    sheet = np.zeros((320, 320))
    row, column = (160 - size // 2 + int(draw.integers(-12, 13)) for size in shape.shape)
    sheet[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    rows, columns = np.indices(sheet.shape) - 160
    round_ = 255 * np.clip(150.5 - np.hypot(rows, columns), 0, 1)
    return png(
        Image.fromarray(np.dstack([mixed(sheet, draw.uniform(0, 90, 3), (250, 250, 250)), round_]).astype(np.uint8))
    )


def turned_by_exif(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Saved lying or standing on its head, EXIF says how to turn it back."""
    orientation = int(draw.choice([3, 6, 8]))
    turns = {3: 2, 6: 1, 8: 3}[orientation]
    values = 230 - 180 * somewhere(digit, draw, 300, 400) + draw.normal(0, 4, (300, 400))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    grey(np.rot90(values, turns)).save(buffer, "JPEG", quality=88, exif=exif)
    return buffer.getvalue()


def broken_exif(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A PNG whose EXIF block is no TIFF structure."""
    buffer = io.BytesIO()
    grey(235 - 180 * somewhere(digit, draw)).save(buffer, "PNG", exif=b"Exif\0\0" + draw.bytes(40))
    return buffer.getvalue()


def large_photograph(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """3200 x 2400 pixels."""
    sheet = somewhere(digit, draw, 240, 320)
    small = Image.fromarray(np.round(225 - 180 * sheet + draw.normal(0, 4, sheet.shape)).astype(np.uint8))
    return jpeg(small.resize((3200, 2400), Image.Resampling.BICUBIC), 80)


def wide(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A strip four times as wide as it is high."""
    return snapped(232 - 185 * somewhere(digit, draw, 160, 640), draw)


def tall(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A telephone's screen, nine by twenty."""
    return png(grey(255 - 220 * somewhere(digit, draw, 800, 360)))


# JPEG, contrast, light, lens, paper ----------------------------------------------------------------------------------


def coarse_jpeg(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    return snapped(225 - 170 * somewhere(digit, draw), draw, 4, int(draw.integers(6, 16)))


def jpeg_of_28(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """MNIST's own image, white on black or black on white, saved as a JPEG."""
    return jpeg(Image.fromarray(digit if draw.integers(2) else 255 - digit), int(draw.integers(30, 80)))


def faint(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Ink 15 to 25 % darker than the paper."""
    return snapped(draw.uniform(170, 240) * (1 - draw.uniform(0.15, 0.25) * somewhere(digit, draw)), draw, 2.5)


def faint_on_dark(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Ink lighter than dark paper, by 15 to 25 % of white."""
    return snapped(draw.uniform(30, 90) + 255 * draw.uniform(0.15, 0.25) * somewhere(digit, draw), draw, 2.5)


def faint_and_uneven(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Ink 20 to 30 % darker than paper that is lit from one side."""
    sheet = somewhere(digit, draw)
    paper = draw.uniform(190, 240) * light(draw, *sheet.shape, draw.uniform(0.6, 0.8))
    return snapped(paper * (1 - draw.uniform(0.2, 0.3) * sheet), draw, 2.5)


def same_grey(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Red on green or blue on brown: as bright as each other, told apart by colour alone."""
    pen, paper = [((200, 60, 60), (60, 130, 70)), ((70, 90, 200), (140, 90, 40))][draw.integers(2)]
    return snapped(mixed(somewhere(digit, draw), pen, paper), draw)


def lit_from_one_side(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Four times as bright at one end as at the other."""
    sheet = somewhere(digit, draw)
    return snapped((240 - 195 * sheet) * light(draw, *sheet.shape, 0.25), draw)


def vignette(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Corners at 30 % of the middle's light."""
    rows, columns = np.mgrid[-1:1:300j, -1:1:400j]
    fall = 1 - 0.35 * (rows**2 + columns**2)
    return snapped((235 - 185 * somewhere(digit, draw, 300, 400)) * fall, draw)


def lamp(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A lamp's round spot, half as bright outside."""
    sheet = somewhere(digit, draw)
    rows, columns = np.indices(sheet.shape)
    row, column = draw.uniform(60, 260, 2)
    spot = 0.5 + 0.5 / (1 + np.exp((np.hypot(rows - row, columns - column) - draw.uniform(80, 160)) / 14))
    return snapped((240 - 190 * sheet) * spot, draw)


def blinds(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Three or so broad stripes of shade with soft edges, a third darker."""
    sheet = somewhere(digit, draw)
    rows, columns = np.mgrid[0:1:320j, 0:1:320j]
    angle = draw.uniform(0, np.pi)
    stripes = np.sin(
        2 * np.pi * (draw.uniform(1, 1.6) * (rows * np.cos(angle) + columns * np.sin(angle)) + draw.random())
    )
    return snapped((238 - 190 * sheet) * (0.83 + 0.17 * np.tanh(3 * stripes)), draw)


def blurred(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Out of focus: a Gaussian of 2 to 4 % of the digit's size."""
    longest = int(draw.integers(100, 180))
    sheet = blur(placed(enlarged(digit, longest), draw), longest * draw.uniform(0.02, 0.04))
    return snapped(232 - 185 * sheet, draw)


def shaken(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """The camera moved by 4 to 8 % of the digit's size."""
    longest = int(draw.integers(100, 180))
    sheet, angle, length = (
        placed(enlarged(digit, longest), draw),
        draw.uniform(0, np.pi),
        longest * draw.uniform(0.04, 0.08),
    )
    steps = [(round(np.sin(angle) * length * t), round(np.cos(angle) * length * t)) for t in np.linspace(-0.5, 0.5, 9)]
    return snapped(232 - 185 * np.mean([np.roll(sheet, step, (0, 1)) for step in steps], 0), draw)


def high_iso(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Noise of a tenth of white, in each colour."""
    return snapped(mixed(somewhere(digit, draw), (50, 50, 60), (200, 195, 185)), draw, 25, 92)


def specks(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Dust, as black as the ink: 25 specks of two to five pixels."""
    sheet = somewhere(digit, draw)
    for _ in range(25):
        row, column, size = (*draw.integers(0, 315, 2), int(draw.integers(2, 6)))
        sheet[row : row + size, column : column + size] = 1
    return snapped(232 - 185 * sheet, draw)


def crumpled(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """Paper in folds: its brightness varies by a fifth, softly and at edges."""
    sheet, folds = somewhere(digit, draw), np.ones((320, 320))
    rows, columns = np.indices(folds.shape)
    for _ in range(6):
        angle, at = draw.uniform(0, np.pi), draw.uniform(60, 260, 2)
        side = (rows - at[0]) * np.cos(angle) + (columns - at[1]) * np.sin(angle)
        folds *= 1 - 0.06 * (side > 0)
    return snapped((242 - 195 * sheet) * folds * (1 - 0.1 * clouds(draw, 320, 320, 8)), draw)


def shows_through(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """What was written on the back of the sheet shows, mirrored, with 15 % of the ink's contrast."""
    back = blur(somewhere(digit, draw)[:, ::-1], 2)
    return snapped(238 - np.maximum(190 * somewhere(digit, draw), 28 * back), draw)


def dark_corner(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """A finger before the lens: one corner is dark."""
    shape = enlarged(digit, int(draw.integers(90, 130)))
    sheet = np.zeros((320, 320))
    row, column = (int(draw.integers(30, 150)) for _ in range(2))
    sheet[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    rows, columns = np.indices(sheet.shape)
    finger = 1 / (1 + np.exp((np.hypot(rows - 340, columns - 340) - draw.uniform(50, 100)) / 5))
    values = mixed(finger, (120, 70, 60), mixed(sheet, (40, 40, 45), (228, 226, 222)))
    return snapped(values, draw)


def leaning(digit: np.ndarray, draw: np.random.Generator) -> bytes:
    """The camera was turned by up to eight degrees."""
    sheet = Image.fromarray(somewhere(digit, draw, 320, 320).astype(np.float32))
    turned = np.asarray(sheet.rotate(draw.uniform(-8, 8), Image.Resampling.BICUBIC), np.float64).clip(0, 1)
    return snapped(mixed(turned, PENS[draw.integers(len(PENS))], (228, 226, 222)), draw)


STYLES: list[Style] = [
    *FIRST,
    tight_crop,
    no_margin,
    tight_chalk,
    tight_at_size,
    tight_photograph,
    tight_brush,
    paper_on_dark_table,
    paper_on_black,
    paper_on_grey_table,
    paper_on_light_table,
    paper_on_wood,
    paper_on_cloth,
    paper_on_stone,
    yellow_note,
    slate_on_table,
    paper_in_shadow,
    ruled_paper_on_table,
    paper_off_the_edge,
    ruled,
    ruled_in_grey,
    ruled_with_margin,
    squared,
    squared_in_grey,
    dotted,
    in_a_box,
    in_a_round_box,
    in_a_row_of_boxes,
    box_cut_off,
    above_a_line,
    hair_thin,
    ballpoint,
    thin_and_small,
    felt_tip,
    brush,
    pencil,
    drying_marker,
    whiteboard,
    card_with_shadow,
    dark_card,
    ink_with_shadow,
    light_ink_with_glow,
    window,
    eight_bits,
    ten_bits,
    twelve_bits,
    sixteen_bits_noisy,
    sixteen_bits_colour,
    one_bit,
    four_bits,
    transparent_photograph,
    transparent_sticker,
    turned_by_exif,
    broken_exif,
    large_photograph,
    wide,
    tall,
    coarse_jpeg,
    jpeg_of_28,
    faint,
    faint_on_dark,
    faint_and_uneven,
    same_grey,
    lit_from_one_side,
    vignette,
    lamp,
    blinds,
    blurred,
    shaken,
    high_iso,
    specks,
    crumpled,
    shows_through,
    dark_corner,
    leaning,
]
