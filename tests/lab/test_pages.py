"""Every page, in a real browser and as files: nothing fetched, every chart drawn, no error told."""

import csv
import dataclasses
import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from varigrad.lab.errors import LabError
from varigrad.lab.machine import _commit, provenance
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.report import outputs, scoring, tuning_outputs
from varigrad.lab.report.paper import VERDICTS, PaperRow, paper_page, paper_table, write_paper
from varigrad.lab.report.series import colour
from varigrad.lab.report.tables import Table
from varigrad.lab.report.tuning_page import page, reading
from varigrad.lab.report.tuning_series import bars, profiles
from varigrad.lab.tuning.space import Point
from varigrad.lab.tuning.tune import Trial, Tuned, Tuning

from .chromium import shown
from .made_data import names
from .made_runs import diverged, run, two_optimizers
from .test_tuning import tuning

PROVENANCE = {"command": "varigrad tune", "date": "2026-01-01", "runs at once": "2"}
ROWS = [
    PaperRow("MLP, SVGD", "test error (%)", 1.6, 1.64, 1.58, 1.7, "within noise", "full, 10 seeds"),
    PaperRow("MLP, Adam", "test error (%)", 1.94, 2.4, 2.3, 2.5, "not reproduced", "tenth, 3 seeds"),
    PaperRow("VGG, SVGD", "test error (%)", 17.07, None, None, None, "not run", "-"),
    PaperRow("<b>evil</b> & co", "loss", None, float("inf"), None, None, "not reproduced", "smoke"),
]


def tuned() -> Tuning:
    """Three optimizers, of which one never gets to the target and one has a trial that diverged."""
    found = tuning(adamw=[100, 120, 90], vsgd=[80, 130, 70], sgd=[300, float("inf"), float("inf")])
    trials = [
        Trial(Point(0.01), run(0.01, validation=0.4)),
        Trial(Point(0.1), run(0.1, validation=0.2)),
        Trial(Point(1.0), diverged(1.0)),
    ]
    own = tuple(dataclasses.replace(one, trials=tuple(trials)) for one in found.tuned)
    return dataclasses.replace(found, tuned=own)


def drawn_in(page: Path, folder: Path, charts: list[str]) -> str:
    """The page in a browser: every chart has lines or bars on its axes."""
    elements = shown(page, folder)
    for chart in charts:
        (place,) = re.findall(
            rf'<div class="chart js-plotly-plot" id="{chart}".*?(?=<figcaption>)', elements, re.DOTALL
        )
        assert 'class="main-svg"' in place
        assert re.search(r'class="(trace|traces|point|points|lines|js-line)', place) or "scatterlayer" in place, chart
        assert "xtitle" in place
    return elements


@pytest.mark.parametrize("kind", ["comparison", "tuning", "paper"])
def test_a_page_in_a_browser(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "comparison":
        outputs.write(two_optimizers(), PROVENANCE, None, out)
        charts, words = ["loss", "accuracy", "rates"], ["98.90 ± 0.10", "vsgd"]
    elif kind == "tuning":
        tuning_outputs.write([tuned()], PROVENANCE, out)
        charts, words = ["steps0", "seconds0", "trials0", "loss0", "accuracy0", "profile"], ["never", "80 (3/3)"]
    else:
        write_paper("SVGD, Table 1", "Li and Shu 2019", ROWS, PROVENANCE, out)
        charts, words = ["metric0"], ["1.58 to 1.7", "1 within noise, 2 not reproduced, 1 not run, of 4."]
    elements = drawn_in(out / ("paper.html" if kind == "paper" else "report.html"), tmp_path, charts)
    assert all(word in elements for word in words)
    assert "<b>evil" not in elements


def test_what_a_comparison_leaves(tmp_path: Path) -> None:
    outputs.write(two_optimizers(), PROVENANCE, None, tmp_path / "out")
    pictures = [f"{name}.{kind}" for name in ("curves", "learning-rates") for kind in ("png", "svg")]
    others = ["comparison.json", "report.html", "runs.csv", "table.csv", "table.tex"]
    assert names(tmp_path / "out") == sorted([*pictures, *others])
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "runs.csv").read_text())))
    runs = [run for c in two_optimizers().contenders for rung in c.rungs for run in rung.runs]
    assert len(lines) == sum(len(run.evaluations) for run in runs)
    assert [float(line["test_loss"]) for line in lines] == [e.test_loss for run in runs for e in run.evaluations]
    table = list(csv.reader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))
    assert table[0][:3] == ["optimizer", "test loss", "test accuracy %"]
    assert table[1][:3] == ["vsgd", "0.2100 ± 0.0100", "98.90 ± 0.10"]


