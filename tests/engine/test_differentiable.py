"""`differentiable=True`: autograd follows the step, back to the first parameters, the gradients and the rate."""

import pytest
import torch

from .toy_rules import SIZE, Learned, Momentum, Normalized, Remembering

STEPS = 3


def values(count, shape=(SIZE,), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=dtype, generator=generator) for _ in range(count)]


def unroll(make, start, lr, gradients, **settings):
    """The parameter and the state after a few differentiable steps from a copy of `start`."""
    param = start.clone()
    optimizer = make([param], lr=lr, differentiable=True, **settings)
    for gradient in gradients:
        param.grad = gradient
        optimizer.step()
    return param, optimizer.state[param]


def by_hand(start, lr, gradients, weight_decay=0.0, maximize=False):
    """`Momentum`, written down again without anything in place."""
    param, mean = start, torch.zeros_like(start)
    for step, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + (1 - 0.9) * (-gradient if maximize else gradient)
        param = param * (1 - lr * weight_decay) - lr / (1 - 0.9**step) * mean
    return param


def inputs(dtype=torch.float64):
    start, *gradients = values(1 + STEPS, dtype=dtype)
    leaves = [start, torch.tensor(0.1, dtype=torch.float64), *gradients]
    return [leaf.requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("settings", [{}, {"maximize": True}, {"weight_decay": 0.1}], ids=str)
def test_gradients_are_those_of_the_transcription(settings):
    start, lr, *gradients = leaves = inputs()
    weights = torch.arange(1.0, SIZE + 1.0, dtype=torch.float64)
    ours, _ = unroll(Momentum, start, lr, gradients, **settings)
    theirs = by_hand(start, lr, gradients, **settings)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    found, expected = (torch.autograd.grad((weights * p.square()).sum(), leaves) for p in (ours, theirs))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("make", [Momentum, Normalized, Remembering, Learned], ids=lambda c: c.__name__)
def test_gradients_are_finite_differences(make, settings):
    def final(start, lr, *gradients):
        return unroll(make, start, lr, gradients, **settings)[0]

    assert torch.autograd.gradcheck(final, inputs(), eps=1e-6, atol=1e-7)


def test_the_state_can_be_followed_too():
    start, lr, *gradients = inputs()
    _, state = unroll(Momentum, start, lr, gradients)
    found = torch.autograd.grad(state["mean"].sum(), gradients)
    for step, gradient in enumerate(found):
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.1 * 0.9 ** (STEPS - 1 - step)))


def test_complex_parameters():
    start, lr, *gradients = inputs(torch.complex128)

    def final(start, lr, *gradients):
        return torch.view_as_real(unroll(Normalized, start, lr, gradients)[0])

    assert torch.autograd.gradcheck(final, (start, lr, *gradients), eps=1e-6, atol=1e-7)


def test_a_number_for_a_rate():
    start, _, *gradients = inputs()
    ours, _ = unroll(Momentum, start, 0.1, gradients)
    (found,) = torch.autograd.grad(ours.sum(), [start])
    assert torch.equal(found, torch.ones_like(start))


@pytest.mark.parametrize("make", [Momentum, Normalized, Remembering, Learned], ids=lambda c: c.__name__)
def test_the_values_are_those_of_any_other_step(make):
    start, _, *gradients = inputs()
    ours, state = unroll(make, start, 0.1, gradients)
    param = torch.nn.Parameter(start.detach().clone())
    optimizer = make([param], lr=0.1, foreach=False)
    for gradient in gradients:
        param.grad = gradient.detach()
        optimizer.step()
    assert torch.equal(ours, param)
    assert all(torch.equal(state[name], optimizer.state[param][name]) for name in state)


def test_a_kept_gradient_is_not_the_gradient():
    param = torch.ones(SIZE, requires_grad=True).clone()
    param.grad = torch.ones(SIZE)
    optimizer = Remembering([param], differentiable=True)
    optimizer.step()
    param.grad.fill_(100.0)
    assert optimizer.state[param]["previous"].tolist() == [1.0] * SIZE


def test_without_it_no_graph_is_kept(way):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3, requires_grad=True)
    optimizer = Momentum([param], **way)
    optimizer.step()
    assert param.is_leaf
    assert not optimizer.state[param]["mean"].requires_grad


@pytest.mark.parametrize("other", ["foreach", "fused"])
def test_no_other_way_can_be_asked_for(other, toy_kernels):
    with pytest.raises(RuntimeError, match=f"{other}=True is not differentiable"):
        Momentum([torch.nn.Parameter(torch.ones(3))], differentiable=True, **{other: True})
