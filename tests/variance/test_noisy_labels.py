"""What the page says about noisy labels is what the runs under results/ found, and the example still runs."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {"3 epochs": "digits-3-epochs", "10 epochs": "digits-10-epochs", "60 epochs": "digits"}
PAGE = (ROOT / "docs" / "batch-variance.md").read_text("utf-8")


def rows(header):
    """A table of the page: the cells of every row by its first cell."""
    table = PAGE[PAGE.index(f"| {header} |") :].split("\n\n")[0].splitlines()
    columns = [cell.strip() for cell in table[0].strip("|").split("|")]
    for line in table[2:]:
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield first.replace("`", ""), dict(zip(columns[1:], cells, strict=True))


def records():
    return {
        title: json.loads((ROOT / "results" / "noisy-labels" / f"{name}.json").read_text("utf-8"))
        for title, name in FILES.items()
    }


def test_the_accuracies_are_those_of_the_runs():
    table, found = dict(rows("Trained with")), records()
    assert set(table) == set(found["3 epochs"]["optimizers"])
    for name, cells in table.items():
        for title, cell in cells.items():
            runs = [100 * value for value in found[title]["optimizers"][name]["test_accuracy"]]
            assert len(runs) == 20
            assert cell == f"{statistics.mean(runs):.1f} ± {statistics.stdev(runs):.1f}"


def test_the_differences_are_those_of_the_runs():
    table, found = dict(rows("Optimizer")), records()
    assert set(table) == {"VSGD", "MSVAG"}
    for name, cells in table.items():
        for title, cell in cells.items():
            optimizers = found[title]["optimizers"]
            batch, stream = (optimizers[f"{name}, {kind}"]["test_accuracy"] for kind in ("batch", "stream"))
            pairs = [100 * (a - b) for a, b in zip(batch, stream, strict=True)]
            half = 1.96 * statistics.stdev(pairs) / 20**0.5
            assert cell == f"{statistics.mean(pairs):+.1f} ± {half:.1f}"


def test_no_chosen_rate_was_at_the_end_of_its_grid():
    for record in records().values():
        for name, runs in record["optimizers"].items():
            rates = sorted(float(lr) for lr in runs["validation_accuracy"])
            assert rates[0] < runs["lr"] < rates[-1], name


def test_the_example_runs():
    pytest.importorskip("sklearn")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "noisy_labels.py", "--seeds", "2", "--epochs", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"VSGD, batch - VSGD, stream: [+-]0\.\d{4} ± 0\.\d{4}, better with \d of 2 seeds", run.stdout)
