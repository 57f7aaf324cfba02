"""Operations on images as arrays: connected pieces, colours, depth of ink, and the like."""

import numpy as np

WORKING = 160
"""Side, in pixels, of a square with as many pixels as the image in which a digit is looked for: strokes like MNIST's, a
tenth of a digit, are then some pixels wide if it fills a third of the image."""
FIT, SIDE, CENTRE = 20, 28, 14.0
"""MNIST: the digit's longest side, the image's side, and where the centre of mass goes (LeCun et al., 1998)."""


def labelled(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected pieces of bool [h, w], corners touching: int [h, w], 0, 1 ... and -1 outside; and how many they are.

    Runs of each row are joined with those that they touch in the row above: of two that touch, the root of the later
    becomes the root of the earlier, until all agree.
    """
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    runs = np.where(mask, starts.cumsum().reshape(mask.shape) - 1, -1)
    here, above = runs[1:], runs[:-1]
    straight = (starts[1:] | starts[:-1]) & mask[1:] & mask[:-1]  # one place for each two runs that overlap is enough
    to_left, to_right = mask[1:, 1:] & mask[:-1, :-1], mask[1:, :-1] & mask[:-1, 1:]
    a = np.concatenate([here[straight], here[:, 1:][to_left], here[:, :-1][to_right]])
    b = np.concatenate([above[straight], above[:, :-1][to_left], above[:, 1:][to_right]])
    roots = np.arange(int(starts.sum()) + 1)  # the last is that of -1, outside
    while (apart := roots[a] != roots[b]).any():
        a, b = a[apart], b[apart]
        np.minimum.at(roots, np.maximum(roots[a], roots[b]), np.minimum(roots[a], roots[b]))
        while ((further := roots[roots]) != roots).any():
            roots = further
    names = np.cumsum(roots == np.arange(len(roots))) - 1
    names[-1] = count = names[-1]
    numbers = names[roots]
    numbers[-1] = -1
    return numbers[runs], int(count)


def main_axis(planes: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] -> float [c]: the colours along which the image changes most from place to place."""
    if planes.shape[2] == 1:
        return np.ones(1)
    changes = np.concatenate(
        [np.diff(planes[::2], axis=1).reshape(-1, 3), np.diff(planes[:, ::2], axis=0).reshape(-1, 3)]
    )
    axis = np.linalg.eigh(changes.T @ changes)[1][:, -1]
    return axis if axis.sum() > 0 else -axis


def toned(planes: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """float32 [h, w, c] -> float32 [h, w] in 0 to 255: the colours along an axis; a negative one is inverted."""
    weights = (np.abs(axis) / max(np.abs(axis).sum(), 1e-9)).astype(np.float32)
    return np.where(axis < 0, 255 - planes, planes).astype(np.float32) @ weights


def smoothed(plane: np.ndarray) -> np.ndarray:
    """Its noise blurred where the image is large enough for that."""
    return blurred(plane, 1) if min(plane.shape) > 2 * SIDE else plane


def ink_depth(plane: np.ndarray, light: bool) -> np.ndarray:
    """float32 [h, w] -> float32 [h, w]: by how much it is lighter, or darker, than the paper, as a share; else 0.

    Paper is what is left when everything narrower than a third of the image has been filled in, so shadows wider than
    that belong to it, hard-edged or soft. Its noise lifts it to its peaks, by much the same everywhere.
    """
    reach = round(plane.size**0.5 / 6)
    if light:
        depth = (plane - dilated(eroded(plane, reach), reach)) / 255
    else:
        paper = eroded(dilated(plane, reach), reach)
        depth = (paper - plane) / np.maximum(paper, 32)
    return np.maximum(depth - np.percentile(depth, 25), 0)


def edge_depth(plane: np.ndarray, light: bool) -> np.ndarray:
    """float32 [h, w] -> float32 [h, w]: by how much the image changes within two pixels, in the units of depth."""
    high, low = dilated(plane, 2), eroded(plane, 2)
    change = (high - low) / (255 if light else np.maximum(high, 32))
    return change


def noise_of(plane: np.ndarray, light: bool) -> float:
    """The standard deviation of the noise left by `smoothed`, in the units of depth.

    1.48 makes a median of magnitudes a standard deviation; of noise that was white before, blurring twice by three
    pixels leaves 0.53 between the first result and the second.
    """
    left = float(np.median(np.abs(plane - blurred(plane, 1)))) * 1.48 / 0.53
    return left / (255 if light else max(float(np.median(plane)), 32))


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    return dilated(mask, reach).astype(bool)


def shrunk(mask: np.ndarray, reach: int) -> np.ndarray:
    return ~grown(~mask, reach)


def dilated(plane: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` pixels, down and across: a square window, by doubling ever wider ones."""
    window = 2 * reach + 1
    for _ in (0, 1):
        wide, size = continued(plane, reach, reach), 1
        while 2 * size <= window:
            wide, size = np.maximum(wide[:-size], wide[size:]), 2 * size
        plane = np.maximum(wide[: len(plane)], wide[window - size : window - size + len(plane)]).T
    return plane


def eroded(plane: np.ndarray, reach: int) -> np.ndarray:
    return -dilated(-plane, reach)


def blurred(plane: np.ndarray, reach: int) -> np.ndarray:
    """The mean within `reach` pixels, the image being continued by its border."""
    size = 2 * reach + 1
    for _ in (0, 1):
        sums = continued(plane, reach + 1, reach).cumsum(0, dtype=np.float64)
        plane = ((sums[size:] - sums[:-size]) / size).astype(np.float32).T
    return plane


def continued(plane: np.ndarray, before: int, after: int) -> np.ndarray:
    """The first row repeated `before` times above, the last one `after` times below. Many times as fast as np.pad."""
    return plane[np.minimum(np.maximum(np.arange(-before, len(plane) + after), 0), len(plane) - 1)]


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right of what is true; bottom and right exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def resized(planes: np.ndarray, longest: int) -> np.ndarray:
    """float32 [h, w, c] with its longer side `longest`, each pixel the mean of what it covers."""
    height, width = planes.shape[:2]
    if max(height, width) == longest:
        return planes
    from PIL import Image

    size = max(1, round(width * longest / max(height, width))), max(1, round(height * longest / max(height, width)))
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in np.moveaxis(planes, 2, 0)],
        2,
    )
