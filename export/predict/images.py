"""Opens image files, directories of them and standard input."""

import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .errors import PredictError
from .model_file import read_limited
from .raster import WORKING

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGE_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
"""Of an image, read off its header before any of it is unpacked. A telephone's photograph has 12 to 50 million (8160 x
6144). Of that size, a JPEG, which is unpacked at an eighth, takes 77 MB in all, a PNG in colour 460 MB, one that is
also transparent and turned by its EXIF block 650 MB (measured)."""


def open_image(source: "str | os.PathLike[str] | bytes | Image") -> "Image":
    """A Pillow image, upright, unpacked. Raises PredictError: not a PNG or JPEG, damaged, too large, animated."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, bytes):
        try:
            with open(source, "rb") as file:
                source = read_limited(file, MAX_IMAGE_BYTES, "the file")
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


def sources(images: Iterable[str]) -> Iterator[tuple[str, str | bytes | PredictError]]:
    """(name, path or content) of each image; a directory is replaced by the PNG and JPEG files in it, by name.

    Hidden files are not content: macOS leaves ._1.png beside 1.png on disks of other systems.
    """
    for name in images:
        try:
            if name == "-":
                yield name, read_limited(sys.stdin.buffer, MAX_IMAGE_BYTES, "standard input")
            elif os.path.isdir(name):
                inside = sorted(
                    entry
                    for entry in os.listdir(name)
                    if entry.lower().endswith((".png", ".jpg", ".jpeg")) and not entry.startswith(".")
                )
                if not inside:
                    raise PredictError("is a directory without a PNG or JPEG file")
                yield from ((path, path) for path in (os.path.join(name, entry) for entry in inside))
            else:
                yield name, name
        except OSError as error:
            yield name, PredictError(f"cannot be read: {error.strerror}")
        except PredictError as error:
            yield name, error
