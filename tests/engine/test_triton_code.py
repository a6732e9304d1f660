"""What Triton makes of the kernels for a GPU, which need not be there: it compiles without one.

Arithmetic is the loop's in every bit only where nothing is contracted, approximated or flushed to zero.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

if sys.platform != "linux":
    pytest.skip("Triton has no compiler here", allow_module_level=True)

PROGRAM = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.engine.toy_rules import counting
from varigrad.engine import triton_way
from varigrad.engine.triton_source import NEAREST, Variant
from varigrad.vsgd import vsgd

POINTERS = {"table": "*i64", "owners": "*i32", "layout": "*i64"}
POINTERS |= {"columns": "*fp64", "steps": "*i64", "partial": "*fp64"}


def compiled(rule, variant, aligned=True):
    source = ASTSource(
        fn=triton_way._kernel(rule, variant),
        signature={**POINTERS, "tensors": "i32", "programs": "i32", "ALIGNED": "constexpr", "BLOCK": "constexpr"},
        constexprs={"ALIGNED": aligned, "BLOCK": triton_way.BLOCK},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(len(POINTERS))},
    )
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=triton_way.OPTIONS).asm["ptx"]


def plain(rule, dtype):
    arrays = len(rule.elements)
    return Variant(dtype, (dtype,) * arrays, (NEAREST,) * arrays, False, (), False)


def total():
    source = ASTSource(
        fn=triton_way._total(),
        signature={
            "partial": "*fp64", "first_programs": "*i64", "sums": "*fp64", "tensors": "i32", "programs": "i32",
            "BLOCK": "constexpr",
        },
        constexprs={"BLOCK": triton_way.BLOCK},
    )
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=triton_way.OPTIONS).asm["ptx"]


narrow = ("bfloat16", "float16", "float32", "bfloat16", "float32")
found = {
    "float32": compiled(vsgd, plain(vsgd, "float32")),
    "float64": compiled(vsgd, plain(vsgd, "float64")),
    "mixed": compiled(vsgd, Variant("float32", narrow, (0, NEAREST, NEAREST, 2, NEAREST), True, ("lr",), True)),
    "counting": compiled(counting, plain(counting, "float32")),
    "total": total(),
    "unaligned": compiled(vsgd, plain(vsgd, "float32"), aligned=False),
}
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """The PTX of some kernels, compiled in a process of its own, in which nothing is interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kernel", ["float32", "float64", "mixed", "counting", "total", "unaligned"])
def test_every_operation_is_rounded_by_itself(kernel, assembly):
    assert not re.findall(r"^.*\b(?:fma|mad)\.[a-z.]*f\d\d\b.*$", assembly[kernel], re.MULTILINE)
    assert not re.findall(r"^.*(?:\.approx|\.full|\.ftz).*$", assembly[kernel], re.MULTILINE)


@pytest.mark.parametrize(("kernel", "width"), [("float32", "f32"), ("mixed", "f32"), ("float64", "f64")])
def test_quotients_and_roots_are_those_of_ieee_754(kernel, width, assembly):
    assert f"div.rn.{width}" in assembly[kernel]
    assert f"sqrt.rn.{width}" in assembly[kernel]


def test_whole_vectors_are_loaded_and_stored(assembly):
    assert "ld.global.v4.b32" in assembly["float32"]
    assert "st.global.v4.b32" in assembly["float32"]
    assert "ld.global.v4.b32" not in assembly["unaligned"]
