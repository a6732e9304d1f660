import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import varigrad
from varigrad.cli import app
from varigrad.engine import fused
from varigrad.engine.optimizer import RuleOptimizer
from varigrad.lab.bench import contenders, shapes, timing

TINY = ("--shapes", "one", "--parameters", "1000", "--rounds", "3", "--threads", "1")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def record(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    file = tmp_path / "bench.json"
    result = invoke(*TINY, "--json", file, *arguments)
    assert result.exit_code == 0, result.output
    assert f"Wrote {file}\n" in result.stdout
    read: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return read


def test_every_optimizer_has_a_row_in_every_way(tmp_path: Path) -> None:
    found = record(tmp_path)
    rows = {(row["optimizer"], row["way"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"])
    ours = {
        n
        for n, row in contenders.OPTIMIZERS.items()
        if issubclass(row.optimizer, RuleOptimizer) and not row.takes_model
    }
    exported = [getattr(varigrad, name) for name in varigrad.__all__]
    # All but the two that the lab gives a model, SVGD and AdaptiveMuon.
    assert len(ours) + 2 == sum(isinstance(kind, type) and issubclass(kind, RuleOptimizer) for kind in exported)
    assert {(name, way) for name in (*ours, "adamw", "sgd") for way in contenders.WAYS} <= rows.keys()
    for row in found["rows"]:
        assert {
            "optimizer", "way", "shapes", "parameters", "tensors", "ms", "ratio_to_adamw_fused", "ratio_quartiles",
            "state_bytes_per_parameter", "temporary_bytes_per_parameter", "bytes_per_second",
            "bandwidth_fraction", "addition_ratio", "floor_ratio",
        } == row.keys()  # fmt: skip
        assert row["ms"] > 0
        assert row["bandwidth_fraction"] > 0
        assert row["addition_ratio"] > 0
        assert (row["floor_ratio"] is not None) == (
            not fused.unavailable(varigrad.VSGD.rule) and row["state_bytes_per_parameter"] <= 12
        )
        low, high = row["ratio_quartiles"]
        assert low <= row["ratio_to_adamw_fused"] <= high
        assert row["parameters"] == 1000
    assert rows["adamw", "fused"]["ratio_to_adamw_fused"] == 1.0
    assert found["format"] == "varigrad-bench"
    assert found["settings"]["rounds"] == 3
    assert "varigrad" in found["provenance"]["command"]


def test_a_fused_step_makes_no_tensors_and_state_is_what_the_rule_keeps(tmp_path: Path) -> None:
    for row in record(tmp_path, "--optimizers", "vsgd,msgd,ssd,adamw")["rows"]:
        if row["way"] == "fused":
            assert row["temporary_bytes_per_parameter"] == 0
        elif row["optimizer"] == "vsgd":
            assert row["temporary_bytes_per_parameter"] >= 4
        assert row["state_bytes_per_parameter"] == {"vsgd": 12, "msgd": 4, "ssd": 0, "adamw": 8}[row["optimizer"]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
def test_what_a_fused_step_allocates_does_not_grow_with_the_parameters(
    dtype: torch.dtype, state_dtype: torch.dtype | None
) -> None:
    if fused.unavailable(varigrad.VSGD.rule):
        pytest.skip("there are no compiled kernels")
    for row in contenders.OPTIMIZERS.values():
        if not issubclass(row.optimizer, RuleOptimizer) or row.takes_model:
            continue
        allocated = []
        for size in (100, 200_000):
            params = [nn.Parameter(torch.ones(size, dtype=dtype)) for _ in range(2)]
            for param in params:
                param.grad = torch.ones_like(param)
            optimizer = row.optimizer(params, lr=1e-3, fused=True, state_dtype=state_dtype)
            optimizer.step()
            allocated.append(timing.temporary_bytes(optimizer))
        assert allocated[0] == allocated[1], row.optimizer.__name__


def test_dtypes_and_rounding_reach_our_optimizers(tmp_path: Path) -> None:
    options = ["--optimizers", "vsgd", "--ways", "fused", "--dtype", "bfloat16", "--state-dtype", "bfloat16"]
    rows = {row["optimizer"]: row for row in record(tmp_path, *options)["rows"]}
    assert rows["vsgd"]["state_bytes_per_parameter"] == 3 * 2
    assert rows["adamw"]["state_bytes_per_parameter"] == 2 * 2
    rows = {row["optimizer"]: row for row in record(tmp_path, *options, "--rounding", "kahan")["rows"]}
    assert rows["vsgd"]["state_bytes_per_parameter"] == 3 * 2 + 2


def test_several_shapes_and_sizes_have_a_table_each_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"
    arguments = ["--shapes", "one,small", "--parameters", "1e3,2500", "--optimizers", "sgd", "--ways", "foreach"]
    result = invoke(*TINY, *arguments, "--png", picture)
    assert result.exit_code == 0, result.output
    for title in ("one: 1,000 parameters in one tensor\n", "small: 2,500 parameters in 1,000 tensors\n"):
        assert title in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_clock_of_the_processors_does_not_count_while_nothing_runs() -> None:
    class Sleeper(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            time.sleep(0.002)

    sleeper = contenders.Contender("sleeper", "loop", lambda params: Sleeper(params, lr=0.1))
    for clock, slow in (("wall", True), ("processor", False)):
        (row,) = timing.measure((sleeper,), "one", ((5,),), 3, torch.float32, torch.device("cpu"), clock)
        assert isinstance(row, timing.Timing)
        assert (row.ms >= 2) == slow


def test_a_clock_that_does_not_exist_is_refused() -> None:
    result = invoke(*TINY, "--clock", "sun")
    assert result.exit_code == 2
    assert "--clock 'sun' does not exist" in result.stderr


def test_a_narrow_terminal_keeps_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = invoke(*TINY, "--optimizers", "constant-vsgd", "--ways", "fused")
    assert any(line.startswith("constant-vsgd  fused") for line in result.stdout.splitlines())
    assert max(map(len, result.stdout.splitlines())) <= 60


def test_matrices_go_to_an_optimizer_for_matrices_and_what_cannot_be_timed_says_why(tmp_path: Path) -> None:
    only = contenders.Contender("muon", "loop", lambda params: torch.optim.SGD(params, lr=0.1), matrices_only=True)
    chosen = (contenders.REFERENCE, only)
    cpu = torch.device("cpu")
    _, row = timing.measure(chosen, "mixed", ((4, 3), (5,), (2, 2, 2)), 2, torch.float32, cpu)
    assert isinstance(row, timing.Timing)
    assert (row.parameters, row.tensors) == (12, 1)
    _, skip = timing.measure(chosen, "flat", ((5,),), 2, torch.float32, cpu)
    assert isinstance(skip, timing.Skipped)
    assert "2-D" in skip.reason
    found = record(tmp_path, "--optimizers", "muon") if hasattr(torch.optim, "Muon") else {"skipped": [{"way": "loop"}]}
    assert [skipped["way"] for skipped in found["skipped"]] == ["loop"]


def test_temporary_tensors_are_counted_while_they_live() -> None:
    class Wasteful(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            first = torch.zeros(100)  # 400 bytes
            second = first + 1  # 800 together
            del first
            third = second.view(10, 10).mul_(2).double()  # 400 + 800; neither a view nor in place is counted again
            del second, third

    assert timing.temporary_bytes(Wasteful([nn.Parameter(torch.zeros(1))], lr=0.1)) == 1200


@pytest.mark.parametrize(("name", "tensors", "parameters"), [("resnet50", 161, 25_557_032), ("gpt2", 148, 124_439_808)])
def test_the_networks_have_the_published_numbers_of_parameters(name: str, tensors: int, parameters: int) -> None:
    found = shapes.find_shapes(name, 1)
    assert (len(found), sum(map(math.prod, found))) == (tensors, parameters)


@pytest.mark.parametrize("parameters", [1_000, 1_234_567])
def test_small_are_a_thousand_tensors(parameters: int) -> None:
    found = shapes.small(parameters)
    assert len(found) == 1000
    assert sum(map(math.prod, found)) == parameters
    assert max(found)[0] - min(found)[0] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--shapes", "resnet"],
            "unknown shapes 'resnet': did you mean 'resnet50'? (known: resnet50, gpt2, one, small)",
        ),
        (["--shapes", ","], "--shapes ',': no names"),
        (["--optimizers", "vsdg"], "unknown optimizer 'vsdg': did you mean 'vsgd'?"),
        (["--optimizers", ""], "--optimizers '': no names"),
        (["--ways", "fast"], "unknown way 'fast'"),
        (["--parameters", "many"], "--parameters 'many' is not a number"),
        (["--parameters", "1e9"], "--parameters 1e9 is out of range"),
        (["--parameters", "1e5,100000"], "100000 stands there twice"),
        (["--parameters", "nan"], "--parameters nan is out of range"),
        (["--dtype", "int8"], "--dtype 'int8' does not exist"),
        (["--state-dtype", "float16"], "--state-dtype 'float16' does not exist (accepted: bfloat16)"),
        (["--rounding", "up"], "--rounding 'up' does not exist"),
        (["--rounds", "0"], "--rounds 0 is out of range"),
        (["--device", "tpu9"], "device 'tpu9' is not available here"),
        (["--json", "no/such/folder/x.json"], "does not exist"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    result = invoke(*TINY, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("varigrad: error: ")
    assert message in line


PEAK = """
import re, torch, varigrad
from pathlib import Path

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(2)
for way in ("fused", "foreach"):
    param = torch.zeros(10_000_000, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = varigrad.VSGD([param], **{way: True})
    optimizer.step()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    optimizer.step()
    print((memory("VmHWM") - before) / (4 * param.numel()))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_what_is_not_seen_as_a_tensor_takes_no_memory_in_a_fused_step_either() -> None:
    if fused.unavailable(varigrad.VSGD.rule):
        pytest.skip("no compiled kernels")
    # With this glibc gives freed memory back at once; what an earlier step took would hide what a later one takes.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, env=environment)
    with_fused, with_foreach = map(float, result.stdout.split())
    assert with_fused < 0.1  # of the parameter's own bytes
    assert with_foreach > 1


def test_the_floor_touches_the_arrays_of_a_step_and_nothing_else() -> None:
    """So that its time is a bound for a step's: every array is read and written."""
    param = nn.Parameter(torch.zeros(5))
    param.grad = torch.arange(5.0)
    optimizer = varigrad.VSGD([param], lr=0.0)
    optimizer.step()
    floor = timing._floor(optimizer, [param], [param.detach().clone()])
    if floor is None:
        pytest.skip("there are no compiled kernels")
    floor.step()
    (own,) = floor.param_groups[0]["params"]
    state = floor.state[own]
    assert len(state) == 4  # three arrays and the step, as VSGD has
    assert all(torch.equal(tensor, param.grad) for tensor in (own, *(state[n] for n in ("first", "second", "third"))))
    assert own.data_ptr() != param.data_ptr()
