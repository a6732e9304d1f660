"""The figures of the page about moving over are those of the runs that are kept under results/."""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrating-from-adamw.md").read_text("utf-8")
RECORDS = {
    f"{record['task']['name']}, {record['settings']['schedule']}, {record['settings']['lr']:g}": record
    for record in (json.loads(file.read_text("utf-8")) for file in (ROOT / "results" / "convert-state").glob("*.json"))
}
ARMS = {
    "AdamW": "AdamW unchanged",
    "converted": "VSGD converted",
    '"noise"': "VSGD converted, variances='noise'",
    '"noise", rate kept': "VSGD converted, variances='noise', match_lr=False",
    "begun anew": "VSGD from nothing",
}
FIGURES = {
    "First step: correlation": lambda arm: arm["first_step"]["correlation"],
    "First step: length": lambda arm: arm["first_step"]["length_ratio"],
    "Training loss, steps 2 to 10": lambda arm: arm["train_loss"]["2-10"],
    "Training loss, steps 11 to 50": lambda arm: arm["train_loss"]["11-50"],
    "Training loss, steps 51 to 200": lambda arm: arm["train_loss"]["51-200"],
    "Validation loss at the end": lambda arm: arm["validation_loss"],
}


def rows(title):
    (block,) = re.findall(rf"^\| {re.escape(title)} \|.*\n\|[-| ]+\|\n((?:\|.*\|\n)+)", PAGE, flags=re.MULTILINE)
    return {cells[0]: cells[1:] for line in block.splitlines() for cells in [line.strip("| ").split(" | ")]}


def figures(record, arm, get=lambda arm: arm):
    return [get(run["arms"][ARMS.get(arm, arm)]) for run in record["runs"]]


@pytest.mark.parametrize("title", FIGURES)
def test_the_tables_are_those_of_the_runs(title):
    table = rows(title)
    assert table.keys() == RECORDS.keys()
    for setting, cells in table.items():
        base = figures(RECORDS[setting], "AdamW", FIGURES[title])
        assert len(base) >= 5
        for cell, arm in zip(cells, ARMS, strict=True):
            values = figures(RECORDS[setting], arm, FIGURES[title])
            differs = "loss" in title and arm != "AdamW"
            if differs:
                values = [ours - theirs for ours, theirs in zip(values, base, strict=True)]
            mean = format(statistics.fmean(values), "+.4f" if differs else ".4f")
            assert cell == f"{mean} ± {statistics.stdev(values):.4f}", (setting, arm)
