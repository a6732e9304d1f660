"""What a step computes on every kind of parameter and rate: dtypes, complex numbers, directions, `capturable`."""

import pytest
import torch

from .toy_rules import Learned, Momentum, Normalized, Remembering

MAKES = [Momentum, Normalized, Remembering]
STEPS = 6
SIZE = 12  # what `Learned` expects


def noise(seed, shape=(SIZE,), dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def walk(make, dtype=torch.float64, start=None, gradients=None, **settings):
    """The parameter and its optimizer after a few steps."""
    param = torch.nn.Parameter((noise(0) if start is None else start).to(dtype, copy=True))
    optimizer = make([param], **settings)
    for gradient in gradients or [noise(seed) for seed in range(1, STEPS)]:
        param.grad = gradient.to(dtype)
        optimizer.step()
    return param.detach(), optimizer


def close(one, other, dtype=torch.float64):
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- low precision


@pytest.mark.parametrize("make", [*MAKES, Learned], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_parameters_keep_float32_state(way, make, dtype):
    gradients = [noise(seed).to(dtype) for seed in range(1, STEPS)]
    param, optimizer = walk(make, dtype, gradients=gradients, **way)
    (state,) = optimizer.state.values()
    assert param.dtype == dtype
    assert {value.dtype for value in state.values()} == {torch.float32}
    # The state is that of a float32 parameter: it never went through the parameter's dtype.
    _, wide = walk(make, torch.float32, gradients=gradients, **way)
    (expected,) = wide.state.values()
    for name in state:
        assert torch.equal(state[name], expected[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_parameters_are_rounded_once(way, dtype):
    start, gradient = noise(0).to(dtype), noise(1).to(dtype)
    ours, _ = walk(Normalized, dtype, start, [gradient], weight_decay=0.1, rounding="nearest", **way)
    wide, _ = walk(Normalized, torch.float32, start.float(), [gradient], weight_decay=0.1, **way)
    assert torch.equal(ours, wide.to(dtype))


def test_float64_is_float64_throughout(way):
    param, optimizer = walk(Normalized, **way)
    assert param.dtype == torch.float64
    assert optimizer.state_dict()["state"][0]["square"].dtype == torch.float64


def test_dtypes_may_be_mixed(way):
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.float32]
    params = [torch.nn.Parameter(noise(i).to(dtype)) for i, dtype in enumerate(dtypes)]
    optimizer = Normalized(params, **way)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for index, (param, dtype) in enumerate(zip(params, dtypes, strict=True)):
        gradient = torch.ones(SIZE, dtype=dtype)
        assert torch.equal(param, walk(Normalized, dtype, noise(index), [gradient], **way)[0])


# ---------------------------------------------------------------- complex numbers


@pytest.mark.parametrize("make", MAKES, ids=lambda c: c.__name__)
@pytest.mark.parametrize(("dtype", "real"), [(torch.complex64, torch.float32), (torch.complex128, torch.float64)])
@pytest.mark.parametrize("maximize", [False, True])
def test_complex_parameters_are_pairs_of_real_ones(way, make, dtype, real, maximize):
    pairs = [noise(seed, (SIZE, 2)).to(real) for seed in range(STEPS)]
    whole = [torch.view_as_complex(pair) for pair in pairs]
    settings = {"maximize": maximize, "weight_decay": 0.1, **way}
    ours, optimizer = walk(make, dtype, whole[0], whole[1:], **settings)
    theirs, expected = walk(make, real, pairs[0], pairs[1:], **settings)
    close(torch.view_as_real(ours), theirs, real)
    (state,), (reference,) = optimizer.state.values(), expected.state.values()
    for name in make.rule.state:
        assert state[name].dtype == dtype
        close(torch.view_as_real(state[name]), reference[name], real)


def test_a_conjugated_gradient_is_what_it_stands_for(way):
    gradient = torch.view_as_complex(noise(1, (SIZE, 2)))
    start = torch.view_as_complex(noise(0, (SIZE, 2)))
    expected, _ = walk(Momentum, torch.complex128, start, [gradient.conj().resolve_conj()], **way)
    lazy, _ = walk(Momentum, torch.complex128, start, [gradient.conj()], **way)
    assert torch.equal(lazy, expected)


@pytest.mark.parametrize("view", [torch.Tensor.conj, torch._neg_view], ids=["conjugated", "negated"])
def test_a_parameter_that_is_a_lazy_view_is_refused(way, view):
    """Its new values would be written into a copy."""
    param = torch.nn.Parameter(view(torch.view_as_complex(noise(0, (SIZE, 2)))))
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="number 0 of group 0, which is a lazily conjugated or negated view"):
        Momentum([param], **way).step()


# ---------------------------------------------------------------- directions and rates


@pytest.mark.parametrize("make", [*MAKES, Learned], ids=lambda c: c.__name__)
def test_maximizing_is_minimizing_with_the_gradient_negated(way, make):
    gradients = [noise(seed) for seed in range(1, STEPS)]
    up, _ = walk(make, gradients=gradients, maximize=True, **way)
    down, _ = walk(make, gradients=[-gradient for gradient in gradients], **way)
    assert torch.equal(up, down)


@pytest.mark.parametrize("make", [*MAKES, Learned], ids=lambda c: c.__name__)
@pytest.mark.parametrize("rate", [torch.tensor(0.125), torch.tensor([0.125]), torch.tensor(0.125).double()])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_tensor_for_a_rate_is_its_number(way, make, rate, weight_decay):
    ours, _ = walk(make, lr=rate, weight_decay=weight_decay, **way)
    theirs, _ = walk(make, lr=0.125, weight_decay=weight_decay, **way)
    assert torch.equal(ours, theirs)
    assert rate.item() == 0.125


def test_a_tensor_for_a_rate_may_be_changed_in_place(way):
    rate = torch.tensor(0.5)
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = Momentum([param], lr=rate, beta=0.0, **way)
    for value in (0.5, 0.25):
        rate.fill_(value)
        param.grad = torch.ones(1)
        optimizer.step()
    assert param.item() == -0.75


def test_a_tensor_for_a_rate_may_replace_a_number(way):
    param = torch.nn.Parameter(torch.zeros(1))
    param.grad = torch.ones(1)
    optimizer = Momentum([param], lr=0.5, beta=0.0, **way)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    optimizer.step()
    assert param.item() == -0.75


def test_weight_decay_is_decoupled_and_comes_first(way):
    start = noise(0)
    ours, optimizer = walk(Momentum, start=start, gradients=[noise(1)], lr=0.1, weight_decay=0.5, **way)
    close(ours, start * (1 - 0.1 * 0.5) - 0.1 * noise(1))
    close(optimizer.state_dict()["state"][0]["mean"], 0.1 * noise(1))


@pytest.mark.parametrize("make", [*MAKES, Learned], ids=lambda c: c.__name__)
def test_a_parameter_is_stepped_as_if_alone(way, make):
    """Whatever else is in its group: other dtypes, other steps, no gradient at all."""
    shapes = [(SIZE,), (3, 4), (2, 2, 3)]
    params = [torch.nn.Parameter(noise(i, shape)) for i, shape in enumerate(shapes)]
    optimizer = make([*params, torch.nn.Parameter(torch.ones(2))], weight_decay=0.1, **way)
    for seed in range(1, STEPS):
        for index, param in enumerate(params):
            param.grad = noise(10 * seed + index, shapes[index])
        optimizer.step()
    for index, (param, shape) in enumerate(zip(params, shapes, strict=True)):
        gradients = [noise(10 * seed + index, shape) for seed in range(1, STEPS)]
        alone, _ = walk(make, start=noise(index, shape), gradients=gradients, weight_decay=0.1, **way)
        assert torch.equal(param, alone)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("make", [*MAKES, Learned], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)])
def test_capturable_is_the_same_to_rounding(foreach, make, dtype, rate):
    settings = {"lr": rate, "foreach": foreach, "weight_decay": 0.1}
    ours, optimizer = walk(make, dtype, capturable=True, **settings)
    theirs, _ = walk(make, dtype, **settings)
    # What is computed from a tensor for a rate is computed on the device, in the rate's own precision.
    close(ours, theirs, rate.dtype if isinstance(rate, torch.Tensor) and dtype == torch.float64 else dtype)
    assert ours.dtype == dtype
    (state,) = optimizer.state.values()
    assert {state[name].dtype for name in make.rule.state} == {dtype}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("make", [*MAKES, Learned], ids=lambda c: c.__name__)
def test_capturable_never_asks_the_host(foreach, make, monkeypatch):
    param = torch.nn.Parameter(noise(0))
    param.grad = noise(1)
    optimizer = make([param], lr=0.1, foreach=foreach, capturable=True)

    def asked(self, *_):
        raise AssertionError("the host waited for the device")

    for name in ("item", "__bool__", "__float__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    optimizer.step()


@pytest.mark.parametrize("foreach", [False, pytest.param(True, id="foreach")])
def test_a_rate_with_a_dimension_steps_a_scalar(foreach):
    param = torch.nn.Parameter(torch.tensor(1.0))
    param.grad = torch.tensor(1.0)
    Momentum([param], lr=torch.tensor([0.5]), foreach=foreach, capturable=True).step()
    assert param.item() == 0.5
