"""The figures of the pages on noise and calibration are those of the runs that are kept under results/."""

import io
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from varigrad.lab.noise.display import display
from varigrad.lab.noise.findings import findings
from varigrad.lab.noise.records import read

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
RUNS = {
    "mnist-vsgd": "MNIST, `VSGD`, 0.01",
    "mnist-vsgd-slow": "MNIST, `VSGD`, 0.001",
    "mnist-msvag": "MNIST, `MSVAG`, 0.1",
    "mnist-adamw": "MNIST, AdamW, 0.001",
    "cifar10-vsgd": "CIFAR-10, `VSGD`, 0.003",
    "cifar10-msvag": "CIFAR-10, `MSVAG`, 0.1",
    "cifar10-adamw": "CIFAR-10, AdamW, 0.001",
}
ESTIMATES = ("accumulated", "in-batch", "pair", "state")


def rows_of(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose header begins with this cell."""
    lines = iter((ROOT / "docs" / page).read_text("utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def load(path: str) -> dict:
    return json.loads((RESULTS / path).read_text("utf-8"))


def ratio(value: float | None) -> str:
    """A ratio with two digits; one that is infinite, or negative, has no signal below it."""
    return "∞" if value is None or value < 0 or math.isinf(value) else f"{value:.2g}"


def test_the_table_of_noise_scales_is_that_of_its_runs():
    expected = []
    for name, label in RUNS.items():
        record = load(f"noise-scale/{name}.json")
        assert f"{record['lr']:g}" == label.split(", ")[-1]
        for row in record["checkpoints"]:
            true = row["direct"]
            scales = [row[one]["scale"] for one in ESTIMATES]
            cells = [ratio(None if scale is None else scale / true["scale"]) for scale in scales]
            noise = ratio(row["state"]["noise"] / true["noise"])
            expected.append([label, f"{row['step']:,}", f"{true['scale']:,.0f}", *cells[:3], noise, cells[3]])
    assert rows_of("beliefs.md", "Run") == expected


def test_an_accumulated_noise_scale_is_within_a_factor_of_two_of_the_direct_measurement():
    """On MNIST and CIFAR-10, against the gradients of every single sample of the training set."""
    seen = 0
    for name in RUNS:
        for row in load(f"noise-scale/{name}.json")["checkpoints"]:
            assert 0.5 < row["accumulated"]["scale"] / row["direct"]["scale"] < 2
            assert 0.75 < row["accumulated"]["noise"] / row["direct"]["noise"] < 1.33
            seen += 1
    assert seen == 3 * 4 + 2 * 3


def test_the_tutorial_shows_what_the_command_printed():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(display(findings(read(RESULTS / "batch-size" / "batch-8"), 40), 100))
    shown = [line.rstrip() for line in console.export_text().strip().splitlines()]
    page = (ROOT / "docs" / "batch-size.md").read_text("utf-8")
    (block,) = (block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "noise scale" in block)
    assert block.rstrip().splitlines() == shown


def test_the_check_of_the_tutorial_is_that_of_its_runs():
    record = load("batch-size/digits.json")
    steps = {row["batch"]: row["steps"][str(row["lr"])] for row in record["rows"]}
    fewest = statistics.mean(steps[500]) / (1 + 40 / 500)
    expected = [
        [
            f"{row['batch']}",
            f"{row['lr']:g}",
            f"{statistics.mean(steps[row['batch']]):.0f} ± {statistics.stdev(steps[row['batch']]):.0f}",
            f"{fewest * (1 + 40 / row['batch']):.0f}",
            f"{row['batch'] * statistics.mean(steps[row['batch']]):,.0f}",
        ]
        for row in record["rows"]
    ]
    assert rows_of("batch-size.md", "Batch") == expected
    assert statistics.mean(steps[8]) / statistics.mean(steps[32]) == pytest.approx(2.6, abs=0.05)


def test_the_table_of_calibration_is_that_of_its_runs():
    expected = []
    for task, label in {"mnist": "MNIST", "cifar10": "CIFAR-10"}.items():
        for row in load(f"calibration/{task}.json")["rows"]:
            cells = []
            for key, digits in (("nll", 3), ("ece", 1), ("error", 1)):
                values = [run[key] for run in row["runs"]]
                cells.append(f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")
            kind = "drawn" if row["drawn"] else "plain"
            expected.append([label, row["optimizer"], kind, *cells])
    rows = rows_of("adabayes.md", "Data")
    assert [[cell.strip("`") for cell in row] for row in rows] == expected
