"""`torch.compile(optimizer.step)`: one graph for all steps, of the same values as without it."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import varigrad
from varigrad.engine.rounding import LOW_PRECISION

from .contenders import every_contender, feed, parameters, run, same, twins

STEPS = 5


@pytest.fixture(autouse=True)
def a_fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(optimizer, backend="eager"):
    """The compiled step; in one graph, which torch's own optimizers cannot be made because they break it themselves."""
    if type(optimizer) is not torch.optim.AdamW:
        return torch.compile(optimizer.step, backend=backend, fullgraph=True)

    @torch.compile(backend=backend)
    def step():
        optimizer.step()

    return step


def walk(step, optimizer, params, rates=None):
    for index in range(STEPS):
        optimizer.zero_grad()
        for param in params:
            generator = torch.Generator().manual_seed(index)
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        if rates is not None:
            optimizer.param_groups[0]["lr"].fill_(rates[index])
        step()


def assert_alike(params, others, make):
    # AdamW's bias corrections are computed in float32 where a compiler is to see them.
    tolerance = 1e-4 if make is torch.optim.AdamW else 1e-5
    for one, other in zip(params, others, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"capturable": True}], ids=str)
@every_contender
def test_all_steps_have_one_graph(make, settings):
    if make is torch.optim.AdamW and "capturable" in settings:
        pytest.skip("torch has no capturable step on a CPU")
    params, others = parameters(), twins(parameters())
    optimizer, plain = make(params, lr=1e-2, **settings), make(others, lr=1e-2, **settings)
    counter = CompileCounter()
    walk(compiled(optimizer, counter), optimizer, params)
    walk(plain.step, plain, others)
    assert counter.frame_count == 1
    assert_alike(params, others, make)


@every_contender
def test_a_rate_in_a_tensor_changes_without_another_graph(make):
    rates = [0.5**index for index in range(STEPS)]
    params, others = parameters(), twins(parameters())
    optimizer, plain = make(params, lr=torch.tensor(1.0)), make(others, lr=torch.tensor(1.0))
    counter = CompileCounter()
    walk(compiled(optimizer, counter), optimizer, params, rates)
    walk(plain.step, plain, others, rates)
    assert counter.frame_count == 1
    assert_alike(params, others, make)


def scheduled(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)


def under_schedule(make, rate, backend):
    """Steps under a scheduler, compiled and not."""
    params, others = parameters(), twins(parameters())
    optimizer, plain = make(params, lr=rate, weight_decay=0.1), make(others, lr=0.1, weight_decay=0.1)
    schedules = scheduled(optimizer), scheduled(plain)
    # The scheduler puts a function around the step that torch does not trace, but the step itself it does.
    step = torch.compile(optimizer.step, backend=backend)
    for index in range(STEPS):
        for one, those, take in ((optimizer, params, step), (plain, others, plain.step)):
            one.zero_grad()
            feed(those, index)
            take()
        for schedule in schedules:
            schedule.step()
    assert_alike(params, others, make)


@pytest.mark.filterwarnings("error:Detected call")
@every_contender
def test_a_scheduler_changes_a_tensor_without_another_graph(make):
    counter = CompileCounter()
    under_schedule(make, torch.tensor(0.1, dtype=torch.float64), counter)
    assert counter.frame_count == 1


@every_contender
def test_a_rate_that_is_a_number_becomes_an_input_of_the_graph(make):
    """At its first change. AdaBayes decides by it what to compute, and is to have a tensor."""
    counter = CompileCounter()
    under_schedule(make, 0.1, counter)
    assert counter.frame_count == (STEPS if make is varigrad.AdaBayes else 2)


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("make", [varigrad.VSGD, varigrad.MSGD], ids=lambda make: make.__name__)
def test_low_precision_is_rounded_alike(make, dtype, rounding):
    params = [param.detach().to(dtype).requires_grad_() for param in parameters()]
    others = twins(params)
    settings = {"lr": 1e-3, "rounding": rounding, "state_dtype": torch.bfloat16}
    optimizer, plain = make(params, **settings), make(others, foreach=False, fused=False, capturable=True, **settings)
    counter = CompileCounter()
    walk(compiled(optimizer, counter), optimizer, params)
    walk(plain.step, plain, others)
    assert counter.frame_count == 1
    assert same(params, others)


def test_training_goes_on_compiled_from_a_checkpoint_and_back():
    params, others = parameters(), twins(parameters())
    optimizer, plain = (varigrad.VSGD(each, lr=1e-2) for each in (params, others))
    run(optimizer, params, range(3))
    run(plain, others, range(3))
    for compiling in (True, False):
        params = twins(params)
        resumed = varigrad.VSGD(params)
        resumed.load_state_dict(optimizer.state_dict())
        walk(compiled(resumed) if compiling else resumed.step, resumed, params)
        walk(plain.step, plain, others)
        optimizer = resumed
    assert_alike(params, others, varigrad.VSGD)


@pytest.mark.parametrize("make", [varigrad.VSGD, torch.optim.AdamW], ids=lambda make: make.__name__)
def test_what_the_compiler_generates_computes_the_same(make):
    params, others = parameters(), twins(parameters())
    optimizer, plain = make(params, lr=1e-2), make(others, lr=1e-2)
    walk(compiled(optimizer, "inductor"), optimizer, params)
    walk(plain.step, plain, others)
    assert_alike(params, others, make)
