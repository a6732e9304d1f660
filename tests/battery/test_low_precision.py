"""Parameters and state of 16 bits, for every optimizer: they move as far as in float32, and alike in every way."""

import copy

import pytest
import torch

from .table import ROWS, every_optimizer, every_way
from .table import WAYS as ALL_WAYS

DTYPES = (torch.bfloat16, torch.float16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
careful = pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
every_rounding = pytest.mark.parametrize("rounding", ["stochastic", "kahan", "nearest"])

WEIGHTS = 4096
STEPS = 200
LR = 1e-4


def leaf(start, dtype):
    return start.to(dtype).requires_grad_()


def climb(row, dtype, rounding, gradient=1.0, steps=STEPS, **settings):
    """Steps of the same gradient, from weights of size 1; returns the weights and the optimizer."""
    # One half and one and a half unit above 1: no weight sits where rounding could go one way only.
    param = leaf(torch.full((WEIGHTS,), 1.0 + 2.0**-6), dtype)
    optimizer = row.optimizer([param], lr=LR, rounding=rounding, **settings)
    for _ in range(steps):
        param.grad = torch.full_like(param, gradient)
        optimizer.step()
    return param.detach().double(), optimizer


@every_dtype
@every_optimizer
def test_weights_move_as_far_as_in_float32_on_average(row, dtype):
    """At a rate where one step is an eightieth of the spacing of bfloat16; AdaBayes' is smaller still."""
    wide, _ = climb(row, torch.float32, "nearest")
    narrow, _ = climb(row, dtype, "stochastic")
    start = 1.0 + 2.0**-6
    spacing = torch.finfo(dtype).eps
    # A step is a coin toss, of a spacing or nothing: its variance is at most the step times the spacing.
    deviation = ((wide[0] - start).abs() * spacing / WEIGHTS).sqrt()
    assert (wide[0] - start).abs() > 20 * deviation
    assert abs(narrow.mean() - wide[0]) < 5 * deviation


@every_dtype
@every_optimizer
def test_weights_stand_still_where_their_steps_are_rounded_to_the_nearest(row, dtype):
    """What the other roundings are for."""
    wide, _ = climb(row, torch.float32, "nearest", steps=1)
    if (wide[0] - (1.0 + 2.0**-6)).abs() > torch.finfo(dtype).eps / 4:
        pytest.skip("its steps are large enough")
    narrow, _ = climb(row, dtype, "nearest")
    assert (narrow == 1.0 + 2.0**-6).all()


@every_dtype
@every_optimizer
def test_compensated_weights_are_those_of_float32_rounded(row, dtype):
    wide, _ = climb(row, torch.float32, "nearest")
    narrow, optimizer = climb(row, dtype, "kahan")
    assert (narrow - wide).abs().max() <= torch.finfo(dtype).eps
    (state,) = optimizer.state.values()
    assert state["compensation"].dtype is dtype
    whole = narrow + state["compensation"].double()
    # Two numbers of n bits hold about 2n: each step may lose what neither can hold.
    assert (whole - wide).abs().max() <= STEPS * torch.finfo(dtype).eps ** 2


@careful
@every_dtype
@every_optimizer
def test_weights_decay(row, dtype, rounding):
    """By 1e-5 of themselves in a step, with no gradient to speak of."""
    settings = {"gradient": 0.0, "weight_decay": 0.1}
    wide, _ = climb(row, torch.float32, "nearest", **settings)
    narrow, optimizer = climb(row, dtype, rounding, **settings)
    start, spacing = 1.0 + 2.0**-6, torch.finfo(dtype).eps
    deviation = ((wide[0] - start).abs() * spacing / WEIGHTS).sqrt()
    assert start - wide[0] > 20 * deviation
    if rounding == "stochastic":
        assert abs(narrow.mean() - wide[0]) < 5 * deviation
    else:
        (state,) = optimizer.state.values()
        assert (narrow + state["compensation"].double() - wide).abs().max() <= STEPS * spacing**2
    still, _ = climb(row, dtype, "nearest", **settings)
    assert (still == start).all()


# Without a square root loop and fused agree; foreach fuses multiplications and additions where a rule has both.
ALIKE = {"SSD": tuple(ALL_WAYS), "MSGD": ("loop", "fused"), "MSSD": ("loop", "fused")}


def layouts():
    """Weights whose elements lie in memory in different orders."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "a row": draw(37),
        "tiny": draw(300) * 1e-6,
        "a number": draw(),
        "empty": draw(0),
        "channels last": draw(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        "transposed": draw(6, 7).t(),
        "every other": draw(20, 3)[::2],
        "more than one thread's": draw(300, 501),
    }


def walk(params, optimizer, steps):
    for step in steps:
        for index, param in enumerate(params):
            generator = torch.Generator().manual_seed(100 * step + index)
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


def everything(params, optimizer):
    tensors = [param.detach() for param in params]
    for param in params:
        state = optimizer.state[param]
        tensors += [state[name] for name in sorted(state)]
    return tensors


@every_rounding
@every_dtype
@pytest.mark.parametrize(
    ("row", "ways"),
    [(row, ALIKE[row.name]) for row in ROWS if row.name in ALIKE],
    ids=[row.name for row in ROWS if row.name in ALIKE],
)
def test_every_way_rounds_alike(row, ways, dtype, rounding):
    """To the bit, where the ways compute the same bits in float32."""
    ends = []
    for flags in map(ALL_WAYS.get, ways):
        params = [leaf(start, dtype) for start in layouts().values()]
        optimizer = row.optimizer(
            params, lr=1e-3, weight_decay=0.1, rounding=rounding, state_dtype=torch.bfloat16, **flags
        )
        walk(params, optimizer, range(3))
        ends.append(everything(params, optimizer))
    for end in ends[1:]:
        for one, other in zip(ends[0], end, strict=True):
            assert one.dtype is other.dtype
            assert torch.equal(one, other)


@every_way
@every_optimizer
def test_low_precision_state_follows_that_of_float32(row, way):
    """The mean over many weights; each single one is rounded to eight bits."""
    ends = []
    for state_dtype in (None, torch.bfloat16):
        params = [torch.zeros(20_000, requires_grad=True)]
        optimizer = row.optimizer(params, lr=LR, state_dtype=state_dtype, **ALL_WAYS[way])
        walk(params, optimizer, range(30))
        ends.append((params[0].detach(), optimizer.state[params[0]]))
    (_, wide), (param, narrow) = ends
    assert param.dtype is torch.float32
    for name in optimizer.rule.state:
        assert narrow[name].dtype is torch.bfloat16
        exact, rounded = wide[name].double(), narrow[name].double()
        assert (rounded.mean() - exact.mean()).abs() < 0.01 * exact.square().mean().sqrt()
        assert (rounded - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
@every_rounding
@every_dtype
@every_optimizer
def test_resuming_is_not_having_stopped(row, dtype, rounding, state_dtype):
    def fresh():
        params = [leaf(start, dtype) for start in list(layouts().values())[:5]]
        return params, row.optimizer(params, lr=1e-3, rounding=rounding, state_dtype=state_dtype)

    params, optimizer = fresh()
    walk(params, optimizer, range(4))
    saved = copy.deepcopy((optimizer.state_dict(), [param.detach() for param in params]))
    walk(params, optimizer, range(4, 8))
    others, resumed = fresh()
    for other, start in zip(others, saved[1], strict=True):
        other.data.copy_(start)
    resumed.load_state_dict(saved[0])
    walk(others, resumed, range(4, 8))
    for one, other in zip(everything(params, optimizer), everything(others, resumed), strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


@every_optimizer
def test_a_state_dict_with_low_precision_is_loaded_safely(row, tmp_path):
    params = [leaf(torch.ones(5), torch.bfloat16)]
    optimizer = row.optimizer(params, lr=1e-3, rounding="kahan", state_dtype=torch.bfloat16)
    walk(params, optimizer, range(2))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    fresh = row.optimizer([leaf(torch.ones(5), torch.bfloat16)], lr=1e-3)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert fresh.param_groups[0]["state_dtype"] is torch.bfloat16
    assert fresh.param_groups[0]["rounding"] == "kahan"


@every_way
@every_optimizer
def test_the_rounding_may_be_changed_between_two_steps(row, way):
    """What was kept of a rounding begins at nothing, and is dropped when it is not wanted any more."""
    param = leaf(torch.ones(50), torch.bfloat16)
    optimizer = row.optimizer([param], lr=1e-3, **ALL_WAYS[way])
    for rounding, kept in (("stochastic", False), ("kahan", True), ("nearest", False), ("kahan", True)):
        optimizer.param_groups[0]["rounding"] = rounding
        walk([param], optimizer, range(2))
        assert ("compensation" in optimizer.state[param]) == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@every_optimizer
def test_other_parameters_are_not_concerned(row, dtype):
    ends = []
    for rounding in ("stochastic", "kahan", "nearest"):
        params = [leaf(torch.ones(5), dtype)]
        optimizer = row.optimizer(params, lr=1e-3, rounding=rounding)
        walk(params, optimizer, range(3))
        ends.append(everything(params, optimizer))
    for end in ends[1:]:
        assert all(torch.equal(one, other) for one, other in zip(ends[0], end, strict=True))


@every_way
@every_optimizer
def test_float64_parameters_may_have_low_precision_state(row, way):
    params = [leaf(start, torch.float64) for start in layouts().values()]
    optimizer = row.optimizer(params, lr=1e-3, state_dtype=torch.bfloat16, **ALL_WAYS[way])
    walk(params, optimizer, range(3))
    assert all(param.isfinite().all() for param in params)
    dtypes = {state[name].dtype for state in optimizer.state.values() for name in optimizer.rule.state}
    assert dtypes <= {torch.bfloat16}


@every_optimizer
def test_complex_state_cannot_be_of_low_precision(row):
    param = leaf(torch.ones(3), torch.complex64)
    optimizer = row.optimizer([param], lr=1e-3, state_dtype=torch.bfloat16)
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match=r"state_dtype=torch.bfloat16 has no complex form, which parameter number 0"):
        optimizer.step()
    assert not optimizer.state


@every_optimizer
def test_rounded_state_is_not_differentiable(row):
    with pytest.raises(RuntimeError, match="rounded state is not differentiable; leave state_dtype=None"):
        row.optimizer([torch.ones(3, requires_grad=True)], state_dtype=torch.bfloat16, differentiable=True)


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("rounding", "up", ValueError),
        ("rounding", None, TypeError),
        ("state_dtype", torch.float16, ValueError),
        ("state_dtype", "bfloat16", TypeError),
    ],
)
@every_optimizer
def test_what_is_neither_is_refused(row, setting, value, error):
    with pytest.raises(error, match=f"{row.name}'s {setting} = .* is not accepted: it must be"):
        row.optimizer([torch.ones(3, requires_grad=True)], **{setting: value})
