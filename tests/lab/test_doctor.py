import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

import varigrad
from varigrad.cli import app
from varigrad.engine import fused
from varigrad.lab import doctor


@pytest.fixture(autouse=True)
def _no_data_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VARIGRAD_DATA", raising=False)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def findings(*arguments: object) -> dict[str, dict[str, str]]:
    result = invoke("--json", *arguments)
    record = json.loads(result.stdout)
    assert (record["format"], record["version"]) == ("varigrad-doctor", 1)
    found = {finding["name"]: finding for section in record["sections"] for finding in section["findings"]}
    assert record["broken"] == any(finding["status"] == "broken" for finding in found.values())
    assert result.exit_code == record["broken"]
    return found


def test_it_names_versions_ways_and_extras() -> None:
    found = findings()
    assert varigrad.__version__ in found["varigrad"]["detail"]
    assert torch.__version__ in found["torch"]["detail"]
    assert {"loop", "foreach", "fused on CPUs", "Triton", "torch.compile", "lab", "timm", "ray"} <= found.keys()
    assert found["foreach"]["status"] == "yes"
    assert f"typer {importlib.metadata.version('typer')}" in found["lab"]["detail"]


def test_every_rule_of_every_optimizer_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unavailable(rule: object) -> str:
        asked.append(rule.name)  # type: ignore[attr-defined]
        return ""

    monkeypatch.setattr(fused, "unavailable", unavailable)
    doctor._kernels()
    kinds = (getattr(varigrad, name) for name in varigrad.__all__)
    rules = {kind.rule.name for kind in kinds if hasattr(kind, "rule")}
    assert rules | {"vsgd_spread"} <= set(asked)


def test_stale_kernels_are_a_warning_with_what_mends_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some.so").write_bytes(b"")
    monkeypatch.setattr(doctor, "_KERNELS", tmp_path / "some.so")
    monkeypatch.setattr(fused, "unavailable", lambda rule: "another version" if rule.name == "msgd" else "")
    finding = findings()["fused on CPUs"]
    assert finding["status"] == "warning"
    assert "stale for msgd" in finding["detail"]
    assert "build_ext --inplace" in finding["remedy"] or "pip install" in finding["remedy"]


def test_missing_kernels_are_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_KERNELS", tmp_path / "none.so")
    monkeypatch.setattr(fused, "unavailable", lambda rule: "no C compiler was found")
    finding = findings()["fused on CPUs"]
    assert (finding["status"], finding["detail"]) == ("warning", "no C compiler was found")
    assert "C compiler" in finding["remedy"]


def test_a_library_that_cannot_be_loaded_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some.so").write_bytes(b"")
    monkeypatch.setattr(doctor, "_KERNELS", tmp_path / "some.so")
    monkeypatch.setattr(fused, "unavailable", lambda rule: "cannot be loaded: wrong ELF class")
    assert findings()["fused on CPUs"]["status"] == "broken"


def test_a_way_that_computes_something_else_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter((1e-2, 2e-2))
    make = varigrad.VSGD
    monkeypatch.setattr(varigrad, "VSGD", lambda params, lr, **way: make(params, lr=next(steps), **way))
    finding = doctor._tried("foreach", {"foreach": True}, "")
    assert finding.status == "broken"
    assert "other results" in finding.detail


def test_a_missing_data_folder_is_broken_and_a_present_one_is_not(tmp_path: Path) -> None:
    assert findings("--data-dir", tmp_path / "none")["folder"]["status"] == "broken"
    found = findings("--data-dir", tmp_path)
    assert found["folder"]["status"] == "yes"
    assert (found["digits"]["status"], found["mnist-mlp"]["status"]) == ("yes", "no")


def test_a_package_that_is_missing_from_an_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str | None:
        return None if package == "plotly" else "1.0"

    monkeypatch.setattr(doctor, "_version", version)
    lab = doctor._extra("lab")
    assert (lab.status, lab.detail) == ("warning", "not installed: plotly")
    assert lab.remedy == "pip install 'varigrad[lab]'"
    assert doctor._extra("ray").status == "yes"
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    assert doctor._extra("ray").status == "no"


def test_the_sheet_fits_a_narrow_terminal_and_says_what_there_is_to_mend() -> None:
    section = doctor.Section("Ways", (doctor.Finding("fused on CPUs", "warning", "a " * 40, "make kernels"),))
    console = Console(width=44, record=True, highlight=False)
    console.print(doctor.sheet([section]))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= 44
    assert any("make kernels" in line for line in lines)
    assert lines[-1] == "1 to mend."


def test_the_exit_code_is_zero_where_nothing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_kernels", lambda: doctor.Finding("fused on CPUs", "warning", "stale", "build"))
    result = invoke()
    assert result.exit_code == 0
    assert "fused on CPUs" in result.stdout
