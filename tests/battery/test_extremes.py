"""Gradients that are finite but extreme never make a weight infinite or NaN."""

import pytest
import torch

from .table import WAYS, every_optimizer, every_way


def walk(row, way, gradients, lr=1e-3, **arguments):
    param = torch.zeros(gradients.shape[1:], dtype=gradients.dtype, requires_grad=True)
    optimizer = row.optimizer([param], lr=lr, **arguments, **WAYS[way])
    for gradient in gradients:
        param.grad = gradient.clone()
        optimizer.step()
        assert param.isfinite().all()
        for name, value in optimizer.state[param].items():
            assert not value.isnan().any(), name
    return param.detach(), optimizer.state[param]


@every_way
@every_optimizer
@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e15])
def test_every_size_of_float32_gradients(row, way, size):
    generator = torch.Generator().manual_seed(0)
    for settings in row.settings:
        noisy = size * torch.randn(30, 8, generator=generator).clamp(-3, 3)
        constant = torch.full((30, 8), size)
        for gradients in (noisy, constant, noisy * (torch.arange(30)[:, None] % 7 == 0)):
            walk(row, way, gradients, **settings)


@every_way
@every_optimizer
def test_gradients_that_are_all_zero_move_nothing(row, way):
    for settings in row.settings:
        param, _ = walk(row, way, torch.zeros(50, 8), **settings)
        assert (param == 0).all()


@every_way
@every_optimizer
@pytest.mark.parametrize("when", [0, 1, 20])
def test_one_spike_among_ordinary_gradients(row, way, when):
    """After it the weight goes on learning: a state that the spike made infinite would freeze it for good."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(60, 8, generator=generator)
    gradients[when] = 1e20
    param, state = walk(row, way, gradients)
    assert all(value.isfinite().all() for value in state.values())
    assert (param != 0).all()
