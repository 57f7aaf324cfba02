"""Small image files of noise, alone and in trees as users have them."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def photo(path: Path, height: int = 4, width: int = 5, *, seed: int = 0) -> Path:
    """Writes `pixels` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width, seed)).save(path, "PNG")
    return path


def tree(root: Path, *splits: str, classes: tuple[str, ...] = ("cat", "dog"), count: int = 4, **size: int) -> Path:
    """`count` photos, all different, in each class folder of each split; without splits, in class folders alone."""
    seed = 0
    for split in splits or (".",):
        for name in classes:
            for number in range(count):
                photo(root / split / name / f"{number}.png", seed=seed, **size)
                seed += 1
    return root
