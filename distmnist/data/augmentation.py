"""Random views of the training images: one table of affine maps an epoch, applied to whole batches on the device.

--augment turns, moves, sizes and slants an image, --flip mirrors it, --crop shows a part of it. Together they are one
map, so an image is sampled once.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from distmnist.seeds import generator

SIDE = 28
"""Pixels of a side in which shifts are given, MNIST's: any other image is moved by the same share of its own sides."""

ROTATION, SHIFT, SCALE, SHEAR = math.radians(10), 2.0, 0.1, 0.1
"""At strength 1 the most by which an image is turned (radians), moved (pixels of `SIDE`, each way: a 14th of a side),
sized and slanted: what leaves every digit readable, and the usual choice for MNIST."""

FLIPPED = 0.5
"""Share of the images that --flip mirrors: the default of torchvision's RandomHorizontalFlip."""

AREA, ASPECT = (0.08, 1.0), 4 / 3
"""Of --crop: the least and the greatest share of the image's area, and the greatest aspect ratio, either way up: the
defaults of torchvision's RandomResizedCrop, from Szegedy et al. 2015, "Going deeper with convolutions", section 6."""


def draw_maps(
    seed: int,
    epoch: int,
    count: int,
    strength: float = 0.0,
    *,
    flip: bool = False,
    crop: bool = False,
    aspect: float = 1.0,
) -> Tensor:
    """The epoch's maps, float32 [count, 2, 3], on the CPU: row i is image i's, whatever batch or rank it falls to.

    strength: of --augment; aspect: width / height of the images. The image is cropped, mirrored, and then slanted,
    sized, turned and moved. Each of the three draws by a key of its own, so it draws the same beside the others.
    """
    maps = torch.eye(2, 3).repeat(count, 1, 1)
    if strength:
        spread = strength * torch.tensor([ROTATION, SCALE, SHEAR, SHIFT, SHIFT])
        draws = torch.rand(count, len(spread), generator=generator(seed, "augment", epoch))
        maps = affine_maps(*((2 * draws - 1) * spread).T, aspect=aspect)
    if flip:
        mirrored = torch.rand(count, generator=generator(seed, "flip", epoch)) < FLIPPED
        maps[mirrored, 0] *= -1
    if crop:
        sides, centres = draw_crops(seed, epoch, count)
        maps *= sides[:, :, None]
        maps[:, :, 2] += centres
    return maps


def draw_crops(seed: int, epoch: int, count: int) -> tuple[Tensor, Tensor]:
    """Parts of images -> sides, as shares of the image's, and centres, -1 to 1; float32 [count, 2], x and y.

    Area, logarithm of the aspect ratio and place inside the image are uniform. The ratio is relative to the image's
    own: proportions change by a third at most in images of any shape. A side longer than the image's is cut to it,
    which keeps area and ratio within their limits. RandomResizedCrop draws again instead, so large parts are rarer
    there: half of its areas are below 47 %, half of these below 54 %. It also rounds to whole pixels.
    """
    draws = torch.rand(count, 4, generator=generator(seed, "crop", epoch))
    area = AREA[0] + (AREA[1] - AREA[0]) * draws[:, 0]
    ratio = ((2 * draws[:, 1] - 1) * math.log(ASPECT)).exp()
    sides = torch.stack((area * ratio, area / ratio), 1).sqrt().clamp(max=1)
    return sides, (1 - sides) * (2 * draws[:, 2:] - 1)


def affine_maps(
    angle: Tensor, growth: Tensor, slant: Tensor, right: Tensor, down: Tensor, *, aspect: float = 1.0
) -> Tensor:
    """Each [n]: radians clockwise, size less 1, x gained per y, pixels, pixels -> [n, 2, 3]; a side has `SIDE` pixels.

    A map tells for a pixel (x, y, 1) of the view, -1 to 1 from edge to edge, where in the image it is looked up: the
    image is slanted, sized, turned, then moved, and this is the inverse of that. aspect: width / height of the images.
    """
    cos, sin, size = angle.cos(), angle.sin(), 1 + growth
    x = torch.stack((cos + slant * sin, sin - slant * cos), 1) / size[:, None]
    y = torch.stack((-sin, cos), 1) / size[:, None]
    lengths = torch.tensor([[1.0, 1 / aspect], [aspect, 1.0]])  # turning and slanting mix lengths along x and along y
    linear = torch.stack((x, y), 1) * lengths
    moved = torch.stack((right, down), 1) * (2 / SIDE)
    return torch.cat((linear, -linear @ moved[:, :, None]), 2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Images, float [n, C, H, W], seen through maps, [n, 2, 3]: bilinear; outside lies what is at the border.

    Every number is computed on its own, so an image's view has the same bits in any batch. Roundings of float32 shift
    the places by less than W / 2**22 and H / 2**22 pixels: so far from its mirror image is one that is only mirrored.
    """
    height, width = images.shape[2:]
    centres_x, centres_y = ((torch.arange(side, device=images.device) * 2 + 1) / side - 1 for side in (width, height))
    along_x = maps[:, :, 0, None, None] * centres_x
    along_y = (maps[:, :, 1, None] * centres_y + maps[:, :, 2, None])[..., None]
    grid = (along_x + along_y).permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
