"""Turns an image file into uint8 pixels: the same bits for training, evaluation, the proof and the deployed predictor.

Imports only numpy and Pillow (10 or later): it is shipped beside exported models and runs there without distmnist.
"The same bits" means: with one version of Pillow. The rules:

- Format: one of `FORMATS`, recognized by content, never by name. Of several frames or pages, the first.
- Limits: an image without pixels, or with more than `MAX_PIXELS`, is refused before it is decoded.
- Damage: a truncated or damaged file is refused; missing pixels are never filled in.
- Orientation: EXIF's is applied.
- Transparency: alpha, a transparent colour and a palette's transparency are composited on white, before resizing.
  (Pillow misses the transparent colour of 2- and 4-bit grey, of 1-bit grey in some versions, and of 16-bit RGB.)
- Colour: palette, CMYK, YCbCr, LAB and HSV become RGB by Pillow's own conversion. ICC profiles are ignored.
- Depth: 1 bit becomes 0 or 255. 16-bit grey is divided by 257 and rounded to the nearest integer. 16-bit colour is
  reduced to 8 bits by Pillow as it reads. Floating-point pixels and integers outside 0 to 65535 are refused.
- Grey: L = (299 R + 587 G + 114 B) / 1000, ITU-R 601-2, as Pillow's `convert("L")` rounds it. Grey as RGB is repeated.
- Size: one bilinear, antialiased `Image.resize`, see `Preparation`. An image that fits already is not resampled.
"""

