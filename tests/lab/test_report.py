import dataclasses
import io
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from varigrad.lab.comparison import Comparison
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.report.charts import charts
from varigrad.lab.report.curves import rates, training
from varigrad.lab.report.page import page
from varigrad.lab.report.pictures import drawn as drawn_as
from varigrad.lab.report.reading import reading, summary
from varigrad.lab.report.record import to_json
from varigrad.lab.report.series import colour
from varigrad.lab.report.table import table

from .made_runs import comparison, contender, diverged, run, two_optimizers

PROVENANCE = {"command": "varigrad compare", "date": "2026-01-01"}


def all_diverged() -> Comparison:
    rungs = {lr: [diverged(lr, seed) for seed in range(2)] for lr in (0.01, 0.1)}
    return comparison(contender("sgd", rungs), contender("adamw", rungs))


def one_seed() -> Comparison:
    return comparison(contender("sgd", {0.1: [run(0.1)]}), contender("adamw", {0.1: [run(0.1, accuracy=0.8)]}))


def drawn(found: Comparison, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(found, width))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100])
def test_the_table(width: int) -> None:
    text = drawn(two_optimizers(), width)
    vsgd = next(line for line in text.splitlines() if line.startswith("vsgd"))
    assert "0.2100 ± 0.0100" in vsgd
    assert "98.90 ± 0.10" in vsgd
    assert " 0.01 " in vsgd
    assert "20 (3/3)" in vsgd
    assert vsgd.split()[-2:] == ["0.250", "8.0"]
    adamw = next(line for line in text.splitlines() if line.startswith("adamw"))
    assert " 0.001* " in adamw  # the outermost of its rates
    assert "- (0/3)" in adamw
    assert "* the outermost rate" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_table_of_divergence() -> None:
    text = drawn(all_diverged(), 80)
    assert "∞" in text
    assert "sgd: 2 of 2 runs diverged" in text


def test_the_reading_knows_noise() -> None:
    apart = summary(two_optimizers())
    assert apart.startswith("Highest test accuracy: vsgd, 98.90 ± 0.10 %; adamw (94.90 ± 0.10 %) is behind by more")
    noisy = comparison(
        contender("vsgd", {0.1: [run(0.1, seed, accuracy=0.95 + seed / 100) for seed in range(3)]}),
        contender("adamw", {0.1: [run(0.1, seed, accuracy=0.951 + seed / 100) for seed in range(3)]}),
    )
    assert summary(noisy) == "Highest test accuracy: adamw, 96.10 ± 1.00 %; vsgd is level with it, within noise."
    assert "a single seed" in summary(one_seed())
    assert "behind" not in summary(one_seed())
    sentences = " ".join(reading(two_optimizers()))
    assert "adamw was best at the outermost learning rate that was tried, 0.001" in sentences
    assert "Lowest test loss: vsgd, 0.2100 ± 0.0100" in sentences
    assert "2 of 2 runs diverged" in " ".join(reading(all_diverged()))


