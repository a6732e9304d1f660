"""The C source: what it computes, when a library of it is refused, and how it is built."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from varigrad import VSGD, ConstantVSGD
from varigrad.engine import c, fused, library
from varigrad.engine.rule import minimum, rule, sqrt, where

from . import toy_rules
from .conftest import SETUP, compile_rules
from .toy_rules import SCALARS, Momentum, by_name, draw, run

# ---------------------------------------------------------------- against numpy


def in_numpy(param, grad, mean, square, lr, beta, maximize, decay):
    """`toy_rules.normalized`, every operation rounded once and every number computed in double first."""
    number = param.dtype.type
    grad = number(-1.0 if maximize else 1.0) * grad
    param = param * number(decay)
    mean = number(beta) * mean + number(1.0 - beta) * grad
    square = number(beta) * square + number(1.0 - beta) * (grad * grad)
    return param - number(lr) * (mean / (np.sqrt(square) + number(1e-8))), mean, square


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_root_is_correctly_rounded(dtype, maximize, toy_kernels):
    """Unlike torch's, numpy's root is, so that the compiled rule is numpy's in every bit."""
    tensors = draw(toy_rules.normalized, shapes=((5000,),), dtype=dtype)
    tensors["square"] = [tensor.square() for tensor in tensors["square"]]
    ours = run("fused", toy_rules.normalized, tensors, maximize, decay=0.99)
    columns = [tensors[name][0].numpy() for name in toy_rules.normalized.elements]
    expected = in_numpy(*columns, SCALARS["lr"], SCALARS["beta"], maximize, 0.99)
    for name, values in zip(("param", "mean", "square"), expected, strict=True):
        assert values.dtype == ours[name][0].numpy().dtype
        assert (ours[name][0].numpy() == values).all()


# ---------------------------------------------------------------- which library serves


def test_a_rule_that_was_compiled_is_available(toy_kernels):
    assert fused.unavailable(toy_rules.momentum) == ""
    assert fused.unavailable(toy_rules.weighted.taking("weight")) == ""


def test_a_rule_that_was_not_compiled_is_named(toy_kernels):
    @rule(state=())
    def newcomer(param, grad, *, lr):
        return (param - lr * grad,)

    assert "do not know the rule newcomer" in fused.unavailable(newcomer)


def test_another_version_of_a_rule_is_refused(toy_kernels):
    def nesterov(param, grad, mean, *, lr, beta):
        mean = beta * mean + (1.0 - beta) * grad
        return param - lr * (beta * mean + (1.0 - beta) * grad), mean

    newer = replace(rule(state=("mean",))(nesterov), name="momentum")
    assert "built from another version of the rule momentum" in fused.unavailable(newer)


def test_the_fingerprint_is_of_what_is_computed():
    def momentum(param, grad, mean, *, lr, beta):
        sqrt(mean)
        mean = beta * mean + (1.0 - beta) * grad
        return param - lr * mean, mean

    # A line whose result is not used is not compiled either.
    assert c.fingerprint(rule(state=("mean",))(momentum)) == c.fingerprint(toy_rules.momentum)
    assert c.fingerprint(replace(toy_rules.still, name="momentum")) != c.fingerprint(toy_rules.momentum)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Returns where the engine looks for its library, in a folder that is empty."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    for cached in (library.kernels, fused.unavailable):
        cached.cache_clear()
    yield tmp_path / "_kernels.so"
    for cached in (library.kernels, fused.unavailable):
        cached.cache_clear()


def test_a_missing_library_gives_its_reason(packaged):
    assert "without compiled kernels" in fused.unavailable(toy_rules.momentum)


def test_a_corrupt_library_gives_its_reason(packaged):
    packaged.write_bytes(b"not a library")
    assert "cannot be loaded" in fused.unavailable(toy_rules.momentum)


def test_the_packaged_library_is_looked_for_in_the_package(packaged, toy_library):
    packaged.write_bytes(toy_library.read_bytes())
    assert fused.unavailable(toy_rules.momentum) == ""