import dataclasses
import io
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names. The list is fixed: Pillow runs Ghostscript for EPS, and reads more where a plugin is installed."""

MAX_PIXELS = 178_956_970
"""Where Pillow raises DecompressionBombError: twice 89,478,485, the default of its Image.MAX_IMAGE_PIXELS."""

RESIZE_MODES = ("squash", "crop", "pad")

_warnings_lock = threading.Lock()


class ImageError(ValueError):
    """The image cannot be used. The message is one line without the path, to be put after it: "is empty"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """Size in pixels, and channels (1 grey, 3 RGB), that every image is brought to. ValueError for other values.

    resize_mode: "squash" ignores the aspect ratio. "crop" scales the largest centred box of the right aspect ratio,
    whose edges may lie at fractions of a pixel. "pad" scales the longer side to fit, rounds the other to the nearest
    pixel, half up, and adds black equally on both sides, an odd row or column at the bottom or right.
    """

    height: int
    width: int
    resize_mode: str
    channels: int

    def __post_init__(self) -> None:
        if any(type(value) is not int for value in (self.height, self.width, self.channels)):  # true would pass as 1
            raise ValueError(f"height, width and channels of {self} are not all integers")
        if min(self.height, self.width) < 1 or self.height * self.width > MAX_PIXELS:
            raise ValueError(f"size {self.height}x{self.width} is not between 1 and {MAX_PIXELS:,} pixels")
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode {self.resize_mode!r} is not one of {', '.join(RESIZE_MODES)}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels {self.channels} is not 1 or 3")

    def to_json(self) -> dict[str, int | str]:
        """The fields, by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> "Preparation":
        """What `to_json` returned. Raises ValueError, for an unknown field too: it may ask for other bits."""
        match stored:
            case {"height": int(h), "width": int(w), "resize_mode": str(mode), "channels": int(c)} if len(stored) == 4:
                return cls(height=h, width=w, resize_mode=mode, channels=c)
        raise ValueError(f"not a preparation with height, width, resize_mode and channels: {dict(stored)}")


def prepare(
    source: Path | bytes, preparation: Preparation, out: np.ndarray | None = None, *, any_size: bool = True
) -> np.ndarray:
    """uint8 [channels, height, width], C-contiguous and writable: the image in a file, or in a file's content.

    out: an array of that kind to write to and return; any_size: or else an upright image of another size is refused,
    which `measure` finds first unless the orientation comes after the pixels.

    Raises ImageError for an image that the rules refuse, and OSError for a file that cannot be opened.
    """
    with _opened(source) as image:
        image.load()
        flat = _as_mode("L" if preparation.channels == 1 else "RGB", _on_white(image))
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow's reader turns those itself
        if orientation != 1:
            # exif_transpose rewrites all of the EXIF, and raises on unusual entries: it gets the orientation alone.
            flat = flat.copy()
            flat.info = {}
            flat.getexif()[ExifTags.Base.Orientation] = orientation
            flat = ImageOps.exif_transpose(flat)
        height, width, channels = preparation.height, preparation.width, preparation.channels
        if not any_size and flat.size != (width, height):
            raise ImageError(f"is {flat.height} x {flat.width} once it is turned upright; give all images one size")
        pixels = np.asarray(_resize(flat, preparation)).reshape(height, width, channels)
        out = np.empty((channels, height, width), np.uint8) if out is None else out
        np.copyto(out, pixels.transpose(2, 0, 1))
        return out


def measure(source: Path | bytes) -> tuple[int, int]:
    """(height, width) in pixels of the upright image, from the file's header alone. Raises what `prepare` raises.

    What comes after the header is not seen: damage, and the orientation where a PNG has its EXIF after the pixels.
    """
    with _opened(source) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # `size` is as stored or upright, as the version has it
            width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[ImageFile.ImageFile]:
    """The image, its header read and its size checked. What Pillow raises, here or in the block, becomes ImageError."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        start = file.read(12)
        try:
            if not start:
                raise ImageError("is empty")
            if ImageFile.LOAD_TRUNCATED_IMAGES:  # Pillow would fill in missing pixels and say nothing
                raise ImageError("cannot be checked for damage: set PIL.ImageFile.LOAD_TRUNCATED_IMAGES to False")
            Image.init()  # registers every format, or AVIF would be a KeyError before Pillow 11.2
            with _without_warnings():
                image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
                if image.format == "TIFF":
                    image.getexif()  # reads the tags, which decoding would do with warnings
            if image.width * image.height > MAX_PIXELS:  # Pillow's own limit can be changed
                raise ImageError(f"has {image.width * image.height:,} pixels, more than {MAX_PIXELS:,}")
            yield image
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            if start[4:].startswith((b"ftyphe", b"ftypmif1", b"ftypmsf1", b"ftypavi")):  # ISO/IEC 23008-12, and AVIF
                raise ImageError("is HEIC or AVIF, which this Pillow cannot read; convert it to JPEG or PNG") from error
            raise ImageError(f"is damaged, or not an image in a supported format ({', '.join(FORMATS)})") from error
        except Exception as error:  # Pillow's readers check little: damage shows as KeyError, MemoryError and the like
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ImageError(f"cannot be decoded: {reason}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores Pillow's warnings about headers, so that `python -W error` does not turn them into refusals.

    catch_warnings is not thread-safe, hence the lock. Decoding stays outside: threads decode in parallel.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF's or XMP's, as far as the file has been read: PNG's own getexif would decode the image."""
    with _without_warnings():
        orientation: int = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return orientation


def _on_white(image: Image.Image) -> Image.Image:
    """Without transparency, and with 8 bits a channel or 1."""
    if image.mode == "F":
        raise ImageError("has floating-point pixels; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("has integers outside 0 to 65535; convert it to 8 or 16 bits")
        if "transparency" in image.info:
            values[values == image.info["transparency"]] = 65535
        return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(colours, mask=colours)
        return white
    return image if image.mode in ("1", "L") else _as_mode("RGB", image)


def _as_mode(mode: str, image: Image.Image) -> Image.Image:
    """Not a copy where the mode is the same: copies would take as long as a third of the decoding of a small JPEG."""
    return image if image.mode == mode else image.convert(mode)


def _resize(image: Image.Image, preparation: Preparation) -> Image.Image:
    """Mode L or RGB. Where box and target have the same size, pixels stay as they are."""
    (width, height), bilinear = image.size, Image.Resampling.BILINEAR
    to_width, to_height = size = preparation.width, preparation.height
    if image.size == size:
        return image
    if preparation.resize_mode == "squash":
        return image.resize(size, bilinear)
    if preparation.resize_mode == "crop":
        across, down = min(width, height * to_width / to_height), min(height, width * to_height / to_width)
        box = ((width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2)
        return image.resize(size, bilinear, box)
    if width * to_height >= height * to_width:
        to_height = max(1, (2 * height * to_width + width) // (2 * width))
    else:
        to_width = max(1, (2 * width * to_height + height) // (2 * height))
    canvas = Image.new(image.mode, size)
    canvas.paste(image.resize((to_width, to_height), bilinear), ((size[0] - to_width) // 2, (size[1] - to_height) // 2))
    return canvas
