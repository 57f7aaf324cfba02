"""A net as TorchScript: traced, frozen, and read by `torch.jit.load` alone, from Python or C++."""

import contextlib
import io
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .onnx_file import same_bits


def refusal() -> str | None:
    """Why this Python cannot have TorchScript, None if it can. torch.jit says of itself that it may break on 3.14."""
    if sys.version_info >= (3, 14):
        version = ".".join(map(str, sys.version_info[:2]))
        return f"torch does not support TorchScript on Python {version}; use 3.13 or older for it, or the ONNX files"
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.jit calls itself deprecated at every turn. It is what C++ programs load: known, and no news to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        yield


def to_torchscript(net: nn.Module, shape: tuple[int, int, int] = (1, 28, 28)) -> bytes:
    """<model>.torchscript.pt: normalised images, float32 [n, C, H, W] -> logits, float32 [n, classes].

    shape: channels, height, width. Raises whatever torch.jit raises for a model that it cannot trace.
    """
    with quiet(), torch.no_grad():
        # The trace is checked by the parity gate, over every digit and batch size, not by torch on the example.
        traced = torch.jit.trace(net, torch.zeros(2, *shape), check_trace=False)
        # With optimize_numerics it would fold batch normalisation into the weights: others than the trained ones.
        module = torch.jit.freeze(traced, optimize_numerics=False)
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
    return without_debug_records(buffer.getvalue())


def without_debug_records(content: bytes) -> bytes:
    """The archive without the paths of the source files on this machine, which torch keeps for error messages."""
    slim = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry))
    return slim.getvalue()


def load(content: bytes) -> torch.jit.ScriptModule:
    """Raises RuntimeError if torch cannot read it."""
    with quiet():
        return torch.jit.load(io.BytesIO(content), map_location="cpu")


def wrong_weights(module: torch.jit.ScriptModule, state: Mapping[str, Tensor]) -> list[str]:
    """The names in `state`, integers excepted, whose bits are among no constant of the frozen graph."""
    there = [
        node.t("value").numpy()
        for node in module.inlined_graph.nodes()
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t"
    ]
    return [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not any(same_bits(constant, tensor.numpy()) for constant in there)
    ]
