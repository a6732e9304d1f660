"""What `varigrad noise` reads, concludes and shows."""

import io
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from varigrad.cli import app
from varigrad.lab.errors import LabError
from varigrad.lab.noise.advice import advice, basis
from varigrad.lab.noise.display import COLOURS, display, shade
from varigrad.lab.noise.findings import Findings, findings
from varigrad.lab.noise.page import charts, page
from varigrad.lab.noise.records import read
from varigrad.record import NoiseRecord
from varigrad.writers import JSONLines

from .chromium import look, needs_chromium

Rows = dict[str, tuple[float, float]]


def records(looks: int, rows: Rows, spread: float = 0.1, batch: float | None = 32.0, source: str = "in-batch"):
    """Records of layers with a signal, which alternates by a share of the noise, and a noise: `rows[layer]`."""
    made = []
    for number in range(1, looks + 1):
        layers = {}
        for name, (signal, noise) in rows.items():
            seen = signal + (-1) ** number * spread * noise
            figures = {"weights": 100.0, "signal": seen, "noise": noise, "certain": 0.25}
            layers[name] = {**figures, "effective_lr": 0.1, "systematic": 1.0, "observation": 4.0, "gain": 0.2}
        made.append(NoiseRecord(250 * number, source, "VSGD", batch, layers))
    return made


def found(signal: float, noise: float, looks: int = 60, **others) -> Findings:
    return findings(records(looks, {"layer": (signal, noise)}, **others))


# ---------------------------------------------------------------- reading


def test_what_the_monitor_wrote_is_read_back(tmp_path: Path) -> None:
    written = records(3, {"a.b": (1.0, 4.0)})
    writer = JSONLines(tmp_path)
    for record in written:
        writer.write(record)
    with writer.path.open("a") as file:
        file.write('{"step": 999, "lay')  # killed
    assert read(tmp_path) == written
    assert read(writer.path) == written
    writer.close()
    writer = JSONLines(tmp_path)  # resumed from the start: the later figure of step 250 counts
    for record in records(1, {"a.b": (5.0, 4.0)}):
        writer.write(record)
    writer.close()
    assert [record.step for record in read(tmp_path)] == [250, 500, 750]
    assert read(tmp_path)[0].layers["a.b"]["signal"] > 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no noise.jsonl there; a run writes it with NoiseMonitor"),
        ("", "no record in it"),
        ("not json\n", "no record in it"),
        ('{"step": 1}\n', "line 1: not what a NoiseMonitor writes"),
        ("[]\n", "line 1: not what a NoiseMonitor writes"),
    ],
)
def test_what_cannot_be_read_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "noise.jsonl").write_text(content)
    with pytest.raises(LabError, match=re.escape(message)):
        read(tmp_path)


# ---------------------------------------------------------------- concluding


def test_a_ratio_of_means_not_a_mean_of_ratios() -> None:
    """Single looks may have a negative signal; their average has the right one, and an interval around it."""
    whole = found(1.0, 4.0, looks=400, spread=0.5).whole
    assert whole.batches == pytest.approx(4.0, rel=0.2)
    low, high = whole.interval
    assert low < 4.0 < high
    assert high / low < 2.5


def test_the_interval_holds_the_truth_19_times_out_of_20() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        rows = {
            "weights": 1.0,
            "noise": 4.0,
            "certain": 0.0,
            "effective_lr": 0.0,
            "systematic": 0.0,
            "observation": 1,
            "gain": 0.0,
        }
        layers = [{**rows, "signal": 1.0 + rng.standard_normal()} for _ in range(60)]
        made = [NoiseRecord(n, "pair", "SGD", 1, {"a": row}) for n, row in enumerate(layers, 1)]
        low, high = findings(made).whole.interval
        inside += low < 4.0 < high
    assert 360 <= inside <= 396


def test_the_run_is_cut_into_stretches_of_four_looks_or_more() -> None:
    slices = found(1.0, 4.0, looks=60).slices
    assert len(slices) == 15
    assert (slices[0].first, slices[-1].last) == (250, 15000)
    assert all(later.first > earlier.last for earlier, later in itertools.pairwise(slices))
    assert len(findings(records(60, {"a": (1.0, 4.0)}), 5).slices) == 5
    assert len(found(1.0, 4.0, looks=3).slices) == 3


SMALL = found(0.25, 4.0)

