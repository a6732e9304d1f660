"""The fused way against the loop, on every layout, size and split of the work."""

import itertools
import os
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varigrad.engine import fused, loop
from varigrad.engine import threads as engine_threads
from varigrad.engine.compiled import side_by_side
from varigrad.engine.rule import maximum, minimum, rule, sign, where
from varigrad.engine.storage import Rounding, load, store
from varigrad.engine.threads import together

from . import toy_rules
from .conftest import compile_rules
from .toy_rules import (
    EXACT_SCALARS,
    RANDOM_RULES,
    RULES,
    SCALARS,
    WITHOUT_ROOT,
    Momentum,
    by_name,
    copy,
    differences,
    draw,
    exact_inputs,
    run,
)

pytestmark = pytest.mark.usefixtures("toy_kernels")

DTYPES = [torch.float32, torch.float64]
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "the_rule", [r for r in WITHOUT_ROOT if r.state and r is not toy_rules.numbers_first], ids=by_name
)
def test_state_in_bfloat16_is_the_loops_rounded_by_the_same_numbers(the_rule, threads, monkeypatch):
    """Over many blocks, from any first element on, shared between threads, with what is not finite among them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(fused, "SHARE", 100)
    monkeypatch.setattr(fused, "SPAN", 1088)
    shapes, places = ((3, 1001), (3, 5), (), (0,), (513,)), [0, 11, 2**33 + 5, 0, 256]
    tensors = draw(the_rule, shapes, torch.float32)
    for name in the_rule.state:
        for column in (tensors[name], tensors["grad"]):
            column[0].view(-1)[300:303] = torch.tensor([torch.inf, -torch.inf, torch.nan])
        tensors[name] = [tensor.bfloat16() for tensor in tensors[name]]
    names = ("param", *the_rule.state)
    rounding = Rounding({name: names.index(name) for name in the_rule.state}, [7] * len(shapes), places)
    scalars = {name: value for name, value in SCALARS.items() if name in the_rule.keywords}
    ours, theirs = copy(tensors), copy(tensors)
    sums = fused.run(the_rule, ours, scalars, False, rounding)
    loaded = load(theirs)
    expected = loop.run(the_rule, loaded, scalars, False)
    store(theirs, loaded, names, rounding)
    assert not differences(ours, theirs)
    assert not differences(sums, expected, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("the_rule", [r for r in WITHOUT_ROOT if r is not toy_rules.numbers_first], ids=by_name)
@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"decay": 0.97}])
def test_fused_is_the_loop_in_every_bit(the_rule, dtype, options):
    """Additions and multiplications are rounded one by one, as torch's are."""
    tensors = draw(the_rule, shapes=((1000,), (3, 5), (), (0,)), dtype=dtype)
    ours, theirs = (run(way, the_rule, tensors, **options) for way in ("fused", "loop"))
    for name in the_rule.statistics:  # sums are another matter: their order is free
        assert not differences({name: ours.pop(name)}, {name: theirs.pop(name)}, 1e-5)
    assert not differences(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("the_rule", [toy_rules.normalized, toy_rules.numbers_first], ids=by_name)
def test_what_torch_rounds_otherwise_is_the_loops_to_rounding(the_rule, dtype):
    # torch's vectorized square root may be off by one in the last place, and it computes 2 / x as 2 * (1 / x).
    tensors = draw(the_rule, shapes=((1000,), ()), dtype=dtype)
    tensors[the_rule.state[-1]] = [tensor.square() for tensor in tensors[the_rule.state[-1]]]
    ours, theirs = (run(way, the_rule, tensors) for way in ("fused", "loop"))
    assert not differences(ours, theirs, ROUNDING[dtype])


@pytest.mark.parametrize("the_rule", RANDOM_RULES, ids=by_name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"maximize": True, "decay": 0.5}])
def test_random_rules_run_alike(the_rule, dtype, options):
    tensors = exact_inputs(0, dtype, shapes=((50,), (2, 4), (), (0,)))
    loop, foreach, compiled = (
        run(way, the_rule, tensors, **EXACT_SCALARS | options) for way in ("loop", "foreach", "fused")
    )
    assert not differences(compiled, loop)
    assert not differences(foreach, loop)


@pytest.mark.parametrize("the_rule", RULES, ids=by_name)
def test_the_gradient_is_never_written(the_rule):
    tensors = draw(the_rule)
    after = run("fused", the_rule, tensors, maximize=True, decay=0.9)
    assert not differences({"grad": tensors["grad"]}, {"grad": after["grad"]})


