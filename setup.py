"""Builds the C kernels from the rules; everything else about the package is in pyproject.toml.

The rules are read without importing the package, because torch need not be installed where a wheel is built: of each
module only the functions, the constants and the imports from `engine.rule` are run. Where there is no C
compiler the package is built without kernels and runs all the same, more slowly.
"""

import ast
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE = Path(__file__).parent / "src" / "varigrad"


def rules():
    """Returns every rule of the package, in the order of the modules' names."""
    for name, folder in {"varigrad": PACKAGE, "varigrad.engine": PACKAGE / "engine"}.items():
        module = ModuleType(name)
        module.__path__ = [str(folder)]  # the package's own __init__ would import torch
        sys.modules.setdefault(name, module)
    from varigrad.engine.rule import Rule

    found = []
    for path in sorted(PACKAGE.glob("*.py")):
        body = [node for node in ast.parse(path.read_text("utf-8")).body if _belongs_to_a_rule(node)]
        namespace = {"__name__": f"varigrad.{path.stem}", "__package__": "varigrad"}
        exec(compile(ast.Module(body, []), str(path), "exec"), namespace)
        found += [value for value in namespace.values() if isinstance(value, Rule)]
    return found


def _belongs_to_a_rule(node):
    if isinstance(node, ast.FunctionDef):  # a rule, or what several rules share
        return all(isinstance(d, ast.Call) and getattr(d.func, "id", "") == "rule" for d in node.decorator_list)
    if isinstance(node, ast.ImportFrom):
        return node.module in ("engine.rule", "__future__")
    # A constant is a number; anything else (a table of classes, say) may need what is not imported here.
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)


class BuildKernels(build_ext):
    """Writes the C source and compiles it into a plain shared library, linked against nothing but libc and libm."""

    def build_extension(self, extension):
        found = rules()
        from varigrad.engine.c import library

        source = Path(self.build_temp) / "kernels.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(library(found))
        extension.sources = [str(source)]
        if self.compiler.compiler_type == "unix":
            # One rounding for each operation, and no errno or traps in the way of vector code.
            extension.extra_compile_args = [
                *("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
                *("-fno-strict-aliasing", "-fopenmp-simd"),
            ]
        super().build_extension(extension)

    def get_ext_filename(self, name):
        # No tag of a Python version in the name: the library knows nothing of Python.
        return str(Path(*name.split(".")).with_suffix(".so"))

    def get_export_symbols(self, extension):
        return []


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and every Python version."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("varigrad.engine._kernels", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