CASES = {
    "small": (
        found(0.25, 4.0),
        "The batch could be 16 × larger before returns diminish: the noise scale is 512",
    ),
    "right": (found(4.0, 4.0), "The batch is of the order of the noise scale, which is 32 samples"),
    "large": (found(40.0, 4.0), r"The batch is 10 times the noise scale, which is 3.2 samples"),
    "silent": (
        found(0.0, 4.0),
        r"The signal cannot be told from zero: the noise scale is at least [\d,]+ ",
    ),
    "overshooting": (found(-1.0, 4.0), r"point against each other \(cosine -0.33\): steps overshoot. Try a lower"),
    "short": (found(0.25, 4.0, looks=6), "3 looks are too few to judge the batch"),
    "unknown batch": (found(0.25, 4.0, batch=None), "the noise scale is 16 batches"),
    "still": (found(0.0, 0.0), "The gradients had no noise"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_advice(case: tuple[Findings, str]) -> None:
    assert re.search(case[1], advice(case[0])[0]), advice(case[0])[0]


def test_the_advice_has_the_numbers_it_rests_on() -> None:
    (sentence,) = advice(SMALL)
    assert re.search(r"95 % interval 3\d\d to 1,\d+ samples", sentence)
    assert "about 17 times the fewest steps possible and 1.1 times the fewest samples" in sentence
    assert "60 looks from step 250 to 15,000" in basis(SMALL)
    assert "take the motion of the weights for noise" in basis(found(1.0, 1.0, source="pair"))


def test_layers_without_signal_are_named() -> None:
    rows = {"first": (1.0, 4.0), "faint": (0.0, 4.0), "dead": (0.0, 0.0), "last": (1.0, 4.0)}
    _, dead, faint = advice(findings(records(60, rows, spread=0.02)))
    assert dead == "These layers receive no gradient at all: dead."
    assert faint.startswith("These layers receive no signal that can be told from noise: faint (at most 0.")
    assert "first" not in faint


# ---------------------------------------------------------------- showing


def drawn(shown: Findings, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(display(shown, width))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_layer_and_fits(width: int) -> None:
    rows = {f"encoder.layers.{number}.attention.output": (1.0, 4.0) for number in range(3)} | {"head": (0.0, 4.0)}
    text = drawn(findings(records(200, rows), 40), width)
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"^head +█+ ", text, re.MULTILINE)
    assert text.count("encoder") == 3 + text.split("layer ")[0].count("encoder")
    assert "signal-to-noise ratio" in text


def test_brighter_is_more_signal() -> None:
    assert [shade(snr) for snr in (0.0, 0.015, 0.3, 0.7, 9.0)] == [0, 1, 5, 6, 8]
    luminance = [sum(int(colour[i : i + 2], 16) * w for i, w in ((1, 0.3), (3, 0.6), (5, 0.1))) for colour in COLOURS]
    assert luminance == sorted(luminance)


EVERY = {name: case[0] for name, case in CASES.items()}


@pytest.mark.parametrize("shown", EVERY.values(), ids=EVERY)
def test_the_charts_hold_no_infinity(shown: Findings) -> None:
    made = json.loads(json.dumps(charts(shown), allow_nan=False))
    assert made["heat"]["data"][0]["y"] == ["layer"]


def test_the_page_stands_alone_and_escapes() -> None:
    evil = "</script><script>alert(1)</script>"
    text = page(findings(records(20, {evil: (1.0, 4.0)})), evil, {"command": evil})
    assert evil not in text
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:link|img|iframe)|@import|src=", text.split("<script>")[0])


@needs_chromium
def test_in_a_browser_the_page_shows_the_right_layers_without_a_network(tmp_path: Path) -> None:
    """The document after its scripts have run has the charts; the picture has bright cells and dark ones."""
    rows = {"stem": (40.0, 4.0), "block.1": (0.05, 4.0), "head": (0.0, 0.0)}
    shown = findings(records(40, rows, spread=0.001))
    file = tmp_path / "noise.html"
    file.write_text(page(shown, "run 7", {"command": "varigrad noise"}), encoding="utf-8")
    document, picture = look(file, tmp_path)
    body = document.split("<script>")[0]
    heat = body.split('id="heat"')[1].split('id="scale"')[0]
    ticks = re.findall(r'class="ytick"><text[^>]*transform="translate\(0,([-\d.]+)\)"[^>]*>([^<]+)</text>', heat)
    assert [name for _, name in sorted(ticks, key=lambda tick: float(tick[0]))] == ["stem", "block.1", "head"]
    assert 'class="hm"' in heat
    scale = body.split('id="scale"')[1]
    assert "batch in use" in scale
    assert advice(shown)[0] in body
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The stem is at the bright end, block.1 with 0.11 in the middle; of the head, which has no noise, nothing is shown.
    for colour, wanted in ((COLOURS[-1], True), (COLOURS[4], True), (COLOURS[0], False)):
        exact = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        near = (np.abs(pixels - exact).max(2) < 30).sum()
        assert (near > 10_000) == wanted, f"{near} pixels of {colour}"


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_shows_and_writes(tmp_path: Path) -> None:
    writer = JSONLines(tmp_path / "run")
    for record in records(40, {"stem": (1.0, 4.0), "head": (0.5, 4.0)}):
        writer.write(record)
    writer.close()
    result = invoke("noise", tmp_path / "run", "--html", tmp_path / "noise.html")
    assert result.exit_code == 0, result.output
    assert re.search(r"^stem +█+", result.stdout, re.MULTILINE)
    assert f"Wrote {tmp_path / 'noise.html'}" in result.stdout
    assert "<title>Noise: run</title>" in (tmp_path / "noise.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "no noise.jsonl there"),
        ([".", "--columns", "0"], "--columns 0 is out of range"),
        ([".", "--html", "nowhere/page.html"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("noise", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_number_that_is_nothing_is_shown_as_such() -> None:
    silent = findings(records(20, {"dead": (0.0, 0.0)}))
    assert math.isnan(silent.whole.batches)
    assert re.search(r"^dead .* -  +-", drawn(silent, 100), re.MULTILINE)