def test_what_tuning_leaves(tmp_path: Path) -> None:
    paths = tuning_outputs.write([tuned()], PROVENANCE, tmp_path)
    assert names(tmp_path) == sorted(path.name for path in paths)
    pictures = {
        f"{name}.{kind}"
        for name in ("profile", *(f"digits-{x}" for x in ("target", "trials", "curves")))
        for kind in ("png", "svg")
    }
    tables = {f"{name}.{kind}" for name in ("scores", "digits-scores", "digits-budgets") for kind in ("csv", "tex")}
    assert set(names(tmp_path)) == {"report.html", "runs.csv", "tuning.json"} | pictures | tables
    record = json.loads((tmp_path / "tuning.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    sgd = record["tasks"][0]["optimizers"][2]
    assert sgd["steps_to_target"] == [300, None, None]
    assert record["ratios"]["vsgd"]["steps"]["mean"] == pytest.approx(0.8)
    with Image.open(tmp_path / "digits-target.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    seen = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}
    assert {colour("vsgd"), colour("adamw")} <= seen
    assert colour("sgd") not in seen  # it has no bar: it never got there
    svg = (tmp_path / "profile.svg").read_bytes()
    tuning_outputs.write([tuned()], PROVENANCE, tmp_path / "again")
    assert (tmp_path / "again" / "profile.svg").read_bytes() == svg


def test_several_studies_stand_on_the_page_and_in_the_files(tmp_path: Path) -> None:
    found = tuned()
    others = tuple(dataclasses.replace(one, further=(one, one)) for one in found.tuned)
    origin = "the target on digits was found by procedure"
    named = dataclasses.replace(found.task, name="my/file.py:line")
    several = dataclasses.replace(found, task=named, tuned=others, target_origin=origin)
    told = page([several], PROVENANCE)
    assert "3 studies of 3 trials" in told
    assert origin in told
    assert "lr 0.1; 0.1; 0.1" in told
    tuning_outputs.write([several], PROVENANCE, tmp_path)
    assert (tmp_path / "line-scores.csv").exists()
    record = json.loads((tmp_path / "tuning.json").read_text())["tasks"][0]
    assert record["target_origin"] == origin
    assert [len(optimizer["further_studies"]) for optimizer in record["optimizers"]] == [2, 2, 2]
    lines = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert {line["study"] for line in lines} == {"0", "1", "2"}


def test_the_page_of_tunings_says_no_more_than_the_scores() -> None:
    told = reading([tuned()])
    assert told[0].startswith("vsgd: no difference from tuned adamw is shown; the ratio is 0.80 (")
    assert told[0].endswith(" To adamw's final loss: 0.80 (0.78-1.08) of its steps.")
    assert told[1].startswith("sgd: more steps to the target than tuned adamw; the ratio is ∞ (")
    clear = tuning(adamw=[100, 120, 90], vsgd=[50, 60, 45])
    (said,) = reading([clear])
    assert said.startswith("vsgd: fewer steps to the target than tuned adamw; the ratio is 0.50. To adamw's final ")
    assert "2 runs at once" in page([tuned()], PROVENANCE)
    one = Tuned(OPTIMIZERS["sgd"], tuned().tuned[0].trials, tuned().tuned[0].runs)
    assert reading([dataclasses.replace(clear, tuned=(one,))]) == [
        "Without adamw among the optimizers there are no ratios."
    ]


def test_bars_and_profiles() -> None:
    found = {bar.name: (bar.median, bar.low, bar.high) for bar in bars(tuned(), "steps")}
    assert found["vsgd"] == (80, 70, 130)
    assert found["sgd"] == (float("inf"), 300, float("inf"))
    (adamw, vsgd, sgd) = profiles([tuned()], "steps")
    assert (adamw.name, adamw.x[0], adamw.mean[0]) == ("adamw", 1.0, pytest.approx(1 / 3))
    assert (vsgd.mean[0], vsgd.mean[-1]) == (pytest.approx(2 / 3), pytest.approx(1))
    assert (sgd.x[-1], sgd.mean[-1]) == (4.0, pytest.approx(1 / 3))


def test_latex_escapes_and_compiles_to_a_tabular() -> None:
    text = Table(["a_b", "50 %"], [["x & y", "1.0 ± 0.1"], ["∞", None]]).latex()
    assert text.splitlines()[0] == r"\begin{tabular}{lr}"
    assert r"a\_b & 50 \% \\" in text
    assert r"x \& y & 1.0 $\pm$ 0.1 \\" in text
    assert r"$\infty$ &  \\" in text


def test_papers_numbers() -> None:
    assert paper_table(ROWS).rows[2][2:] == ["17.07", "-", "-", "not run", "-"]
    assert "default-src 'none'" in paper_page("t", "r", ROWS, PROVENANCE)
    assert set(VERDICTS) == {"reproduced", "within noise", "not reproduced", "not run", "no number"}
    with pytest.raises(ValueError, match="verdict 'perhaps' does not exist"):
        dataclasses.replace(ROWS[0], verdict="perhaps")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot make the directory"):
        write_paper("t", "r", ROWS, PROVENANCE, tmp_path / "file" / "out")


def test_provenance_names_the_commit() -> None:
    _commit.cache_clear()
    told = provenance("x", torch.device("cpu"))
    git = ["git", "rev-parse", "HEAD"]
    inside = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    assert told.get("commit", "")[:12] == inside.stdout[:12]


@pytest.mark.parametrize(("width", "seconds"), [(80, False), (140, True)])
def test_a_narrow_terminal_is_spared_the_seconds(width: int, seconds: bool) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(scoring.table([tuned()], width))
    told = console.export_text()
    assert ("seconds to" in told) is seconds
    assert "adamw" in told
