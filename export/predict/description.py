"""What an ONNX file says of its model's images, in the `metadata_props` that export/provenance.py writes."""

import dataclasses
import json
import math
from collections.abc import Mapping

from .errors import PredictError, shown

DIGITS = tuple("0123456789")

MAX_TEXT = 16 * 2**20
"""Characters of JSON: a hundred thousand classes need a tenth of it."""

MAX_NAME = 1000
MAX_PIXELS = 2**26
"""Of one image of the model, so that a float32 copy in colour stays below 1 GB."""


@dataclasses.dataclass(frozen=True)
class Description:
    """shape: channels (1 or 3), height, width; class_names: by index; mean, std: per channel, of pixels scaled to 0..1.

    mean and std are None where the file does not say them. preparation: as stored, not yet checked, None for images
    that came as pixels; decoder: name and version of what decoded the image files of training, None without any.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    preparation: dict[str, object] | None = None
    decoder: str | None = None

    @property
    def is_mnist(self) -> bool:
        """Whether images of any kind are turned into MNIST's digits: by the name, which no other data set has."""
        return self.name in ("mnist", "mnist-sample") and (self.shape, self.class_names) == ((1, 28, 28), DIGITS)


def read_description(metadata: Mapping[str, str]) -> Description:
    """From the metadata of an ONNX file, which may be anyone's. Raises PredictError: one line."""
    text = metadata.get("dataset", "{}")
    if len(text) > MAX_TEXT:
        raise PredictError(f"the model describes its data set in {len(text):,} characters; the limit is {MAX_TEXT:,}")
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong("dataset is not JSON") from None
    if not isinstance(stored, dict):
        raise wrong("dataset is not an object")
    if not stored.keys() & {"shape", "class_names"}:  # the first edition knew MNIST alone
        mnist_mean, mnist_std = number(metadata.get("mean")), number(metadata.get("std"))
        if mnist_mean is None or not mnist_std:
            return Description("mnist", (1, 28, 28), DIGITS, None, None)
        return Description("mnist", (1, 28, 28), DIGITS, (mnist_mean,), (mnist_std,))
    name, decoder, preparation = stored.get("name"), stored.get("decoder"), stored.get("preparation")
    if not isinstance(name, str):
        raise wrong("name is not a string")
    if decoder is not None and not (isinstance(decoder, str) and len(decoder) <= MAX_NAME):
        raise wrong("decoder is not a short string")
    if preparation is not None and not isinstance(preparation, dict):
        raise wrong("preparation is not an object")
    shape = read_shape(stored.get("shape"))
    mean, std = (read_numbers(key, stored.get(key), shape[0]) for key in ("mean", "std"))
    if std is not None and min(std) <= 0:
        raise wrong("std is not above 0")
    return Description(name, shape, read_class_names(stored.get("class_names")), mean, std, preparation, decoder)


def read_shape(stored: object) -> tuple[int, int, int]:
    if not isinstance(stored, list) or len(stored) != 3 or any(type(size) is not int for size in stored):
        raise wrong("shape is not channels, height and width")
    channels, height, width = stored
    if channels not in (1, 3):
        raise wrong(f"shape has {str(channels)[:20]} channels; 1 and 3 are supported")
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise wrong(f"shape is not between 1 and {MAX_PIXELS:,} pixels")
    return channels, height, width


def read_class_names(stored: object) -> tuple[str, ...]:
    if not isinstance(stored, list) or not stored:
        raise wrong("class_names is not a list of names")
    for name in stored:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise wrong(f"a class name is not a string of 1 to {MAX_NAME:,} characters: {shown(str(name)[:40])}")
    return tuple(stored)


def read_numbers(key: str, stored: object, count: int) -> tuple[float, ...] | None:
    """One finite number for each channel; None if there are none at all."""
    if stored is None:
        return None
    if not isinstance(stored, list) or len(stored) != count or any(type(each) not in (int, float) for each in stored):
        raise wrong(f"{key} is not a number for each of {count} channels")
    numbers = [number(each) for each in stored]
    found = tuple(each for each in numbers if each is not None)
    if len(found) < count:
        raise wrong(f"{key} is not finite")
    return found


def number(stored: str | float | None) -> float | None:
    """A finite number, if it is one."""
    try:
        found = math.nan if stored is None else float(stored)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def wrong(what: str) -> PredictError:
    return PredictError(f"the model describes its data set in another way than an exported model: {what}")
