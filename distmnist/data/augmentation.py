"""Random affine views of the training images: one table of maps an epoch, applied to whole batches on the device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from distmnist.seeds import generator

SIDE = 28
"""Of an MNIST image, in whose pixels shifts are given: an image of another size is moved by the same share of it."""

ROTATION, SHIFT, SCALE, SHEAR = math.radians(10), 2.0, 0.1, 0.1
"""At strength 1 the most by which an image is turned (radians), moved (pixels, each way), sized and slanted: what
leaves every digit readable, and the usual choice for MNIST."""


def draw_maps(seed: int, epoch: int, count: int, strength: float) -> Tensor:
    """The epoch's maps, float32 [count, 2, 3], on the CPU: row i is image i's, whatever batch or rank it falls to."""
    spread = strength * torch.tensor([ROTATION, SCALE, SHEAR, SHIFT, SHIFT])
    draws = torch.rand(count, len(spread), generator=generator(seed, "augment", epoch))
    return affine_maps(*((2 * draws - 1) * spread).T)


def affine_maps(angle: Tensor, growth: Tensor, slant: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Each [n]: radians clockwise, size less 1, x gained per y, pixels, pixels -> [n, 2, 3].

    A map tells for a pixel (x, y, 1) of the view, -1 to 1 from edge to edge, where in the image it is looked up: the
    image is slanted, sized, turned, then moved, and this is the inverse of that.
    """
    cos, sin, size = angle.cos(), angle.sin(), 1 + growth
    x = torch.stack((cos + slant * sin, sin - slant * cos), 1) / size[:, None]
    y = torch.stack((-sin, cos), 1) / size[:, None]
    linear = torch.stack((x, y), 1)
    moved = torch.stack((right, down), 1) * (2 / SIDE)
    return torch.cat((linear, -linear @ moved[:, :, None]), 2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Images, float [n, C, H, W], seen through maps, [n, 2, 3]: bilinear; outside lies what is at the border.

    Every number is computed on its own, so an image's view has the same bits in any batch.
    """
    height, width = images.shape[2:]
    if height != width:  # the maps are of a square: turning and slanting mix lengths along x and along y
        ratio = torch.tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]], device=maps.device)
        maps = maps * ratio
    centres_x, centres_y = ((torch.arange(side, device=images.device) * 2 + 1) / side - 1 for side in (width, height))
    along_x = maps[:, :, 0, None, None] * centres_x
    along_y = (maps[:, :, 1, None] * centres_y + maps[:, :, 2, None])[..., None]
    grid = (along_x + along_y).permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
