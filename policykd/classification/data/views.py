"""Transfer sets: subsets, unlabelled data, noise and augmented views of the inputs.

A student learns its teacher's outputs only where it sees them (Stanton et al. 2021, sections 3 and 5).

    small = subset((images, labels), 200)                           # fewer examples
    large = pooled((images, labels), unlabelled(other_images))      # more, some unlabelled
    distiller.fit(large, augment=shift)                             # new views in every epoch

Mixup is a setting of every method (``mixup``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED

Examples = tuple[Tensor, Tensor]
"""Inputs ``(N, ...)`` and labels ``(N,)``."""


def subset(examples: Examples, size: int, seed: int = 0) -> Examples:
    """Draw ``size`` examples without replacement; with the same seed, smaller subsets are contained in larger ones.

    Raises:
        PolicyKDError: there are fewer than ``size`` examples.
    """
    inputs, labels = examples
    if not 1 <= size <= len(inputs):
        raise PolicyKDError(f"subset: size={size} must be from 1 to {len(inputs)}, the number of examples")
    drawn = torch.randperm(len(inputs), generator=Generator().manual_seed(seed))[:size]
    return inputs[drawn], labels[drawn]


def unlabelled(inputs: Tensor) -> Examples:
    """Inputs without labels, which losses on labels skip: only the teacher supervises them."""
    return inputs, torch.full((len(inputs),), UNLABELLED)


def pooled(*sets: Examples) -> Examples:
    """Concatenate several sets.

    Raises:
        PolicyKDError: their inputs differ in shape.
    """
    shapes = {tuple(inputs.shape[1:]) for inputs, _ in sets}
    if len(shapes) != 1:
        raise PolicyKDError(f"pooled: the sets' inputs must have one shape, not {', '.join(map(str, sorted(shapes)))}")
    return torch.cat([inputs for inputs, _ in sets]), torch.cat([labels for _, labels in sets])


def uniform_noise(inputs: Tensor, size: int, seed: int = 0) -> Examples:
    """``size`` unlabelled inputs of uniform noise with the shape and the range of ``inputs``."""
    drawn = torch.rand((size, *inputs.shape[1:]), generator=Generator().manual_seed(seed), dtype=inputs.dtype)
    return unlabelled(torch.lerp(inputs.min(), inputs.max(), drawn))


# Augmentations of images (B, C, H, W) for Distiller.fit(augment=...), which preserve labels. They draw from torch's
# global generator, which the distiller reseeds before every epoch.


def shift(images: Tensor, pixels: int = 2) -> Tensor:
    """Shift each image by up to ``pixels`` in both directions, repeating its edge (a padded random crop)."""
    height, width = _size(images, "shift")
    moves = torch.randint(2 * pixels + 1, (2, len(images)), device=images.device)
    rows = torch.arange(height, device=images.device) + moves[0, :, None]
    columns = torch.arange(width, device=images.device) + moves[1, :, None]
    example = torch.arange(len(images), device=images.device)[:, None, None]
    moved = F.pad(images, (pixels,) * 4, mode="replicate")[example, :, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1)


def rotate(images: Tensor, degrees: float = 20.0) -> Tensor:
    """Rotate each image about its centre by an angle in [-degrees, degrees], repeating its edge."""
    height, width = _size(images, "rotate")
    angles = (2 * torch.rand(len(images), device=images.device) - 1) * math.radians(degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # In affine_grid's coordinates both sides have length 2, whatever their size in pixels.
    turn = torch.stack((cos, -sin * height / width, zero, sin * width / height, cos, zero), 1).view(-1, 2, 3)
    grid = F.affine_grid(turn.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def flip(images: Tensor) -> Tensor:
    """Mirror each image horizontally with probability 1/2."""
    _size(images, "flip")
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _size(images: Tensor, name: str) -> tuple[int, int]:
    if images.ndim != 4:
        raise PolicyKDError(f"{name}: needs images (B, C, H, W), not inputs of shape {tuple(images.shape)}")
    return images.shape[2], images.shape[3]