def strict(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("found", [two_optimizers(), all_diverged(), one_seed()], ids=["two", "diverged", "one seed"])
def test_the_record_is_strict_json_with_the_documented_keys(found: Comparison) -> None:
    record = json.loads(to_json(found, PROVENANCE), parse_constant=strict)
    assert list(record) == ["format", "version", "task", "settings", "optimizers", "provenance"]
    assert record["settings"] == {
        "steps": 20,
        "seeds": list(found.seeds),
        "learning_rates": "ladder",
        "schedule": "cosine",
        "weight_decay": 0.0,
        "autocast": False,
        "device": "cpu",
    }
    assert record["provenance"] == {**PROVENANCE, "seconds": 1.5}
    for optimizer, tested in zip(record["optimizers"], found.contenders, strict=True):
        assert optimizer["best_lr"] == tested.best.lr
        assert optimizer["best_lr_on_edge"] == tested.on_edge
        assert [rung["lr"] for rung in optimizer["rungs"]] == [rung.lr for rung in tested.rungs]
        for rung, measured in zip(optimizer["rungs"], tested.rungs, strict=True):
            for one, original in zip(rung["runs"], measured.runs, strict=True):
                assert one["curves"]["step"] == [evaluation.step for evaluation in original.evaluations]
                final = original.final.test_loss
                assert one["curves"]["test_loss"][-1] == (None if math.isinf(final) else final)
                assert one["diverged"] == original.diverged


def test_the_record_of_two_optimizers() -> None:
    vsgd = json.loads(to_json(two_optimizers(), PROVENANCE))["optimizers"][0]
    assert vsgd["class"] == "varigrad.VSGD"
    assert vsgd["test_loss"] == {"mean": pytest.approx(0.21), "std": pytest.approx(0.01)}
    assert vsgd["steps_to_target"] == {"median": 20, "reached": 3}
    assert vsgd["rungs"][2]["validation_loss"] == {"mean": None, "std": None}


@pytest.mark.parametrize("draw", [training, rates])
@pytest.mark.parametrize("found", [two_optimizers(), all_diverged(), one_seed()], ids=["two", "diverged", "one seed"])
def test_pictures(draw, found: Comparison) -> None:
    with Image.open(io.BytesIO(drawn_as(draw(found), "png"))) as image:
        assert image.format == "PNG"
        image.load()
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.width > 600
    if found.contenders[0].row.name == "vsgd":
        drawn_colours = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}
        assert {colour("vsgd"), colour("adamw")} <= drawn_colours


def test_every_optimizer_has_a_colour_of_its_own() -> None:
    assert len({colour(name) for name in list(OPTIMIZERS)[:8]}) == 8


class Elements(HTMLParser):
    """What a page consists of: its elements, what they refer to, and its text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.references: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words += text


@pytest.mark.parametrize("found", [two_optimizers(), all_diverged(), one_seed()], ids=["two", "diverged", "one seed"])
def test_the_page_stands_alone(found: Comparison) -> None:
    text = page(found, PROVENANCE)
    elements = Elements(text)
    assert elements.open == []
    assert elements.references == []  # nothing to fetch, from anywhere
    assert "link" not in elements.names
    assert "@import" not in text.split("</style>")[0]
    assert "default-src 'none'" in text
    assert text.count("Plotly.react") >= 1
    assert len(text) > 3_000_000  # Plotly itself is inside
    assert summary(found) in elements.words
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_the_table_and_where_it_comes_from() -> None:
    words = Elements(page(two_optimizers(), PROVENANCE)).words
    for expected in ("0.2100 ± 0.0100", "98.90 ± 0.10", "0.001*", "varigrad compare", "2026-01-01", "varigrad.VSGD"):
        assert expected in words


def test_the_page_escapes_everything() -> None:
    evil = "</script><script>alert(1)</script>"
    found = two_optimizers()
    row = dataclasses.replace(found.contenders[0].row, name=evil, summary=evil)
    found = dataclasses.replace(
        found,
        task=dataclasses.replace(found.task, name=evil, summary=evil),
        contenders=(dataclasses.replace(found.contenders[0], row=row), found.contenders[1]),
    )
    text = page(found, {"command": evil})
    assert evil not in text
    assert Elements(text).names.count("script") == 2


def test_the_charts_hold_no_infinity() -> None:
    for found in (two_optimizers(), all_diverged(), one_seed()):
        assert set(json.loads(json.dumps(charts(found), allow_nan=False))) == {"loss", "accuracy", "rates"}


def test_a_diverged_rate_is_shown_as_a_triangle() -> None:
    marks = [trace for trace in charts(two_optimizers())["rates"]["data"] if trace["mode"] == "markers"]
    triangles = {tuple(mark["x"]) for mark in marks if mark["marker"]["symbol"] == "triangle-up"}
    assert (0.1,) in triangles
