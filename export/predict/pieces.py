"""Finds the digit on an image among paper, tables, lines and boxes.

An image is cut at several levels into connected pieces of what is darker than its surroundings, and of what is
lighter. A digit is a piece with an edge all around, made of strokes, whole in the image, with nothing of its kind in
it. The limits below are from development seeds of benchmarks/pictures.py; its held-back seeds test them.
"""

import dataclasses

import numpy as np

from .raster import WORKING, box, dilated, edge_depth, grown, ink_depth, labelled, noise_of, shrunk

BLANK, SEVERAL = "blank: no ink found", "several blobs: the largest was read"

LEVELS = (0.06, 0.09, 0.13, 0.19, 0.27, 0.38, 0.52, 0.7)
"""Depths at which pieces are cut out, as shares of the paper's brightness; each is about 1.4 times the last."""


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A connected piece of what is darker, or lighter, than the paper around it by more than `level`.

    It is where labels, int [h, w], have this number. box: top, bottom, left, right, the latter exclusive. depth: the
    most by which it differs from paper; strength: the mean depth along the middle of its strokes. support: the share of
    its outline where the image has an edge; whole: the share of its outline that the image's border does not cut.
    girth: the side of the largest square in it, in pixels.
    """

    light: bool
    level: float
    labels: np.ndarray
    number: int
    box: tuple[int, int, int, int]
    area: int
    depth: float
    strength: float
    support: float
    whole: float
    girth: int

    @property
    def mask(self) -> np.ndarray:
        return self.labels == self.number

    @property
    def inside(self) -> bool:
        top, bottom, left, right = self.box
        return min(top, left) > 0 and bottom < self.labels.shape[0] and right < self.labels.shape[1]

    @property
    def height(self) -> int:
        return self.box[1] - self.box[0]

    @property
    def width(self) -> int:
        return self.box[3] - self.box[2]

    @property
    def size(self) -> float:
        return float(self.height * self.width) ** 0.5

    @property
    def salience(self) -> float:
        """High for what is large and strong and has edges. A line is long, but not large."""
        return self.support**8 * self.strength**2 * self.size

    @property
    def score(self) -> float:
        """Salience, three times that if it is off the image's border; otherwise less, the more the border cuts it."""
        return (3 if self.inside else 1) * self.whole**6 * self.salience

    def may_be_strokes(self) -> bool:
        return self.support >= 0.6 and self.girth <= max(3, 0.34 * max(self.height, self.width))

    def may_be_a_blot(self) -> bool:
        """Thicker than strokes, not as thick as a sheet."""
        thickest = 0.55 * max(self.height, self.width)
        return self.inside and self.support > 0.95 and not self.may_be_strokes() and self.girth <= thickest

    def is_thin(self) -> bool:
        return self.support > 0.93 and self.girth - 1 <= 0.3 * max(self.height, self.width)

    def is_compact(self) -> bool:
        """Whether filling it across and down adds little, as with a one and with what a digit's stroke encloses."""
        mask = self.mask
        filled = max(np.count_nonzero(filled_along(mask)), np.count_nonzero(filled_along(mask.T)))
        return bool(filled <= 1.25 * self.area)

    def surrounds(self, other: "Piece") -> bool:
        """Whether this piece is above, below, left and right of the other's box, on the lines of its middle."""
        low, high = other.box[::2], other.box[1::2]
        if not all(a < b and c < d for a, b, c, d in zip(self.box[::2], low, high, self.box[1::2], strict=True)):
            return False
        row, column = (sum(ends) // 2 for ends in zip(low, high, strict=True))
        across, down = self.labels[row] == self.number, self.labels[:, column] == self.number
        return bool(
            across[: low[1] - 1].any()
            and across[high[1] + 1 :].any()
            and down[: low[0] - 1].any()
            and down[high[0] + 1 :].any()
        )


def find_digit(plane: np.ndarray) -> tuple[np.ndarray, float, list[str]] | None:
    """float32 [h, w] -> where the digit is, bool [h, w]; what is relative in Found; warnings. None: it is blank."""
    pieces: list[Piece] = []
    for light in (False, True):
        depth = ink_depth(plane, light)
        edged = edge_depth(plane, light) > 0.5 * dilated(depth, 2)
        # As a share of the lighter of the two, ink or paper: the same for ink and for what it encloses.
        contrast = dilated(depth * 255 / np.maximum(plane, 32) if light else depth, 2)
        lowest, highest = 5 * noise_of(plane, light), depth.max()
        for level in LEVELS:
            if lowest < level < highest:
                pieces += pieces_at(depth, contrast, edged, level, light)
    strokes = without_frames([piece for piece in pieces if piece.may_be_strokes()])
    blots = [piece for piece in pieces if piece.may_be_a_blot()]
    if max((blot.salience for blot in blots), default=0) > 4 * max((piece.salience for piece in strokes), default=0):
        strokes = blots  # a digit written so bold that its strokes have run together, and what they leave between them
    if not strokes:
        return None
    best = most_like_a_digit(strokes)
    same = [piece for piece in strokes if piece.light == best.light]
    mask = best.mask
    best = next(  # at the lowest level at which it is still by itself: with its faintest strokes
        piece
        for piece in sorted(same, key=lambda piece: piece.level)
        if piece.inside == best.inside
        and piece.score >= 0.8 * best.score
        and piece.strength >= 0.9 * best.strength
        and (piece.mask & mask).any()
    )
    digit = with_what_is_near(best.mask, parts(best))
    others = [
        piece
        for piece in same
        if piece.level == best.level
        and (piece.inside or not best.inside)
        and piece.score > 0.4 * best.score
        and piece.strength > 0.5 * best.strength
        and not (piece.mask & digit).any()
    ]
    return digit, best.level / best.depth, [SEVERAL] if others else []


def most_like_a_digit(strokes: list[Piece]) -> Piece:
    """The piece with the highest score; ink rather than what it encloses, and rather than what encloses it."""
    best = max(strokes, key=lambda piece: piece.score)
    mask = best.mask
    if best.inside:  # or is it a part of a digit that the image's border cuts? Then the whole of it is about as strong
        whole = [
            piece
            for piece in strokes
            if not piece.inside
            and piece.light == best.light
            and piece.is_thin()
            and piece.size < 3 * best.size
            and piece.salience > 1.2 * best.salience
            and 1.25 * piece.strength > best.strength
            and (piece.mask & mask).any()
        ]
        best = max(whole, key=lambda piece: piece.score, default=best)
    else:  # or is it weaker lines across the image, and the digit on them? Then that is there at a higher level
        on_lines = [
            piece
            for piece in strokes
            if piece.inside
            and piece.light == best.light
            and piece.score > 0.3 * best.score
            and piece.strength > 1.25 * best.strength
            and (piece.mask & mask).any()
        ]
        best = max(on_lines, key=lambda piece: piece.score, default=best)
    for piece in sorted(strokes, key=lambda piece: -piece.salience):
        if piece.light == best.light or piece.salience < 0.1 * best.salience:
            continue
        if encloses(piece, best) and is_counter(best, piece):
            return piece
        if encloses(best, piece) and is_ink(piece, best):
            return piece
    return best


def is_counter(inner: Piece, outer: Piece) -> bool:
    """Whether `inner` is paper that the stroke `outer` encloses, as in a nought, not ink on a sheet that encloses it.

    A sheet is many times as large as a digit that could be taken for a counter, which is a one.
    """
    if outer.area > 8 * inner.area or outer.size > 5 * inner.size:
        return False
    return outer.is_thin() and inner.is_compact() and not outer.is_compact()


def is_ink(inner: Piece, outer: Piece) -> bool:
    """Whether `inner` is ink on the sheet `outer`, not paper that the stroke `outer` encloses.

    A sheet is wide and fills most of its box. If `outer` is none, what it encloses is ink if that is no compact counter
    and nearly as salient.
    """
    if not inner.inside or inner.support <= 0.9:
        return False
    filled = (outer.area + inner.area) / (outer.height * outer.width)
    if not outer.is_thin() and filled > 0.75:
        return True
    return not inner.is_compact() and inner.salience > 0.36 * outer.salience


def encloses(outer: Piece, inner: Piece) -> bool:
    """Whether `outer`, of the other kind, runs along nearly all of the outline of `inner`."""
    if not all((a - b) * way >= 0 for a, b, way in zip(inner.box, outer.box, (1, -1, 1, -1), strict=True)):
        return False  # its box is not within the other's
    mask = inner.mask
    outline = mask & ~shrunk(mask, 1)
    return bool(np.count_nonzero(grown(outer.labels >= 0, 3) & outline) > 0.85 * np.count_nonzero(outline))


def without_frames(strokes: list[Piece]) -> list[Piece]:
    """Without pieces that have something of their kind and of some size within them, as printed boxes and no digits do.

    Without parts of such a frame, too, that are found at another level.
    """
    kept = strokes
    for light in (False, True):
        same = [piece for piece in strokes if piece.light == light]
        for frame in same:
            least, mask = 0.35 * min(frame.height, frame.width), frame.mask
            if any(
                max(other.height, other.width) > least and frame.surrounds(other) and not (other.mask & mask).any()
                for other in same
            ):
                kept = [
                    piece
                    for piece in kept
                    if piece.light != light or not (piece.mask & mask).any() or frame.surrounds(piece)
                ]
    return kept


def filled_along(mask: np.ndarray) -> np.ndarray:
    """bool [h, w]: each row from its first true pixel to its last."""
    ahead, behind = np.logical_or.accumulate(mask, 1), np.logical_or.accumulate(mask[:, ::-1], 1)
    return ahead & behind[:, ::-1]


def parts(piece: Piece) -> np.ndarray:
    """bool [h, w]: the piece and others of its level that may be strokes of the same digit: no larger, and near it."""
    top, bottom, left, right = piece.box
    reach = round(0.3 * max(piece.height, piece.width))
    nearby = piece.labels[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach]
    found = np.zeros(piece.labels.shape, bool)
    for number in np.unique(nearby[nearby >= 0]).tolist():
        part = piece.labels == number
        low, high, first, last = box(part)
        cut = min(low, first) == 0 or high == part.shape[0] or last == part.shape[1]
        if high - low <= piece.height and last - first <= piece.width and not (cut and piece.inside):
            found |= part
    return found


def with_what_is_near(largest: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """The largest piece, bool [h, w], with what of `everything` lies within 16 % of its size, or of each other."""
    top, bottom, left, right = box(largest)
    near = max(1, round(0.08 * max(bottom - top, right - left)))
    everything = everything | largest
    labels, _ = labelled(grown(everything, near))
    return everything & (labels == labels[largest][0])


def pieces_at(depth: np.ndarray, contrast: np.ndarray, edged: np.ndarray, level: float, light: bool) -> list[Piece]:
    """The connected pieces of `depth > level`, those of a few pixels left out. edged: where the image has an edge."""
    mask = depth > level
    labels, count = labelled(mask)
    rows, columns = np.nonzero(mask)
    number = labels[mask]
    areas = np.bincount(number, minlength=count)
    depths, top, left = np.zeros(count), np.full(count, mask.shape[0]), np.full(count, mask.shape[1])
    bottom, right = np.zeros(count, int), np.zeros(count, int)
    np.maximum.at(depths, number, depth[mask])
    np.minimum.at(top, number, rows)
    np.minimum.at(left, number, columns)
    np.maximum.at(bottom, number, rows + 1)
    np.maximum.at(right, number, columns + 1)
    outline = mask & ~shrunk(mask, 1)
    outline[[0, -1]] = outline[:, [0, -1]] = False
    ends = np.bincount(labels[outline], minlength=count)
    support = np.bincount(labels[outline], edged[outline], count) / np.maximum(ends, 1)
    strength = np.bincount(number, contrast[mask], count) / areas
    border = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    cut = np.bincount(border[border >= 0], minlength=count)
    whole = ends / np.maximum(ends + cut, 1)
    girth, core = np.zeros(count, int), mask
    for side in range(1, WORKING, 2):
        girth[labels[core]] = side
        core = shrunk(core, 1)
        if not core.any():
            break
    boxes = np.stack([top, bottom, left, right], 1).tolist()
    measures = zip(
        boxes,
        areas.tolist(),
        depths.tolist(),
        strength.tolist(),
        support.tolist(),
        whole.tolist(),
        girth.tolist(),
        strict=True,
    )
    pieces = [Piece(light, level, labels, number, tuple(box_), *rest) for number, (box_, *rest) in enumerate(measures)]
    return [piece for piece in pieces if max(piece.height, piece.width) >= 0.03 * WORKING]
