"""Small labelled pictures, made up: folders of class folders, CSV and npz files of them."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def picture(label: int, number: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """uint8 [H, W, 3]: one colour for each label under noise of its own."""
    noise = np.random.default_rng([label, number]).integers(0, 60, (*size, 3))
    colour = 60 * np.eye(3)[label % 3] + 40 * (label // 3)
    return (noise + colour).astype(np.uint8)


def fill(
    folder: Path, count: int, *, classes: tuple[str, ...] = CLASSES, size: tuple[int, int] = (12, 16), first: int = 0
):
    """`count` PNG files of each class in `folder`, each in its class's folder. Returns `folder`."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            Image.fromarray(picture(label, number, size)).save(folder / name / f"{number:04}.png")
    return folder


def photos(folder: Path, train: int = 20, test: int = 6, **more) -> Path:
    """A folder with train/ and test/, so many files of each class in them."""
    fill(folder / "train", train, **more)
    fill(folder / "test", test, first=10_000, **more)
    return folder


def arrays(train: int = 20, test: int = 6) -> dict[str, np.ndarray]:
    """The same as `photos`, as an npz file has them."""
    parts = {}
    for split, count, first in (("train", train, 0), ("test", test, 10_000)):
        numbered = [(label, number) for label in range(len(CLASSES)) for number in range(first, first + count)]
        parts[f"{split}_images"] = np.stack([picture(*one) for one in numbered])
        parts[f"{split}_labels"] = np.array([label for label, _ in numbered])
    return parts | {"class_names": np.array(CLASSES)}
