"""The faults that other optimizer libraries have been seen to have; none of ours may."""

import copy
import io
import pickle

import pytest
import torch

from .table import WAYS, every_optimizer, every_way


def parameters(dtype=torch.float32, shapes=((4, 3), (5,), ())):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def feed(params, step):
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad = 0.1 * torch.randn(param.shape, generator=generator, dtype=torch.float32).to(param.dtype)


def run(optimizer, params, steps):
    for step in steps:
        feed(params, step)
        optimizer.step()


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@every_way
@every_optimizer
def test_hyperparameters_of_a_group_are_used_and_can_be_changed(row, way):
    """Constants derived at construction and cached would be those of the defaults."""
    settings = [{"lr": 1e-2, "weight_decay": 0.1}] + [dict(setting, lr=1e-2) for setting in row.settings[1:]]
    together = [p for _ in settings for p in parameters()[:1]]
    optimizer = row.optimizer([{"params": [p], **s} for p, s in zip(together, settings, strict=True)], **WAYS[way])
    alone = [p.detach().clone().requires_grad_() for p in together]
    optimizers = [row.optimizer([p], **s, **WAYS[way]) for p, s in zip(alone, settings, strict=True)]
    for step in range(5):
        for mine, yours in zip(together, alone, strict=True):
            feed([mine], step)
            feed([yours], step)
        if step == 3:
            for group in (*optimizer.param_groups, *(o.param_groups[0] for o in optimizers)):
                group["lr"] = 3e-3
        optimizer.step()
        for each in optimizers:
            each.step()
    assert_same(together, alone)


@every_way
@every_optimizer
def test_the_gradient_is_read_and_never_written(row, way):
    params = parameters()
    optimizer = row.optimizer(params, lr=1e-2, weight_decay=0.1, maximize=True, **WAYS[way])
    for step in range(3):
        feed(params, step)
        before = [(p.grad.clone(), p.grad._version) for p in params]
        optimizer.step()
        for param, (value, version) in zip(params, before, strict=True):
            assert torch.equal(param.grad, value)
            assert param.grad._version == version


@every_way
@every_optimizer
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_complex_parameter_is_two_real_ones(row, way, dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, dtype=dtype, generator=generator)
    gradients = torch.randn(5, 6, dtype=dtype, generator=generator)
    param = weight.clone().requires_grad_()
    pair = torch.view_as_real(weight).clone().requires_grad_()
    settings = {"matrices": False} if row.name == "AdaptiveMuon" else {}  # the pairs are no matrix
    ours = row.optimizer([param], lr=1e-2, weight_decay=0.1, **settings, **WAYS[way])
    theirs = row.optimizer([pair], lr=1e-2, weight_decay=0.1, **settings, **WAYS[way])
    for step, gradient in enumerate(gradients):
        # Autograd hands out lazily conjugated gradients, which have no real view of their own.
        param.grad = gradient.conj().resolve_conj().conj() if step % 2 else gradient.clone()
        pair.grad = torch.view_as_real(gradient).clone()
        ours.step()
        theirs.step()
    assert torch.equal(torch.view_as_real(param.detach()), pair.detach())
    assert not torch.equal(param.detach(), weight)
    for name, value in ours.state[param].items():
        assert name == "step" or value.shape in (param.shape, ())


