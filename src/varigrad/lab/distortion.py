"""Random changes of images beyond shifts and mirror images, for a whole batch at once.

Images are float tensors shaped (N, 3, height, width) with pixels from 0 to 255; every image has draws of its own from
a CPU generator, so that they do not depend on the device.
"""

from __future__ import annotations

import math

import torch
from torch import nn

_GREY = (0.299, 0.587, 0.114)


def colour_distortion(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness, saturation and contrast as in DeepOBS' CIFAR problems.

    Brightness is shifted by up to 63, saturation multiplied by 0.5 to 1.5, contrast by 0.2 to 1.8 (about each
    channel's mean). Pixels are kept between 0 and 255 after the shift.
    """
    shift, saturation, contrast = (
        _uniform(images, low, high, generator) for low, high in ((-63.0, 63.0), (0.5, 1.5), (0.2, 1.8))
    )
    images = (images + shift).clamp_(0, 255)
    # Multiplying the saturation at constant hue and value moves every channel away from the brightest, or towards it;
    # the darkest channel reaches 0 where the saturation reaches 1.
    value, darkest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    most = value / (value - darkest).clamp_(min=1e-6)
    images = value - (value - images) * torch.minimum(saturation.expand_as(most), most)
    mean = images.mean((2, 3), keepdim=True)
    return mean + contrast * (images - mean)


def affine_and_jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turned, moved, scaled and with other colours, as the VSGD paper has Tiny ImageNet (Table 4).

    Up to 45° either way, moved by up to a tenth, scaled by 0.9 to 1.1, to the nearest pixel, what is missing black;
    then brightness, contrast and saturation each multiplied by 0.8 to 1.2, in this order.
    """
    degrees, x, y, scale = (
        _uniform(images, low, high, generator).flatten()
        for low, high in ((-45.0, 45.0), (-0.1, 0.1), (-0.1, 0.1), (0.9, 1.1))
    )
    radians = degrees * (math.pi / 180)
    cosine, sine = radians.cos() / scale, radians.sin() / scale
    # grid_sample asks where a pixel comes from, in units of half the image.
    x, y = 2 * x, 2 * y
    rows = torch.stack(
        [cosine, sine, -cosine * x - sine * y, -sine, cosine, sine * x - cosine * y],
        dim=1,
    )
    grid = nn.functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    images = nn.functional.grid_sample(images, grid, mode="nearest", align_corners=False)
    brightness, contrast, saturation = (_uniform(images, 0.8, 1.2, generator) for _ in range(3))
    images = (images * brightness).clamp_(0, 255)
    mean = _grey(images).mean((2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp_(0, 255)
    grey = _grey(images)
    return (grey + saturation * (images - grey)).clamp_(0, 255)


def _grey(images: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(_GREY, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _uniform(images: torch.Tensor, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    draws = torch.rand(len(images), 1, 1, 1, generator=generator)
    return (low + (high - low) * draws).to(images.device)
