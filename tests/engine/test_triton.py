"""The fused way on a GPU against the loop on a CPU; where there is no GPU, in Triton's interpreter."""

import pytest
import torch

from tests.battery.table import ROWS
from varigrad.engine import foreach, triton_way, ways
from varigrad.engine.operations import OPERATIONS
from varigrad.engine.rule import RESERVED
from varigrad.engine.storage import Rounding, load, store
from varigrad.vsgd import vsgd

from . import toy_rules
from .test_ways import ARRANGED, choosing_by_number, clamping, passing_on, special_tensors
from .test_ways import params as layouts
from .toy_rules import (
    EXACT_SCALARS,
    RANDOM_RULES,
    RULES,
    SCALARS,
    Learned,
    Momentum,
    by_name,
    copy,
    differences,
    draw,
    exact_inputs,
)
from .toy_rules import run as run_way

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((2 * triton_way.BLOCK + 5,), (3, 5), (), (0,), (triton_way.BLOCK,))

# The interpreter divides where the kernel's masked lanes do, by the zeros in them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning")


@pytest.fixture(autouse=True)
def exact_loop(monkeypatch):
    """Makes the loop round square roots and quotients of float32 correctly, as the kernels do.

    torch's vectorized root may be off by one in the last place, and it computes 2 / x as 2 * (1 / x).
    """

    def sqrt(x):
        return x.double().sqrt().to(x.dtype)

    def divide(x, number):
        return torch.full_like(x, number) / x

    monkeypatch.setitem(OPERATIONS, "sqrt", OPERATIONS["sqrt"]._replace(tensor=sqrt))
    monkeypatch.setattr(torch.Tensor, "__rtruediv__", divide)


@pytest.fixture
def kernels(monkeypatch):
    """Lets optimizers whose flags ask for nothing else take the kernels, also on a CPU."""
    monkeypatch.setattr(ways, "compiled_way", lambda *_: triton_way)


