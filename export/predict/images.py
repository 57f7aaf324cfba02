"""Opens image files, directories of them and standard input."""

import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .description import Description
from .errors import PredictError, shown
from .model_file import read_limited

if TYPE_CHECKING:
    from PIL.Image import Image

    from distmnist.data.prepare import Preparation

MAX_STDIN_BYTES = 2**30
"""Of an image that is no digit: twice what the largest in colour takes uncompressed."""

DIGIT_FILES = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
IMAGE_FILES = re.compile(r"\.(avif|bmp|gif|hei[cf]|j2k|jfif|jp2|jpe?g?|p[bgnp]m|png|tga|tiff?|webp)$", re.IGNORECASE)
"""Names of the files that are read in a directory. At least those of distmnist/data/folder.py (tested)."""

MAX_DIGIT_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
"""Of an image of a digit, read off its header before any of it is unpacked. A telephone's photograph has 12 to 50
million (8160 x 6144). Of that size, a JPEG, which is unpacked at an eighth, takes 77 MB in all, a PNG in colour 460 MB,
one that is also transparent and turned by its EXIF block 650 MB (measured)."""


def sources(images: Iterable[str], is_mnist: bool) -> Iterator[tuple[str, str | bytes | PredictError]]:
    """(name, path or content) of each image; a directory is replaced by the image files in it, by name.

    is_mnist: PNG and JPEG alone. Hidden files are not content: macOS leaves ._1.png beside 1.png on disks of other
    systems.
    """
    files, kinds, limit = (
        (DIGIT_FILES, "a PNG or JPEG", MAX_DIGIT_BYTES) if is_mnist else (IMAGE_FILES, "an image", MAX_STDIN_BYTES)
    )
    for name in images:
        try:
            if name == "-":
                yield name, read_limited(sys.stdin.buffer, limit, "standard input")
            elif os.path.isdir(name):
                inside = sorted(entry for entry in os.listdir(name) if files.search(entry) and entry[0] != ".")
                if not inside:
                    raise PredictError(f"is a directory without {kinds} file")
                yield from ((path, path) for path in (os.path.join(name, entry) for entry in inside))
            else:
                yield name, name
        except OSError as error:
            yield name, PredictError(f"cannot be read: {error.strerror}")
        except PredictError as error:
            yield name, error


# Any image -----------------------------------------------------------------------------------------------------------


def prepare_module() -> ModuleType:
    """The one preparation of image files: predict/prepare.py where the package is deployed, which is a copy of
    distmnist/data/prepare.py. It imports Pillow.
    """
    try:
        return importlib.import_module(".prepare", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.prepare":  # Pillow is missing
            raise
    return importlib.import_module("distmnist.data.prepare")


def make_preparation(described: Description) -> "Preparation":
    """What image files are brought to. Raises PredictError: not what training could have done."""
    channels, height, width = described.shape
    module = prepare_module()
    if described.preparation is None:
        return module.Preparation(height=height, width=width, resize_mode="squash", channels=channels)
    try:
        preparation = module.Preparation.from_json(described.preparation)
    except ValueError as error:
        raise PredictError(f"the model has a preparation that is unknown here: {shown(str(error)[:200])}") from None
    if (preparation.channels, preparation.height, preparation.width) != described.shape:
        raise PredictError("the model has a preparation that does not make images of its shape")
    return preparation


def check_decoder(described: Description) -> list[str]:
    """A warning if this Pillow is not the one that decoded the images of training, which the proof used, too."""
    if described.preparation is None or described.decoder is None:
        return []
    import PIL

    here = f"Pillow {PIL.__version__}"
    if described.decoder == here:
        return []
    return [f"{here} decodes images here, {shown(described.decoder)} did in training: pixels may differ slightly"]


def read_pixels(source: "str | os.PathLike[str] | bytes | Image", preparation: "Preparation") -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]: bit for bit what training makes of the file. Raises PredictError."""
    module = prepare_module()
    try:
        if isinstance(source, str | os.PathLike):
            content: Path | bytes = Path(source)
        else:
            content = source if isinstance(source, bytes) else file_of(source)
        planes = module.prepare(content, preparation)
    except module.ImageError as error:
        raise PredictError(shown(str(error))) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise PredictError(f"cannot be read: {getattr(error, 'strerror', None) or shown(str(error))}") from error
    return planes[0] if preparation.channels == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))


def file_of(image: "Image") -> bytes:
    """A Pillow image as a file that holds all of its bits and its orientation."""
    buffer = io.BytesIO()
    kind = "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    image.save(buffer, kind, exif=image.getexif())
    return buffer.getvalue()


# MNIST's digits ------------------------------------------------------------------------------------------------------


def open_digit(source: "str | os.PathLike[str] | bytes | Image") -> "Image":
    """A Pillow image, upright, unpacked. Raises PredictError: not a PNG or JPEG, damaged, too large, animated."""
    from PIL import Image

    from .raster import WORKING

    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, bytes):
        try:
            with open(source, "rb") as file:
                source = read_limited(file, MAX_DIGIT_BYTES, "the file")
        except OSError as error:
            raise PredictError(f"cannot be read: {error.strerror}") from error
    if not source:
        raise PredictError("is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused or dealt with here
        try:
            image = Image.open(io.BytesIO(source), formats=("PNG", "JPEG"))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PredictError(f"has {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
            if image.format == "PNG" and getattr(image, "is_animated", False):
                raise PredictError(f"is animated ({getattr(image, 'n_frames', 'several')} frames); save one of them")
            image.draft(None, (4 * WORKING, 4 * WORKING))
            image.load()
            return upright(image)
        except Image.UnidentifiedImageError:
            raise PredictError("is not a PNG or JPEG image") from None
        except Image.DecompressionBombError:
            raise PredictError(f"has more than {MAX_PIXELS:,} pixels") from None
        except PredictError:
            raise
        except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, struct.error, zlib.error ...
            raise PredictError(f"is damaged: {str(error) or type(error).__name__}".splitlines()[0]) from error


def upright(image: "Image") -> "Image":
    """The image turned as its EXIF block says; as it is if that block is damaged, which viewers do, too."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever the block's decoder fails with: SyntaxError, struct.error, ValueError ...
        return image
