"""A net's weights as safetensors: names, shapes and numbers, and no code."""

import json
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

KEY = "distmnist"
"""The one entry of the file's metadata: several would stand in another order each time."""


def to_safetensors(net: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """<model>.safetensors: the state dict, with the metadata of the ONNX files as JSON. The same bytes each time."""
    state = {name: tensor.contiguous().numpy() for name, tensor in net.state_dict().items()}
    return save(state, {KEY: json.dumps(metadata, sort_keys=True)})


def read(content: bytes) -> tuple[dict[str, np.ndarray], object]:
    """The state dict, and the metadata. Raises ValueError, one line, for what is no such file."""
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        return load(content), json.loads(header["__metadata__"][KEY])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"is no safetensors file of an export: {type(error).__name__}: {reason}") from error