@every_way
@every_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_parameters_have_float32_statistics(row, way, dtype):
    """The step is the float32 optimizer's, rounded once."""
    params = parameters(dtype)
    exact = [p.detach().float().requires_grad_() for p in params]
    ours, theirs = (row.optimizer(p, lr=1e-2, rounding="nearest", **WAYS[way]) for p in (params, exact))
    for step in range(4):
        feed(params, step)
        for param, twin in zip(params, exact, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
        for param, twin in zip(params, exact, strict=True):
            assert torch.equal(param, twin.to(dtype))
            twin.data.copy_(param)
    for state in ours.state.values():
        assert {value.dtype for value in state.values()} == {torch.float32}


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resuming_is_not_having_stopped(row, dtype):
    """Through a file, into a new process's objects; with the late parameter that breaks a step counter per group."""
    whole = parameters(dtype)
    optimizer = row.optimizer(whole, lr=1e-2, weight_decay=0.1)
    run(optimizer, whole[:2], range(3))
    run(optimizer, whole, range(3, 5))
    stopped = [p.detach().clone().requires_grad_() for p in whole]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    resumed = row.optimizer(stopped, lr=0.5)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for one, params in ((optimizer, whole), (resumed, stopped)):
        run(one, params, range(5, 9))
    assert_same(stopped, whole)
    for mine, theirs in zip(resumed.state.values(), optimizer.state.values(), strict=True):
        assert {k: v.dtype for k, v in mine.items()} == {k: v.dtype for k, v in theirs.items()}
        assert_same(mine.values(), theirs.values())


@every_optimizer
def test_everything_that_matters_is_in_the_state_dict_or_a_copy(row):
    params = parameters()
    optimizer = row.optimizer(params, lr=1e-2)
    run(optimizer, params, range(3))
    for duplicate in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs = duplicate.param_groups[0]["params"]
        mine = [p.detach().clone().requires_grad_() for p in params]
        original = row.optimizer(mine, lr=1e-2)
        original.load_state_dict(optimizer.state_dict())
        for one, ps in ((original, mine), (duplicate, theirs)):
            run(one, ps, range(3, 6))
        assert_same(mine, theirs)


@every_optimizer
def test_a_checkpoint_from_before_a_flag_existed(row):
    params = parameters()
    optimizer = row.optimizer(params, lr=1e-2)
    run(optimizer, params, range(2))
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["fused"], group["differentiable"]
    optimizer.load_state_dict(saved)
    run(optimizer, params, range(2, 3))
    assert optimizer.param_groups[0]["fused"] is None


@every_optimizer
def test_another_optimizers_checkpoint_is_refused(row):
    params = parameters()
    adamw = torch.optim.AdamW(params)
    run(adamw, params, range(1))
    optimizer = row.optimizer(params)
    with pytest.raises(ValueError, match=f"not {row.name}'s: for parameter 0 it holds .*exp_avg"):
        optimizer.load_state_dict(adamw.state_dict())
    assert "betas" not in optimizer.param_groups[0] or "betas" in optimizer.defaults
    assert not optimizer.state


@every_way
@every_optimizer
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_gradient_stays_where_it_is(row, way, poison):
    params = parameters(shapes=((3,), (3,)))
    optimizer = row.optimizer(params, lr=1e-2, **WAYS[way])
    for step in range(3):
        feed(params, step)
        params[0].grad[1] = poison
        optimizer.step()
    assert params[1].isfinite().all()
    assert params[0][[0, 2]].isfinite().all()


@every_way
@every_optimizer
def test_maximize_is_descending_the_negative(row, way):
    up, down = parameters(), parameters()
    climb = row.optimizer(up, lr=1e-2, maximize=True, **WAYS[way])
    descend = row.optimizer(down, lr=1e-2, **WAYS[way])
    for step in range(3):
        feed(up, step)
        for a, b in zip(up, down, strict=True):
            b.grad = -a.grad
        climb.step()
        descend.step()
    assert_same(up, down)


@pytest.mark.filterwarnings("ignore:AdaBayes")  # it says what sgd_lr is then taken to belong to
@every_way
@every_optimizer
def test_a_learning_rate_of_zero_moves_nothing_but_the_belief(row, way):
    """Warm-up starts there."""
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = row.optimizer(params, lr=0.0, weight_decay=0.1, **WAYS[way])
    run(optimizer, params, range(2))
    assert_same(params, before)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    run(optimizer, params, range(2, 4))
    assert all(p.isfinite().all() for p in params)
    assert not torch.equal(params[0], before[0])


@every_way
@every_optimizer
def test_a_tensor_for_a_learning_rate(row, way):
    mine, yours = parameters(torch.float64), parameters(torch.float64)
    tensor = row.optimizer(mine, lr=torch.tensor(0.0078125), weight_decay=0.1, **WAYS[way])
    number = row.optimizer(yours, lr=0.0078125, weight_decay=0.1, **WAYS[way])
    for one, params in ((tensor, mine), (number, yours)):
        run(one, params, range(3))
    for a, b in zip(mine, yours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
