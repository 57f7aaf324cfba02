"""Answers about images with an exported model. Needs onnxruntime, numpy and Pillow; neither torch nor distmnist.

    python -m export.predict MODEL.pixels.onnx IMAGE... [--json]     in a clone
    distmnist-predict MODEL.pixels.onnx IMAGE... [--json]            installed
    python EXPORT/predict MODEL.pixels.onnx IMAGE... [--json]        in an exported folder

An image is a file, a directory of them, or `-` for standard input. Exit codes: 0 done; 1 an answer cannot be written;
2 wrong usage or an image that cannot be read, the others being answered; 130 SIGINT.

The folder is deployed as it is, hence its relative imports. In Python, with EXPORT on sys.path:
`from predict import Predictor`.
"""

# ruff: noqa: F401 - what is imported for type checkers is loaded by __getattr__

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .commandline import command, main, parse
    from .digits import DOUBTFUL, from_drawing, prepare_digit
    from .errors import PredictError
    from .images import open_digit
    from .model import DOUBT, Predictor, Reading, default_threads, session_options, signature, signatures
    from .model_file import OPSETS, check_manifest, check_model
    from .raster import WORKING, blurred, dilated, grown, labelled

PUBLIC = {
    "Predictor": "model",
    "Reading": "model",
    "PredictError": "errors",
    "command": "commandline",
    "main": "commandline",
    "parse": "commandline",
    "check_model": "model_file",
    "check_manifest": "model_file",
    "OPSETS": "model_file",
    "signature": "model",
    "signatures": "model",
    "session_options": "model",
    "default_threads": "model",
    "open_digit": "images",
    "prepare_digit": "digits",
    "from_drawing": "digits",
    "DOUBT": "model",
    "DOUBTFUL": "digits",
    "WORKING": "raster",
    "labelled": "raster",
    "grown": "raster",
    "dilated": "raster",
    "blurred": "raster",
}
"""Name -> the module that has it, imported when it is asked for."""

__all__ = [*PUBLIC]


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
