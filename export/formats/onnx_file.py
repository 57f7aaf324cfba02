"""A net as one ONNX file: `logits` from normalised images, or `probabilities` and `label` from raw pixels.

The file holds no external data, no path of the machine that wrote it and no date: the same weights give the same bytes.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from distmnist.checkpoint.source import Trained
from distmnist.data.dataset import normalise
from distmnist.errors import RunError

PREFIX = "net."

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class PixelNet(nn.Module):
    """A net with the training data's own normalisation in front and the decision behind it."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.net = trained.net
        self.channels = trained.dataset.shape[0]
        self.mean_and_std: tuple[float, float] | None = None
        if self.channels == 1:
            self.mean_and_std = trained.dataset.mean[0], trained.dataset.std[0]
        else:
            # Their names become those of initializers, beside the net's own weights.
            for name, values in (("pixel_mean", trained.dataset.mean), ("pixel_std", trained.dataset.std)):
                self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 [n, H, W] or [n, H, W, 3] -> probabilities, float [n, classes], and labels, int64 [n]."""
        if self.mean_and_std:
            images = normalise(pixels.unsqueeze(1), *self.mean_and_std)
        else:
            images = normalise(pixels.permute(0, 3, 1, 2), self.pixel_mean, self.pixel_std)
        logits = self.net(images)
        return logits.softmax(1), logits.argmax(1)


def logits_model(trained: Trained, opset: int, metadata: Mapping[str, str]) -> bytes:
    """<model>.onnx: input `input` float32 [batch, C, H, W], normalised; output `logits` float32 [batch, classes]."""
    example = torch.zeros(2, *trained.dataset.shape)
    return convert(trained.net, example, ["input"], ["logits"], opset, metadata, trained.net.state_dict())


def pixels_model(trained: Trained, opset: int, metadata: Mapping[str, str]) -> bytes:
    """<model>.pixels.onnx: input `pixels` uint8 [batch, H, W] or [batch, H, W, 3]; `probabilities` and `label`."""
    channels, height, width = trained.dataset.shape
    shape = (2, height, width) if channels == 1 else (2, height, width, channels)
    example, names = torch.zeros(shape, dtype=torch.uint8), ["probabilities", "label"]
    return convert(PixelNet(trained).eval(), example, ["pixels"], names, opset, metadata, trained.net.state_dict())


def convert(
    module: nn.Module,
    example: Tensor,
    inputs: list[str],
    outputs: list[str],
    opset: int,
    metadata: Mapping[str, str],
    state: Mapping[str, Tensor],
) -> bytes:
    """Raises RunError if torch cannot convert the net, or converts it to another opset."""
    # The exporter's optimizer would fold a batch norm into the convolution before it: other weights than the trained.
    folds = any(isinstance(layer, BATCH_NORMS) for layer in module.modules())
    for optimize in (False,) if folds else (True, False):
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                # A batch of 1 would be baked into the file, hence an example of 2.
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                optimize=optimize,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise RunError(f"torch cannot write this net as ONNX: {str(error).strip().splitlines()[0]}") from error
        assert program is not None, "dynamo=True returns one"
        model = program.model_proto
        strip(model)
        if not wrong_weights(model, state):
            break
    written = [(entry.domain, entry.version) for entry in model.opset_import]
    if written != [("", opset)]:
        raise RunError(f"--opset {opset}: torch {torch.__version__} wrote {written} instead; choose another")
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    helper.set_model_props(model, dict(sorted(metadata.items())))
    return model.SerializeToString(deterministic=True)


def strip(model: onnx.ModelProto) -> None:
    """Takes away what tells of the machine and the conversion: paths, stack traces, names of Python classes."""
    graph = model.graph
    graph.name = "distmnist"
    graph.doc_string = model.doc_string = ""
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
    del graph.value_info[:]
    for initializer in graph.initializer:
        initializer.name = initializer.name.removeprefix(PREFIX)
    for node in graph.node:
        node.input[:] = [name.removeprefix(PREFIX) for name in node.input]


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """name -> value of the initialisers."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def wrong_weights(model: onnx.ModelProto, state: Mapping[str, Tensor]) -> list[str]:
    """The names in `state` that the file lacks or holds with other bits.

    Integers are let off if they are absent: counters of batches and the like, which no output depends on.
    """
    there = weights(model)
    return [
        name
        for name, tensor in state.items()
        if (name in there or tensor.is_floating_point()) and not same_bits(there.get(name), tensor.numpy())
    ]


def same_bits(one: np.ndarray | None, other: np.ndarray) -> bool:
    """Unlike ==, tells 0.0 from -0.0."""
    return (
        one is not None and one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )
