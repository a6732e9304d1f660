"""Sums over a tensor that feed the next step's scalars: the same trajectory however the rule is run."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from .toy_rules import SIZE, Learned, Momentum

SHAPES = ((12,), (3, 4), (1, 12), (2, 2, 3))
STEPS = 25

WAYS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable loop": {"foreach": False, "capturable": True},
    "capturable foreach": {"foreach": True, "capturable": True},
}


def gradients(index, step):
    """Noise around a slow drift that differs between the tensors, so that their gains part."""
    random = np.random.default_rng((index, step))
    return random.normal(np.sin(step / (2.0 + index)), 0.2 + 0.5 * index, size=SHAPES[index])


def parameters(dtype=torch.float64):
    return [torch.nn.Parameter(torch.linspace(-1, 1, SIZE, dtype=dtype).view(shape)) for shape in SHAPES]


def walk(optimizer, params, steps):
    for step in steps:
        for index, param in enumerate(params):
            param.grad = torch.tensor(gradients(index, step), dtype=param.dtype)
        optimizer.step()
    return [param.detach().clone() for param in params]


def transcription(index, lr=0.05, rate=0.3, weight_decay=0.0):
    """The same optimizer, written down again for one tensor."""
    param = np.linspace(-1, 1, SIZE).reshape(SHAPES[index])
    mean, previous, logit, agreement = np.zeros_like(param), np.zeros_like(param), -0.5, 0.0
    for step in range(STEPS):
        logit += rate * agreement / SIZE
        gain = 1 / (1 + np.exp(-logit))
        innovation = gradients(index, step) - mean
        mean = mean + gain * innovation
        agreement = np.sum(np.sign(innovation) * np.sign(previous))
        previous = innovation
        param = param * (1 - lr * weight_decay) - lr * mean
    return param, logit, agreement


@pytest.fixture(params=WAYS)
def flags(request):
    if request.param == "fused":
        request.getfixturevalue("toy_kernels")
    return WAYS[request.param]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_learned_gain_is_the_transcriptions(flags, weight_decay):
    params = parameters()
    optimizer = Learned(params, weight_decay=weight_decay, **flags)
    walk(optimizer, params, range(STEPS))
    for index, param in enumerate(params):
        expected, logit, agreement = transcription(index, weight_decay=weight_decay)
        state = optimizer.state[param]
        np.testing.assert_allclose(param.detach().numpy(), expected, rtol=1e-12, atol=1e-13)
        assert state["logit"].item() == pytest.approx(logit, rel=1e-12)
        assert state["agreement"].item() == agreement


def test_the_gains_of_the_tensors_part():
    """Otherwise the test above would not notice a number that went to the wrong tensor."""
    assert len({round(transcription(index)[1], 3) for index in range(len(SHAPES))}) == len(SHAPES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_statistics_are_kept_in_float32(flags, dtype):
    params = parameters(dtype)
    optimizer = Learned(params, **flags)
    walk(optimizer, params, range(3))
    for name in ("agreement", "logit"):
        assert {optimizer.state[param][name].dtype for param in params} == {torch.float32}
        assert {optimizer.state[param][name].shape for param in params} == {()}


def through_state_dict(optimizer, params):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = Learned(fresh, lr=1.0, foreach=False)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other, fresh


def through(copy_of):
    def copied(optimizer, params):
        other, fresh = copy_of((optimizer, params))
        return other, fresh

    return copied


@pytest.mark.parametrize(
    "resume",
    [through_state_dict, through(copy.deepcopy), through(lambda pair: pickle.loads(pickle.dumps(pair)))],
    ids=["state_dict", "deepcopy", "pickle"],
)
def test_resuming_is_not_having_stopped(flags, resume):
    params = parameters(torch.float32)
    optimizer = Learned(params, **flags)
    walk(optimizer, params, range(10))
    other, fresh = resume(optimizer, params)
    ours = walk(optimizer, params, range(10, STEPS))
    theirs = walk(other, fresh, range(10, STEPS))
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    for x, y in zip(params, fresh, strict=True):
        assert optimizer.state[x].keys() == other.state[y].keys()
        assert all(torch.equal(optimizer.state[x][name], other.state[y][name]) for name in optimizer.state[x])


def test_a_tensor_that_comes_late_learns_from_its_own_start(flags):
    params = parameters()[:2]
    optimizer = Learned(params, **flags)
    for step in range(STEPS + 5):
        params[0].grad = torch.tensor(gradients(0, step))
        params[1].grad = torch.tensor(gradients(1, step - 5)) if step >= 5 else None
        optimizer.step()
    expected, logit, _ = transcription(1)
    np.testing.assert_allclose(params[1].detach().numpy(), expected, rtol=1e-12, atol=1e-13)
    assert optimizer.state[params[1]]["logit"].item() == pytest.approx(logit, rel=1e-12)


def test_a_complex_tensors_statistics_are_its_pairs(flags):
    values = torch.randn(5, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = torch.nn.Parameter(values[0].view(-1, 2).clone())
    whole = torch.nn.Parameter(torch.view_as_complex(values[0].view(-1, 2)).clone())
    optimizers = Learned([pairs], **flags), Learned([whole], **flags)
    for row in values[1:]:
        pairs.grad = row.view(-1, 2).clone()
        whole.grad = torch.view_as_complex(row.view(-1, 2)).clone()
        for optimizer in optimizers:
            optimizer.step()
    states = optimizers[0].state[pairs], optimizers[1].state[whole]
    assert states[0]["agreement"] == states[1]["agreement"]
    assert states[0]["logit"] == states[1]["logit"]
    torch.testing.assert_close(torch.view_as_real(whole), pairs, rtol=1e-14, atol=0.0)


def test_a_rule_without_statistics_keeps_none(flags):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = Momentum([param], **flags)
    optimizer.step()
    assert set(optimizer.state[param]) == {"step", "mean"}
