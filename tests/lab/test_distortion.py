"""Random changes of a batch against the same formulas for one image at a time."""

import colorsys

import numpy as np
import pytest
import torch

from varigrad.lab.batches import standardised
from varigrad.lab.distortion import affine_and_jitter, colour_distortion


def made(count: int = 6, size: int = 8) -> torch.Tensor:
    return 255 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> np.ndarray:
    return (low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)).flatten().numpy()


def test_brightness_saturation_and_contrast_pixel_by_pixel() -> None:
    images = made()
    result = colour_distortion(images.clone(), torch.Generator().manual_seed(3)).numpy()
    draws = torch.Generator().manual_seed(3)
    shift, saturation, contrast = (uniform(draws, 6, *bounds) for bounds in ((-63, 63), (0.5, 1.5), (0.2, 1.8)))
    for row, image in enumerate(images.numpy()):
        changed = np.clip(image + shift[row], 0, 255)
        for y in range(8):
            for x in range(8):
                hue, saturated, value = colorsys.rgb_to_hsv(*changed[:, y, x] / 255)
                changed[:, y, x] = 255 * np.array(colorsys.hsv_to_rgb(hue, min(1, saturated * saturation[row]), value))
        mean = changed.mean((1, 2), keepdims=True)
        np.testing.assert_allclose(result[row], mean + contrast[row] * (changed - mean), atol=0.02)


def test_standardised_images() -> None:
    images = made()
    images[2] = 7.0
    result = standardised(images)
    kept = result[[0, 1, 3, 4, 5]]
    assert torch.allclose(kept.mean((1, 2, 3)), torch.zeros(5), atol=1e-5)
    assert torch.allclose(kept.std((1, 2, 3), correction=0), torch.ones(5), atol=1e-5)
    assert not result[2].any()


def test_an_image_is_turned_moved_and_scaled_about_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bright spot lands where the turned, scaled and moved point does."""
    size, values = 65, {}
    image = torch.zeros(1, 3, size, size)
    image[..., 29:36, 45:52] = 255.0  # about (48, 32): 16 pixels right of the middle

    def chosen(images: torch.Tensor, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
        return torch.full((1, 1, 1, 1), values.get((low, high), 1.0))

    monkeypatch.setattr("varigrad.lab.distortion._uniform", chosen)
    for degrees, move, scale in (
        (0.0, 0.0, 1.0),
        (45.0, 0.0, 1.0),
        (-30.0, 0.0, 1.1),
        (0.0, 0.1, 1.0),
        (20.0, 0.05, 0.9),
    ):
        values.update({(-45.0, 45.0): degrees, (-0.1, 0.1): move, (0.9, 1.1): scale})
        result = affine_and_jitter(image.clone(), torch.Generator())[0, 0]
        places = (result > 128).nonzero().double()
        angle = np.deg2rad(degrees)
        x = 32 + scale * 16 * np.cos(angle) + move * size
        y = 32 + scale * 16 * np.sin(angle) + move * size
        assert places.mean(0).tolist() == pytest.approx([y, x], abs=0.6)
        assert len(places) == pytest.approx(49 * scale**2, rel=0.3)


def test_jitter_keeps_grey_grey_and_pixels_in_range() -> None:
    grey = made()[:, :1].expand(-1, 3, -1, -1).clone()
    result = affine_and_jitter(grey, torch.Generator().manual_seed(0))
    assert torch.allclose(result[:, 0], result[:, 2], atol=1e-3)
    assert result.min() >= 0
    assert result.max() <= 255
    assert not torch.equal(result[0], grey[0])