def test_without_a_library_the_default_is_foreach(packaged, monkeypatch):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = Momentum([param])
    monkeypatch.setattr(fused, "run", None)
    optimizer.step()
    assert param.tolist() == pytest.approx([0.9, 0.9, 0.9])


def test_without_a_library_fused_is_refused_with_the_reason(packaged):
    with pytest.raises(RuntimeError, match=r"fused=True cannot be had, varigrad was installed without compiled"):
        Momentum([torch.nn.Parameter(torch.ones(3))], fused=True)


def test_with_a_library_the_default_is_fused(toy_kernels, monkeypatch):
    called = []
    monkeypatch.setattr(fused, "run", lambda *arguments: called.append(arguments) or {})
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    Momentum([param]).step()
    assert len(called) == 1


# ---------------------------------------------------------------- what can be written in C


@rule(state=("v0",))
def awkward_names(param, grad, v0, *, i, double):
    return param - i * grad, v0 + double * grad


@rule(state=("mean",))
def unbounded(param, grad, mean, *, lr):
    return param - lr * minimum(grad, float("inf")), where(grad > 0.0, mean, float("-inf"))


@rule(state=("mean",))
def constants(param, grad, mean, *, lr):
    return param - (-1.5 - lr) * (grad - -2.0), -1 * mean + 1e-45 * grad + 1 / 3 * param


AWKWARD = (awkward_names, unbounded, constants)


@pytest.fixture(scope="module")
def other_library(tmp_path_factory):
    """The library of these rules, and of two of the package's own."""
    try:
        return compile_rules([*AWKWARD, VSGD.rule, ConstantVSGD.rule], tmp_path_factory.mktemp("other_library"))
    except Exception as error:  # setuptools has no stable place for CompileError
        pytest.fail(f"does not compile: {error}")


@pytest.mark.parametrize("the_rule", AWKWARD, ids=by_name)
def test_any_name_and_any_number_can_be_compiled(the_rule, other_library, use_library):
    use_library(other_library)
    tensors = draw(the_rule)
    scalars = dict.fromkeys(the_rule.keywords, 0.3)
    ours, theirs = toy_rules.copy(tensors), toy_rules.copy(tensors)
    toy_rules.fused.run(the_rule, ours, scalars, False)
    toy_rules.loop.run(the_rule, theirs, scalars, False)
    assert not toy_rules.differences(ours, theirs)


# ---------------------------------------------------------------- setup.py

BUILD = """
    import importlib.abc, json, runpy, sys

    class NoTorch(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.partition(".")[0] == "torch":
                raise ModuleNotFoundError(f"torch is not here, but {name} was wanted")

    sys.meta_path.insert(0, NoTorch())
    import setuptools

    setuptools.setup = lambda **keywords: None
    names = runpy.run_path(sys.argv[1])
    distribution = setuptools.Distribution({"name": "x", "ext_modules": [setuptools.Extension("x", [])]})
    wheel = names["PlatformWheel"](distribution)
    wheel.ensure_finalized()
    rules = names["rules"]()
    from varigrad.engine.c import library

    print(json.dumps({"rules": [rule.name for rule in rules], "source": library(rules), "tag": wheel.get_tag()}))
"""


@pytest.fixture(scope="module")
def built():
    """What setup.py says where torch cannot be imported."""
    pytest.importorskip("setuptools")
    command = [sys.executable, "-c", textwrap.dedent(BUILD), str(SETUP)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=SETUP.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_rules_are_found_without_torch(built):
    assert {VSGD.rule.name, ConstantVSGD.rule.name} <= set(built["rules"])


def test_the_source_written_without_torch_is_of_the_same_rules(built):
    assert f'"{c.fingerprint(VSGD.rule)}"' in built["source"]


def test_the_wheel_is_for_a_platform_and_any_python(built):
    python, abi, platform = built["tag"]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"


def test_the_packages_own_rules_compile(other_library, use_library):
    use_library(other_library)
    assert fused.unavailable(VSGD.rule) == fused.unavailable(ConstantVSGD.rule) == ""