@pytest.mark.parametrize("way", ["loop", "foreach", "fused"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_stays_in_its_element(way, bad):
    tensors = draw(toy_rules.normalized)
    tensors["square"] = [tensor.abs() for tensor in tensors["square"]]
    clean = run(way, toy_rules.normalized, tensors)
    tensors["grad"][0][3] = bad
    dirty = run(way, toy_rules.normalized, tensors)
    for name in ("param", "mean", "square"):
        touched = (clean[name][0] != dirty[name][0]).nonzero().flatten().tolist()
        assert touched == [3]
        assert not differences({name: clean[name][1:]}, {name: dirty[name][1:]})


@rule(state=("low",))
def clamping(param, grad, low, *, lr):
    return param - lr * minimum(maximum(grad, low), 1.0), maximum(low, minimum(grad, param))


@rule(state=("low",))
def passing_on(param, grad, low, *, lr):
    return where(grad > 0.0, param, -param), sign(low) + abs(grad)


@rule(state=("mean",))
def choosing_by_number(param, grad, mean, *, lr):
    return param - lr * where(lr > 0.05, mean, grad), where(lr < 0.05, mean, grad)


SPECIAL = [0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan")]


def special_tensors(names):
    grids = torch.meshgrid(*[torch.tensor(SPECIAL, dtype=torch.float64)] * len(names), indexing="ij")
    return {name: [grid.clone()] for name, grid in zip(names, grids, strict=True)}


@pytest.fixture(scope="module")
def special_library(tmp_path_factory):
    return compile_rules([clamping, passing_on, choosing_by_number], tmp_path_factory.mktemp("special"))


@pytest.mark.parametrize(
    "the_rule",
    [
        clamping,
        passing_on,
    ],
    ids=by_name,
)
def test_special_values_are_treated_alike(the_rule, special_library, use_library):
    use_library(special_library)
    tensors = special_tensors(the_rule.elements)
    results = [run(way, the_rule, tensors) for way in ("loop", "foreach", "fused")]
    assert not differences(results[1], results[0])
    assert not differences(results[2], results[0])


@pytest.mark.parametrize("way", ["loop", "foreach"])
def test_a_choice_between_two_numbers_is_refused(way):
    """It would have torch's default precision, whatever that of the tensors is."""

    @rule(state=())
    def choosing_numbers(param, grad, *, lr):
        return (param - where(grad > 0.0, 0.1, lr) * grad,)

    with pytest.raises(TypeError, match=r"where needs a value for each element on one side at least, not 0\.1 and"):
        run(way, choosing_numbers, draw(choosing_numbers), lr=0.3)


@pytest.mark.parametrize("way", ["loop", "foreach", "fused"])
@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_a_number_may_be_what_is_chosen_by(way, rate, special_library, use_library):
    use_library(special_library)
    tensors = draw(choosing_by_number)
    found = run(way, choosing_by_number, tensors, lr=rate)
    first, kept = ("mean", "grad") if rate > 0.05 else ("grad", "mean")
    for index, param in enumerate(tensors["param"]):
        # The foreach way rounds a scaled addition once.
        torch.testing.assert_close(found["param"][index], param - rate * tensors[first][index], rtol=1e-14, atol=1e-15)
        assert torch.equal(found["mean"][index], tensors[kept][index])


# ---------------------------------------------------------------- layouts


def params():
    base = torch.randn(4, 6, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return {
        "contiguous": base,
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 3),
        "permuted": base.permute(2, 0, 3, 1),
        "every_other": base[:, ::2, :, ::2],
        "narrow": base[:, 1:3],
        "last_column": base[..., -1],
        "unit_dimensions": base[:, :1, :, :1],
        "zero_dimensions": base[0, 0, 0, 0],
        "empty": base[:, :0],
    }


def turned(tensor):
    return tensor.permute(tuple(reversed(range(tensor.ndim))))


def with_strides_of(param, values):
    return torch.empty_strided(param.shape, param.stride(), dtype=param.dtype).copy_(values)


ARRANGED = {
    "contiguous": lambda values, param: values,
    "like the parameter": lambda values, param: torch.empty_like(param).copy_(values),
    "with the parameter's strides": lambda values, param: with_strides_of(param, values),
    "turned": lambda values, param: turned(turned(values).contiguous()),
    "strided": lambda values, param: torch.stack([values, values], -1)[..., 0],
    "expanded": lambda values, param: torch.full((), 0.7, dtype=values.dtype).expand(values.shape),
}


@pytest.mark.parametrize("grad", ARRANGED)
@pytest.mark.parametrize("mean", [name for name in ARRANGED if name != "expanded"])
@pytest.mark.parametrize("param", params())
def test_every_layout_gives_the_same(param, grad, mean):
    """Each of parameter, gradient and state may lie in memory in its own way."""
    tensors = {"param": [params()[param]]}
    given = tensors["param"][0]
    for seed, (name, how) in enumerate({"grad": grad, "mean": mean}.items()):
        values = torch.randn(given.shape, dtype=given.dtype, generator=torch.Generator().manual_seed(seed))
        tensors[name] = [ARRANGED[how](values, given)]
    before = {name: (column[0], column[0].stride()) for name, column in tensors.items()}
    expected = run("loop", toy_rules.momentum, {name: [t.contiguous() for t in c] for name, c in tensors.items()})
    fused.run(toy_rules.momentum, tensors, SCALARS, False)
    for name, (tensor, stride) in before.items():
        assert tensors[name][0] is tensor
        assert tensor.stride() == stride
    assert not differences(tensors, expected)


@pytest.mark.parametrize("arranged", ["contiguous", "with the parameter's strides"])
def test_what_lies_between_the_elements_is_not_touched(arranged):
    base = torch.zeros(6, 8, dtype=torch.float64)
    param = base[1:5, ::2]
    grad, mean = (ARRANGED[arranged](torch.full((4, 4), value, dtype=torch.float64), param) for value in (1.0, 0.0))
    fused.run(toy_rules.momentum, {"param": [param], "grad": [grad], "mean": [mean]}, SCALARS, False)
    assert torch.count_nonzero(base) == param.numel() == torch.count_nonzero(param)


def test_a_negated_view_is_read_as_what_it_stands_for():
    tensors = draw(toy_rules.momentum, shapes=((5,),))
    expected = run("loop", toy_rules.momentum, tensors)
    tensors["grad"] = [torch._neg_view(-tensors["grad"][0])]
    fused.run(toy_rules.momentum, tensors, SCALARS, False)
    assert not differences({n: tensors[n] for n in ("param", "mean")}, expected)


# ---------------------------------------------------------------- threads


@given(sizes=st.lists(st.integers(0, 700), max_size=8))
def test_the_portions_cover_every_element_once(sizes):
    spans, ends, owners = fused._spans(tuple(sizes), 128)
    assert (list(range(len(sizes))) if owners is None else owners.tolist()) == list(spans[::3])
    spans = np.array(spans, dtype=int).reshape(-1, 3)
    covered = [np.zeros(size, dtype=int) for size in sizes]
    portions = [spans[first:last].tolist() for first, last in itertools.pairwise(ends)]
    for index, start, stop in (span for portion in portions for span in portion):
        assert 0 <= start < stop <= sizes[index]
        assert start % 64 == 0  # whole cache lines
        covered[index][start:stop] += 1
    assert all((tensor == 1).all() for tensor in covered)
    held = [sum(stop - start for _, start, stop in portion) for portion in portions]
    assert all(0 < elements <= 128 for elements in held)
    assert all(one + other > 128 for one, other in itertools.pairwise(held)), "small tensors are not put together"


@given(count=st.integers(1, 40), threads=st.integers(1, 7))
def test_every_portion_is_taken_once(count, threads):
    """By one thread, which asks in the others' stead, too; the statistics would count twice what is done twice."""
    tensors = {name: [torch.ones(2) for _ in range(count)] for name in toy_rules.counting.elements}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "SPAN", 2)
        patch.setattr(fused, "SHARE", 1)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        patch.setattr(fused, "together", lambda function, arguments, number: together(function, arguments, 1))
        sums = fused.run(toy_rules.counting, tensors, {"lr": 1.0, "beta": 0.5}, False)
    assert sums["agreement"].tolist() == [2.0] * count
    assert all((param == 0).all() for param in tensors["param"])


@pytest.fixture(params=["team", "pool"])
def whose(request, monkeypatch):
    """The threads of torch's own team, or of a pool."""
    if request.param == "pool":
        monkeypatch.setattr(engine_threads, "_team", lambda: None)
    elif engine_threads._team() is None:
        pytest.skip("torch's threads are not OpenMP's")
    return request.param


def test_here_torchs_own_threads_are_found():
    if sys.platform == "linux" and "parallel backend: OpenMP" in torch.__config__.parallel_info():
        assert engine_threads._team() is not None


def test_work_is_done_in_the_threads_that_there_are(whose, threads):
    """More are asked for than there may be; each of the elements is stepped once all the same."""
    threads(50)
    tensors = draw(toy_rules.counting, shapes=((50 * fused.SHARE,),), dtype=torch.float32)
    ours, theirs = (run(way, toy_rules.counting, tensors) for way in ("fused", "loop"))
    assert not differences(ours, theirs)


def test_a_pool_that_is_busy_elsewhere_is_not_waited_for(monkeypatch, threads):
    threads(2)
    monkeypatch.setattr(engine_threads, "_team", lambda: None)
    busy, pool = threading.Event(), engine_threads._pool()
    blocked = [pool.submit(busy.wait) for _ in range(pool._max_workers)]
    tensors = draw(toy_rules.counting, shapes=((4 * fused.SHARE,),), dtype=torch.float32)
    ours, theirs = (run(way, toy_rules.counting, tensors) for way in ("fused", "loop"))
    busy.set()
    assert not differences(ours, theirs)
    assert all(future.result() for future in blocked)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [fused.SHARE - 1, fused.SHARE, 2 * fused.SHARE - 1, 2 * fused.SHARE, 300_001])
def test_any_number_of_threads_computes_the_same(count, size, threads, whose):
    threads(count)
    tensors = draw(toy_rules.counting, shapes=((size,), (3,), (size // 2, 2), ()), dtype=torch.float32)
    ours, theirs = (run(way, toy_rules.counting, tensors) for way in ("fused", "loop"))
    assert not differences(ours, theirs)  # the statistics are counts: exact in any order


def test_sums_do_not_depend_on_the_threads(threads):
    tensors = draw(toy_rules.summing, shapes=((5 * fused.SPAN + 7,), (3,), (fused.SPAN, 2)), dtype=torch.float32)
    sums = []
    for count in (1, 2, 3):
        threads(count)
        sums.append(run("fused", toy_rules.summing, copy(tensors))["length"])
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_statistics_belong_to_their_tensor_across_spans(threads, monkeypatch):
    monkeypatch.setattr(fused, "SHARE", 128)
    monkeypatch.setattr(fused, "SPAN", 128)
    threads(4)
    tensors = draw(toy_rules.counting, shapes=((1000,), (1,), (), (0,), (777,), (64,)))
    sums = run("fused", toy_rules.counting, tensors)
    for index, (grad, previous) in enumerate(zip(tensors["grad"], tensors["previous"], strict=True)):
        assert sums["agreement"][index].item() == (grad.sign() * previous.sign()).sum().item()
        assert sums["positive"][index].item() == (grad > SCALARS["beta"]).sum().item()


def test_numbers_per_tensor_reach_their_tensor_across_spans(threads, monkeypatch):
    monkeypatch.setattr(fused, "SHARE", 128)
    monkeypatch.setattr(fused, "SPAN", 128)
    threads(3)
    tensors = draw(toy_rules.momentum, shapes=((500,), (3,), (900,), ()))
    rates = [torch.tensor(0.1 * index, dtype=torch.float64) for index in range(4)]
    ours, theirs = (run(way, toy_rules.momentum, tensors, lr=rates) for way in ("fused", "loop"))
    assert not differences(ours, theirs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process is multi-threaded:DeprecationWarning")
def test_a_forked_child_steps_too(threads, whose):
    """A child inherits the pool or the team, but none of their threads: waiting for them would take for ever."""
    threads(2)
    tensors = draw(toy_rules.momentum, shapes=((4 * fused.SHARE,),), dtype=torch.float32)
    ours, forked = copy(tensors), copy(tensors)
    fused.run(toy_rules.momentum, ours, SCALARS, False)
    expected = ours["param"][0].numpy()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        fused.run(toy_rules.momentum, forked, SCALARS, False)
        os._exit(0 if (forked["param"][0].numpy() == expected).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


# ---------------------------------------------------------------- autograd


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_a_backward_through_a_stepped_parameter_raises(way, dtype):
    param = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    param.grad = torch.ones_like(param)
    optimizer = Momentum([param], **way)
    loss = (param * param).sum().abs()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_parameter_that_was_given_other_data_is_refused():
    """With as many elements in another shape, they would be mixed up with those of the state or the gradient."""
    param = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = Momentum([param], fused=True)
    param.grad = torch.ones(2, 3)
    optimizer.step()
    param.grad, grad = None, torch.ones(3, 2)
    param.data = torch.zeros(3, 2)
    param.grad = grad
    with pytest.raises(RuntimeError, match=r"mean of a parameter of shape \(3, 2\) has the shape \(2, 3\): was the"):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"the grad of a parameter of shape \(3, 2\) has the shape \(2, 3\)"):
        side_by_side({"param": [torch.zeros(3, 2)], "grad": [torch.zeros(2, 3)]}, ["param"])