def run(the_rule, tensors, maximize=False, **scalars):
    """What one run of the kernels makes of copies of `tensors`, on the host."""
    ours = {name: [tensor.to(DEVICE, copy=True) for tensor in column] for name, column in tensors.items()}
    given = {name: value for name, value in (SCALARS | scalars).items() if name in (*the_rule.keywords, *RESERVED)}
    found = ours | triton_way.run(the_rule, ours, given, maximize)
    return {name: [tensor.cpu() for tensor in column] for name, column in found.items()}


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("options", [{}, {"maximize": True, "decay": 0.97}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("the_rule", RULES, ids=by_name)
def test_a_kernel_is_the_loop_in_every_bit(the_rule, dtype, options):
    tensors = draw(the_rule, SHAPES, dtype)
    if the_rule is toy_rules.normalized:
        tensors["square"] = [tensor.square() for tensor in tensors["square"]]
    ours, theirs = run(the_rule, tensors, **options), run_way("loop", the_rule, tensors, **options)
    # The fixture cannot round a root of float64 correctly.
    rooted = the_rule is toy_rules.normalized and dtype is torch.float64
    assert not differences(ours, theirs, 1e-14 if rooted else 0.0)


@pytest.mark.parametrize("the_rule", RANDOM_RULES, ids=by_name)
def test_random_rules_are_the_loop(the_rule):
    for dtype in (torch.float32, torch.float64):
        tensors = exact_inputs(3, dtype)
        assert not differences(
            run(the_rule, tensors, **EXACT_SCALARS), run_way("loop", the_rule, tensors, **EXACT_SCALARS)
        )


@pytest.mark.parametrize("the_rule", [clamping, passing_on], ids=by_name)
def test_special_values_are_the_loops(the_rule):
    tensors = special_tensors(the_rule.elements)
    ours, theirs = run(the_rule, tensors), run_way("loop", the_rule, tensors)
    assert not differences(ours, theirs)
    # Which of two zeros of unlike sign is the larger one is free; nothing else loses the sign of a zero.
    if the_rule is passing_on:
        for one, other in zip(ours["param"], theirs["param"], strict=True):
            known = ~other.isnan()
            assert torch.equal(one.signbit()[known], other.signbit()[known])


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_a_number_may_be_what_is_chosen_by(rate):
    tensors = draw(choosing_by_number, SHAPES, torch.float32)
    ours, theirs = run(choosing_by_number, tensors, lr=rate), run_way("loop", choosing_by_number, tensors, lr=rate)
    assert not differences(ours, theirs)


def test_numbers_are_computed_in_float64_and_rounded_once():
    tensors = draw(toy_rules.momentum, ((5,),), torch.float32)
    tensors["mean"][0].zero_()
    beta = 1.0 - 2.0**-30  # in float32 it would be 1, and 1 - beta nothing
    ours, theirs = run(toy_rules.momentum, tensors, beta=beta), run_way("loop", toy_rules.momentum, tensors, beta=beta)
    assert not differences(ours, theirs)
    assert torch.equal(ours["mean"][0], tensors["grad"][0] * 2.0**-30)


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_each_tensor_may_have_its_own_numbers(device):
    tensors = draw(toy_rules.momentum, SHAPES, torch.float32)
    rates = [torch.tensor(0.1 * index, dtype=torch.float64, device=device) for index in range(len(SHAPES))]
    decays = [torch.tensor(1.0 - 0.01 * index, dtype=torch.float64, device=device) for index in range(len(SHAPES))]
    ours = run(toy_rules.momentum, tensors, lr=rates, decay=decays)
    # As floats: torch would compute a 0-dim tensor of float32 and one of float64 in float64.
    expected = {name: [tensor.clone() for tensor in column] for name, column in tensors.items()}
    for index, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
        one = {name: [column[index]] for name, column in tensors.items()}
        for name, column in run_way("loop", toy_rules.momentum, one, lr=rate.item(), decay=decay.item()).items():
            expected[name][index] = column[0]
    assert not differences(ours, expected)


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_a_loss_scale_on_the_device_is_undone_in_the_kernel(device):
    tensors = draw(toy_rules.momentum, SHAPES, torch.float32)
    scaled = tensors | {"grad": [tensor * 64.0 for tensor in tensors["grad"]]}
    inverse = [torch.tensor(1 / 64.0, dtype=torch.float64, device=device)] * len(SHAPES)
    found = [torch.zeros((), device=device)] * len(SHAPES)
    ours = run(toy_rules.momentum, scaled, direction=inverse, skipped=found)
    expected = run(toy_rules.momentum, tensors)
    assert not differences(ours, expected | {"grad": scaled["grad"]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_skipped_keeps_every_bit(dtype):
    tensors = {name: [t.to(dtype) for t in column] for name, column in draw(toy_rules.momentum, SHAPES).items()}
    for tensor in tensors["grad"]:
        tensor.view(-1)[:1] = float("inf")
    found = [torch.tensor(float(index % 2), device=DEVICE) for index in range(len(SHAPES))]
    ours = run(toy_rules.momentum, tensors, skipped=found)
    for name in ("param", "mean"):
        kept = [torch.equal(new, old) for new, old in zip(ours[name], tensors[name], strict=True)]
        assert kept == [index % 2 == 1 or not tensor.numel() for index, tensor in enumerate(tensors[name])]


def test_statistics_belong_to_their_tensor():
    tensors = draw(toy_rules.counting, (*SHAPES, (3000,), (7,)), torch.float32)
    sums = run(toy_rules.counting, tensors)
    for index, (grad, previous) in enumerate(zip(tensors["grad"], tensors["previous"], strict=True)):
        assert sums["agreement"][index].shape == sums["positive"][index].shape == ()
        assert sums["agreement"][index].item() == (grad.sign() * previous.sign()).sum().item()
        assert sums["positive"][index].item() == (grad > SCALARS["beta"]).sum().item()


def test_the_findings_of_many_programs_are_added_up():
    """More of them than the second kernel reads at once, for two tensors and two statistics."""
    ends = [0, triton_way.BLOCK + 7, 2 * triton_way.BLOCK + 20]
    partial = torch.randint(-9, 9, (2, ends[-1]), generator=torch.Generator().manual_seed(0)).double()
    sums = torch.zeros(2, 2, dtype=torch.float64, device=DEVICE)
    firsts = torch.tensor(ends, device=DEVICE)
    triton_way._total()[(2, 2)](partial.to(DEVICE), firsts, sums, 2, ends[-1], BLOCK=triton_way.BLOCK)
    assert torch.equal(sums.cpu(), torch.stack([part.sum(1) for part in partial.tensor_split(ends[1:2], 1)], 1))


def test_tensors_without_elements_are_no_work():
    tensors = draw(toy_rules.counting, ((0,), (0, 3)))
    assert [value.item() for value in run(toy_rules.counting, tensors)["agreement"]] == [0.0, 0.0]


def test_a_further_input_is_read():
    rule = vsgd.taking("spread")
    tensors = {name: [tensor.abs() for tensor in column] for name, column in draw(rule, SHAPES, torch.float32).items()}
    numbers = {"lr": 0.1, "rho1": 0.5, "rho2": 0.6, "prior_strength": 0.1, "variance_ratio": 3.0, "shape": 0.7}
    numbers["eps"] = 1e-8
    theirs = copy(tensors)
    moved = {name: [tensor.to(DEVICE, copy=True) for tensor in column] for name, column in tensors.items()}
    triton_way.run(rule, moved, numbers, False)
    toy_rules.WAYS["loop"].run(rule, theirs, numbers, False)
    assert not differences({name: [t.cpu() for t in column] for name, column in moved.items()}, theirs)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("arranged", ARRANGED)
@pytest.mark.parametrize("param", layouts())
def test_every_layout_gives_the_same(param, arranged):
    given = layouts()[param]
    tensors = {"param": [given.to(DEVICE) if DEVICE != "cpu" else given]}
    for seed, name in enumerate(("grad", "mean")):
        values = torch.randn(given.shape, dtype=given.dtype, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
        how = ARRANGED["like the parameter" if (name, arranged) == ("mean", "expanded") else arranged]
        tensors[name] = [how(values, tensors["param"][0])]
    before = {name: (column[0], column[0].stride()) for name, column in tensors.items()}
    plain = {name: [tensor.cpu().contiguous() for tensor in column] for name, column in tensors.items()}
    expected = run_way("loop", toy_rules.momentum, plain)
    triton_way.run(toy_rules.momentum, tensors, SCALARS, False)
    for name, (tensor, stride) in before.items():
        assert tensors[name][0] is tensor
        assert tensor.stride() == stride
    assert not differences({name: [tensor.cpu() for tensor in column] for name, column in tensors.items()}, expected)


def test_what_lies_beside_a_tensor_is_not_touched():
    """Also where its address is not one that whole vectors could be loaded from."""
    base = torch.zeros(3, 40, device=DEVICE)
    tensors = {"param": [base[0, 3:30]], "grad": [torch.ones(27, device=DEVICE)], "mean": [base[1, 1:28]]}
    triton_way.run(toy_rules.momentum, tensors, SCALARS, False)
    assert torch.count_nonzero(base) == 54
    assert torch.count_nonzero(base[0, 3:30]) == torch.count_nonzero(base[1, 1:28]) == 27


def test_a_backward_through_a_stepped_parameter_raises(kernels):
    param = torch.nn.Parameter(torch.ones(3, device=DEVICE))
    param.grad = torch.ones_like(param)
    loss = (param * param).sum()
    Momentum([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---------------------------------------------------------------- optimizers


def ends(make, dtype, device, state_dtype=None, **settings):
    """Everything that an optimizer holds after three steps of several parameters, on the host."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1030,), (3, 4), (), (0,))
    params = [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]
    if state_dtype is not None:
        settings["state_dtype"] = state_dtype
    optimizer = make(params, **settings)
    for step in range(3):
        for param in params[: 4 - step % 2]:
            param.grad = torch.randn(param.shape, generator=generator).to(device, dtype)
        optimizer.step()
    states = [value for param in params for value in optimizer.state[param].values()]
    return [tensor.detach().cpu() for tensor in (*params, *states)]


def assert_as_the_loop(make, dtype, **settings):
    ours = ends(make, dtype, DEVICE, **settings)
    theirs = ends(make, dtype, "cpu", **settings, foreach=False)
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("flags", [{}, {"maximize": True, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_setting_of_every_optimizer_is_the_loop(row, flags, kernels):
    for settings in row.settings:
        assert_as_the_loop(row.optimizer, torch.float32, **flags, **settings)


STORED = {
    "stochastic": {},
    "kahan": {"rounding": "kahan"},
    "nearest": {"rounding": "nearest"},
    "rounded state": {"state_dtype": torch.bfloat16},
}


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_low_precision_is_the_loop_in_every_bit(row, dtype, how, kernels):
    assert_as_the_loop(row.optimizer, dtype, lr=1e-3, **STORED[how])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [Momentum, *(row.optimizer for row in ROWS[:4])], ids=lambda make: make.__name__)
def test_numbers_and_steps_on_the_device_are_read(make, dtype, kernels):
    ours = ends(make, dtype, DEVICE, capturable=True, lr=torch.tensor(1e-2, device=DEVICE))
    theirs = ends(make, dtype, "cpu", capturable=True, lr=torch.tensor(1e-2), foreach=False)
    for one, other in zip(ours, theirs, strict=True):
        # torch computes a 0-dim tensor of float32 and one of float64 in float64; and a power computed on another device
        # may be another in its last place.
        free = one.ndim == 0 or DEVICE == "cuda"
        torch.testing.assert_close(one, other, **({} if free else {"rtol": 0.0, "atol": 0.0}))


def test_learned_numbers_are_the_loops(kernels):
    def make(params, **settings):
        return Learned(params[:2], **settings)

    ours, theirs = ends(make, torch.float32, DEVICE), ends(make, torch.float32, "cpu", foreach=False)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- rounding


def special_floats():
    """Every sort of float32: each exponent, mantissas beside what 16 bits can hold and halfway, both signs."""
    exponents = torch.arange(256).repeat_interleave(8) << 23
    mantissas = torch.tensor([0, 1, 0x8000, 0x7FFF, 0x1000, 0x18000, 0x7FFFFF, 0x3FF000]).repeat(256)
    positive = (exponents | mantissas).to(torch.int32)
    return torch.cat([positive, positive | -(2**31)]).view(torch.float32)


@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("first", [0, 2**31 - 100, 2**40])
def test_every_sort_of_number_is_written_as_by_the_loop(dtype, first, random):
    """`remembering` keeps its gradient, here of float32, as its state."""
    grad = special_floats()
    rounding = Rounding({"param": 0, "previous": 1} if random else {}, [7], [first])
    stored = {"param": [torch.zeros_like(grad).to(dtype)], "grad": [grad]}
    stored["previous"] = [torch.zeros_like(stored["param"][0])]
    ours = {name: [tensor.to(DEVICE, copy=True) for tensor in column] for name, column in stored.items()}
    triton_way.run(toy_rules.remembering, ours, SCALARS, False, rounding)
    tensors = load(stored)
    toy_rules.WAYS["loop"].run(toy_rules.remembering, tensors, SCALARS, False)
    store(stored, tensors, ("param", "previous"), rounding)
    for name in ("param", "previous"):
        torch.testing.assert_close(ours[name][0].cpu(), stored[name][0], rtol=0.0, atol=0.0, equal_nan=True)
        known = ~stored[name][0].isnan()
        assert torch.equal(ours[name][0].cpu().signbit()[known], stored[name][0].signbit()[known])


def test_a_part_is_rounded_as_within_the_whole():
    grad = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float32)

    def stepped(part, first):
        tensors = {"param": [torch.ones_like(part).bfloat16().to(DEVICE)], "grad": [part.to(DEVICE)]}
        tensors["mean"] = [torch.zeros_like(part).to(DEVICE)]
        triton_way.run(toy_rules.momentum, tensors, SCALARS, False, Rounding({"param": 0}, [1], [first]))
        return tensors["param"][0]

    assert torch.equal(stepped(grad, 0), torch.cat([stepped(grad[:1100], 0), stepped(grad[1100:], 1100)]))


# ---------------------------------------------------------------- the choice


@pytest.fixture
def elsewhere():
    """A parameter on a device that is no CPU, with a gradient."""
    param = torch.nn.Parameter(torch.ones(3, device="meta"))
    param.grad = torch.ones_like(param)
    return param


@pytest.mark.parametrize("fused", [None, False, True])
def test_off_the_cpu_a_kernel_is_taken_where_it_is_asked_for(fused, elsewhere, monkeypatch):
    monkeypatch.setattr(triton_way, "unavailable", lambda rule: "")
    monkeypatch.setattr(triton_way, "trouble", lambda device: "")
    optimizer = Momentum([elsewhere], fused=fused)
    taken = ways.way(optimizer.rule, optimizer.param_groups[0], [elsewhere])
    assert taken is (triton_way if fused else foreach)


def test_fused_is_refused_where_a_kernel_cannot_be_run(elsewhere, monkeypatch):
    monkeypatch.setattr(triton_way, "unavailable", lambda rule: "")
    optimizer = Momentum([elsewhere])
    optimizer.param_groups[0]["fused"] = True
    with pytest.raises(RuntimeError, match="fused=True cannot step parameter group 0: there are no kernels for"):
        optimizer.step()


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_apart():
    assert triton_way.unavailable(toy_rules.momentum) == "there is no GPU"
