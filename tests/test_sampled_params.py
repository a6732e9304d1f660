"""AdaBayes.sampled_params: draws from the posterior that the filter holds, and weights that come back to the bit."""

import pytest
import torch

import varigrad
from tests.stepping import noise


def stepped(dtype=torch.float64, lr=1e-3, size=20000, **arguments):
    weight = torch.zeros(size, dtype=dtype, requires_grad=True)
    optimizer = varigrad.AdaBayes([weight], lr=lr, sgd_lr=0.1, batch_size=8, **arguments)
    for gradient in noise(seed=1, scale=0.3, steps=5, size=size).to(dtype):
        weight.grad = gradient
        optimizer.step()
    return optimizer, weight


def test_draws_have_the_mean_and_the_variance_of_the_posterior():
    optimizer, weight = stepped()
    variance = optimizer.state[weight]["posterior_var"]
    mean = weight.detach().clone()
    with optimizer.sampled_params(torch.Generator().manual_seed(0)):
        deviation = (weight.detach() - mean) / variance.sqrt()
    assert deviation.mean().item() == pytest.approx(0.0, abs=4 / 20000**0.5)
    assert deviation.square().mean().item() == pytest.approx(1.0, abs=4 * (2 / 20000) ** 0.5)


def test_every_context_draws_anew_and_a_generator_repeats_it():
    optimizer, weight = stepped(size=10)
    drawn = []
    for seed in (0, 0, 1):
        with optimizer.sampled_params(torch.Generator().manual_seed(seed)):
            drawn.append(weight.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_the_weights_come_back_to_the_bit_also_after_an_exception(dtype):
    optimizer, weight = stepped(dtype, size=50)
    before = weight.detach().clone()

    def fail():
        with optimizer.sampled_params():
            assert not torch.equal(weight, before)
            weight.data.mul_(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(weight, before)


def test_training_goes_on_as_if_nothing_had_been_drawn():
    (first, mine), (second, yours) = stepped(size=50), stepped(size=50)
    with first.sampled_params():
        pass
    for optimizer, weight in ((first, mine), (second, yours)):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert torch.equal(mine, yours)


def test_gradients_can_be_taken_inside():
    optimizer, weight = stepped(size=50)
    with optimizer.sampled_params():
        inside = weight.detach().clone()
        weight.grad = None
        (weight.square().sum() / 2).backward()
    assert torch.equal(weight.grad, inside)


def test_without_a_posterior_there_is_nothing_to_draw():
    weight = torch.zeros(3, requires_grad=True)
    optimizer = varigrad.AdaBayes([weight])
    with pytest.raises(RuntimeError, match="no posterior to draw weights from"), optimizer.sampled_params():
        pass
    optimizer, weight = stepped(lr=0.0, size=10, reference_lr=1e-3)
    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match="no posterior to draw weights from"), optimizer.sampled_params():
        pass
    assert torch.equal(weight, before)


def test_a_parameter_that_has_not_been_stepped_stays():
    optimizer, weight = stepped(size=10)
    late = torch.ones(4, requires_grad=True)
    optimizer.add_param_group({"params": [late]})
    before = weight.detach().clone()
    with optimizer.sampled_params():
        assert torch.equal(late, torch.ones(4))
        assert not torch.equal(weight, before)
