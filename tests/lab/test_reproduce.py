"""The papers' items: all there, their numbers the papers', their runs as told, their verdicts as defined."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from varigrad.cli import app
from varigrad.lab.data import Digits
from varigrad.lab.engines.here import Here
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS, find_optimizer
from varigrad.lab.papers.paper import TEST_ACCURACY, TEST_LOSS, TRAIN_LOSS, Cell, Claim, Item, Setting
from varigrad.lab.protocol import Protocol
from varigrad.lab.reproduce import composites, filters, lemma, quadratics, verdict
from varigrad.lab.reproduce.command import write
from varigrad.lab.reproduce.findings import Findings, Row
from varigrad.lab.reproduce.run import COMPUTATIONS, PAPERS, compute, find_items
from varigrad.lab.reproduce.trained import SMOKE_STEPS, Manner, measured, train_item, trials
from varigrad.lab.tasks import TASKS, find_task
from varigrad.lab.tasks.problems import stochastic_quadratic
from varigrad.lab.training import Evaluation, Run

CPU = torch.device("cpu")
EVERY_ITEM = [(paper, item) for paper in PAPERS.values() for item in paper.items]
CELLS = [(item, cell) for _, item in EVERY_ITEM for cell in item.cells]


def quiet(*told: object) -> None:
    pass


@pytest.mark.parametrize(
    ("paper", "figures", "tables"),
    [
        ("vsgd", [str(n) for n in range(1, 9)], range(1, 6)),
        ("adabayes", ["1", "2", "3", "4", "A1", "A2", "A3", "A4", "A5"], [1]),
        ("dissecting-adam", [str(n) for n in range(1, 9)], []),
        ("svgd", [str(n) for n in range(1, 13)], range(1, 4)),
    ],
)
def test_every_table_and_figure_of_a_paper_is_listed(paper, figures, tables) -> None:
    found = {item.name.split("-")[0] for item in PAPERS[paper].items}
    assert found >= {f"fig{name}" for name in figures} | {f"table{name}" for name in tables}


@pytest.mark.parametrize(("paper", "item"), EVERY_ITEM, ids=lambda value: getattr(value, "name", ""))
def test_an_item_is_trained_or_computed_or_says_why_not(paper, item) -> None:
    assert bool(item.cells) + bool(item.computed) + (not item.cells and not item.computed and bool(item.note)) == 1
    assert item.computed is None or item.computed in COMPUTATIONS
    keys = [cell.key for cell in item.cells]
    assert len(set(keys)) == len(keys)
    for claim in item.claims:
        assert {claim.better, claim.worse} <= set(keys)
        better, worse = (next(cell for cell in item.cells if cell.key == key) for key in (claim.better, claim.worse))
        assert (better.metric, better.best, better.task) == (worse.metric, worse.best, worse.task)


def test_every_cell_can_be_run() -> None:
    missing = {"adabound", "amsbound"} - set(OPTIMIZERS)
    for _, cell in CELLS:
        assert cell.steps == TASKS[cell.task].steps
    distinct = {repr(trial): trial for _, cell in CELLS for trial in trials(cell)}
    for trial in distinct.values():
        if trial.optimizer in missing:
            with pytest.raises(LabError, match="pip install"):
                trial.job(Manner("full", CPU), 0)
        else:
            job = trial.job(Manner("full", CPU), 0)
            assert job.settings.steps == trial.steps
            job.row.build(torch.nn.Linear(2, 2), job.lr, job.settings.weight_decay, job.task.batch_size, 10)


def numbers(item: str, *words: str) -> list[float | None]:
    ((_, found),) = find_items(item)
    return [cell.number for cell in found.cells if all(word in cell.key for word in words)]


def test_the_numbers_are_those_that_are_printed() -> None:
    assert numbers("vsgd/table1", "cifar100-convmixer") == [69.8, 69.1, 66.5, 67.0, 65.4]
    assert numbers("vsgd/table1", "tiny-imagenet-vgg19") == [51.2, 52.0, 47.6, 49.0, 50.9]
    assert numbers("vsgd/table1", "VSGD (w/ L2)") == [70.1, 69.8, 71.4, 51.2, 53.1, 48.7]
    assert numbers("vsgd/table5") == [67.75, 68.59, 69.03, 69.77, 69.71, 60.97]
    assert numbers("vsgd/imagenet") == [71.1, 68.7]
    assert numbers("adabayes/table1", "cifar100-resnet34", TEST_LOSS) == [
        *(0.833, 1.049, 1.347, 1.033, 1.004, 1.003, 1.142, 0.935, 0.969),
    ]
    assert numbers("adabayes/table1", " AdaBayes,") == [4.840, 0.229, 4.560, 0.222, 22.920, 0.969, 22.090, 1.079]
    assert numbers("svgd/table1") == [1.80, 1.94, 1.76, 1.60]
    assert numbers("svgd/table2") == [17.78, 18.02, 17.32, 17.07]
    assert numbers("svgd/table3") == [11.18, 11.12, 10.69, 8.62]


def test_the_settings_are_those_that_are_printed() -> None:
    ((_, table),) = find_items("vsgd/table1")
    by_key = {cell.key: cell for cell in table.cells}
    sgd = by_key["cifar100-vgg16 SGD (w/ mom)"]
    assert {(s.lr, s.arguments["momentum"], s.weight_decay) for s in sgd.settings} == {
        (lr, momentum, 0.0) for lr in (0.001, 0.005, 0.01, 0.02) for momentum in (0.9, 0.99)
    }
    job = trials(by_key["cifar100-vgg16 VSGD (w/ L2)"])[0].job(Manner("full", CPU), 0)
    assert (job.settings.weight_decay, job.settings.schedule) == (0.01, "drops:10000=0.5,20000=0.25")
    assert job.task.batch_size == 256
    assert find_task("tiny-imagenet-resnext18").batch_size == 64
    ((_, table),) = find_items("adabayes/table1")
    by_key = {cell.key: cell for cell in table.cells}
    job = trials(by_key["cifar10-resnet34 Adam, test error (%)"])[0].job(Manner("full", CPU), 0)
    assert job.row.arguments == {"betas": (0.99, 0.999)}
    job = trials(by_key["cifar10-densenet121 AdaBayes, test error (%)"])[0].job(Manner("full", CPU), 0)
    keywords = job.row.keywords(job.lr, 128, 10)
    assert keywords["sgd_lr"] / keywords["batch_size"] == pytest.approx(7.8125e-4)
    assert job.lr * job.settings.weight_decay == pytest.approx(5e-5)
    assert job.settings.schedule == "drops:58500=0.1"
    for name, scale in (("table2", 0.128), ("table3", 1.28)):
        ((_, table),) = find_items(f"svgd/{name}")
        job = trials(table.cells[-1])[0].job(Manner("full", CPU), 0)
        assert job.row.keywords(job.lr, 128, 10) == pytest.approx({"scale": scale, "eps": 1e-6 * 128**2})


def test_a_tenth_has_a_tenth_of_the_steps_and_falls_a_tenth_of_the_way() -> None:
    ((_, item),) = find_items("dissecting-adam/fig5-p3")
    job = trials(item.cells[0])[0].job(Manner("tenth", CPU), 2)
    assert (job.settings.steps, job.seed) == (8000, 2)
    assert job.settings.schedule == "drops:2400=0.2,4800=0.04,6400=0.008"
    smoke = trials(item.cells[0])[0].job(Manner("smoke", CPU), 0)
    assert smoke.settings.steps == SMOKE_STEPS


def test_verdicts_on_numbers() -> None:
    ours = [10.0, 11.0, 12.0]  # mean 11, standard deviation 1, t 4.303: interval 11 ± 2.484, one more run 11 ± 4.968
    assert verdict.of_number(13.4, ours) == verdict.REPRODUCED
    assert verdict.of_number(13.6, ours) == verdict.WITHIN_NOISE
    assert verdict.of_number(15.9, ours) == verdict.WITHIN_NOISE
    assert verdict.of_number(16.1, ours) == verdict.NOT_REPRODUCED
    assert verdict.of_number(15.9, ours, paper_seeds=3) == verdict.NOT_REPRODUCED  # 11 ± 3.513
    assert verdict.of_number(16.1, ours, paper_std=4.0, paper_seeds=3) == verdict.WITHIN_NOISE
    assert verdict.of_number(11.0, [11.0]) == verdict.NOT_RUN
    assert verdict.of_number(11.0, [11.0, math.inf]) == verdict.NOT_REPRODUCED


def test_verdicts_on_claims() -> None:
    assert verdict.of_claim([1.0, 1.1, 0.9], strict=True) == verdict.REPRODUCED
    assert verdict.of_claim([-1.0, -1.1, -0.9], strict=False) == verdict.NOT_REPRODUCED
    assert verdict.of_claim([1.0, -1.1, 0.9], strict=True) == verdict.WITHIN_NOISE
    assert verdict.of_claim([1.0, -1.1, 0.9], strict=False) == verdict.REPRODUCED
    assert verdict.of_claim([math.inf, 1.0], strict=True) == verdict.REPRODUCED
    assert verdict.of_claim([math.nan, 1.0], strict=True) == verdict.NOT_REPRODUCED
    assert verdict.of_claim([1.0], strict=True) == verdict.NOT_RUN


def test_a_step_gains_what_the_closed_form_expects_and_no_other_step_does(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = stochastic_quadratic("mild", True, 0.0)
    for signs in (False, True):
        descent = quadratics.Descent(problem, signs, 4, seed=1)
        assert descent.gained == pytest.approx(descent.expected, rel=1e-9)
        assert descent.violations == 0
    theta = torch.randn(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = problem.curvature @ theta
    first = 0.5 * (gradient @ gradient) ** 2 / (gradient @ problem.curvature @ gradient)
    assert quadratics.Descent(problem, False, 1, seed=1).expected[0] == pytest.approx(first.item())
    right = quadratics.sgd_improvement
    monkeypatch.setattr(
        quadratics,
        "sgd_improvement",
        lambda *args: dataclasses.replace(right(*args), curvature=2 * right(*args).curvature),
    )
    wrong = quadratics.Descent(problem, False, 4, seed=1)
    assert quadratics._gain_row("", [wrong], noisy=False).verdict == verdict.NOT_REPRODUCED


def test_the_twelve_problems_are_run_and_the_noisy_ones_have_intervals() -> None:
    rows, curves = quadratics.quadratics("smoke", quiet)
    gains = [row for row in rows if "gains over" in row.label]
    assert len(gains) == 24
    assert len(curves) == 24
    assert sum(row.low is not None for row in gains) == 16
    assert not [row.label for row in gains if row.verdict == verdict.NOT_REPRODUCED]


def test_the_lemma_holds_and_a_wrong_constant_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = lemma.lemma("smoke", quiet)
    assert len(rows) == 4 * 3 + 4 * 2
    assert not [row.label for row in rows if row.verdict == verdict.NOT_REPRODUCED]
    monkeypatch.setattr(lemma, "_constant", lambda n, length, count, draws: length**2 / n)
    wrong, _ = lemma.lemma("smoke", quiet)
    assert [row for row in wrong if row.verdict == verdict.NOT_REPRODUCED]


def test_gradient_descent_on_the_hilbert_problem_is_its_closed_form() -> None:
    losses = composites._descend("gradient descent", 0.0, 0)
    assert losses[0] == pytest.approx(10 * 0.05**2)
    assert losses[50] == pytest.approx(composites._closed_form(50), rel=1e-4)
    rows, _ = composites.hilbert("full", quiet)
    assert [row.verdict for row in rows[:4]] == [verdict.REPRODUCED] * 4


def test_the_filter_comes_to_rest_where_the_closed_form_says() -> None:
    rms = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    from varigrad.theory import adabayes_fixed_point

    resting = filters._run(rms, 9000, lambda: torch.ones(3))
    assert torch.allclose(resting, adabayes_fixed_point(rms**2, 1e-3, 0.1 / 128), rtol=1e-4)


@pytest.mark.parametrize("item", ["dissecting-adam/fig3", "dissecting-adam/fig4", "dissecting-adam/fig6", "svgd/fig1"])
def test_closed_forms_at_a_small_scale(item: str) -> None:
    ((paper, found),) = find_items(item)
    findings = compute(paper, found, "smoke", quiet)
    assert findings.rows
    assert not [row.label for row in findings.rows if row.verdict == verdict.NOT_REPRODUCED]


def cell(key: str, optimizer: str, *rates: float, metric: str = TEST_ACCURACY, number: float | None = None) -> Cell:
    settings = tuple(Setting(rate) for rate in rates)
    return Cell(key, "digits", optimizer, settings, "constant", 300, metric, number=number)


def trained(item: Item, scale: str = "tenth", seeds: tuple[int, ...] = (0, 1), autocast: bool = False):
    data = Digits().load(None)
    plans, done, said = [], [], []
    rows, curves, runs = train_item(
        item,
        Manner(scale, CPU, autocast),
        seeds,
        Here(lambda task: data),
        quiet,
        plans.append,
        lambda: done.append(1),
        said.append,
    )
    return rows, curves, runs, plans, len(done), said


def test_cells_and_claims_are_judged_by_their_runs() -> None:
    item = Item(
        "made",
        "",
        (
            cell("fast", "sgd", 0.05, number=95.0),
            cell("fast, loss", "sgd", 0.05, metric=TRAIN_LOSS),
            cell("still", "sgd", 1e-7, number=10.0),
        ),
        (Claim("fast is ahead", "fast", "still"), Claim("still is ahead", "still", "fast")),
    )
    rows, curves, runs, plans, done, _ = trained(item)
    assert done == len(runs) == plans[-1] == 4  # two cells share their runs
    assert {tuple(run["step"])[-1] for run in runs} == {30}
    by_label = {row.label: row for row in rows}
    assert by_label["fast: test accuracy (%)"].verdict == "not run in full"
    assert by_label["fast is ahead"].verdict == verdict.REPRODUCED
    assert by_label["still is ahead"].verdict == verdict.NOT_REPRODUCED
    lead = by_label["fast is ahead"].ours
    assert lead == pytest.approx(by_label["fast: test accuracy (%)"].ours - by_label["still: test accuracy (%)"].ours)
    assert [curve.label for curve in curves] == ["fast", "fast, loss", "still"]


def test_settings_are_chosen_by_validation_and_an_edge_is_told() -> None:
    rows, _, runs, _, _, _ = trained(Item("made", "", (cell("chosen", "sgd", 1e-7, 1e-5, 0.05, number=90.0),)))
    assert [run["specification"]["lr"] for run in runs] == [1e-7, 1e-5, 0.05, 0.05]
    assert "chosen lr 0.05 (on the edge of what was tried)" in rows[0].detail
    assert "2 seeds" in rows[0].detail


def test_at_a_tenth_the_choice_is_made_by_shorter_runs() -> None:
    """A tenth as long again, but a thousand steps at least; every seed of the winner has the full tenth."""
    several = dataclasses.replace(trials(cell("a", "sgd", 0.1, 0.2))[0], steps=200_000)
    steps = {
        (scale, choosing): several.job(Manner(scale, CPU), 0, choosing).settings.steps
        for scale in ("full", "tenth")
        for choosing in (False, True)
    }
    assert steps == {("full", False): 200_000, ("full", True): 200_000, ("tenth", False): 20_000, ("tenth", True): 2000}
    tenth = Manner("tenth", CPU)
    assert dataclasses.replace(several, steps=30_000).job(tenth, 0, choosing=True).settings.steps == 1000
    assert dataclasses.replace(several, steps=6000).job(tenth, 0, choosing=True).settings.steps == 600
    assert dataclasses.replace(several, chosen=False).job(tenth, 0, choosing=True).settings.steps == 20_000


def test_the_winner_of_a_short_choice_is_run_with_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varigrad.lab.reproduce.trained.FEWEST_TO_CHOOSE", 10)
    rows, _, runs, plans, done, _ = trained(Item("made", "", (cell("chosen", "sgd", 1e-7, 0.01, 0.05, number=90.0),)))
    found = [(run["specification"]["lr"], run["step"][-1], run["specification"]["seed"]) for run in runs]
    assert found == [(1e-7, 10, 0), (0.01, 10, 0), (0.05, 10, 0), (0.05, 30, 0), (0.05, 30, 1)]
    assert plans[-1] == done == 5
    assert "2 seeds; chosen lr 0.05" in rows[0].detail


def test_in_bfloat16_every_run_is_another_one() -> None:
    """The choice among settings, too."""
    item = Item("made", "", (cell("chosen", "sgd", 0.01, 0.05, number=90.0),))
    (_, _, exact, *_), (_, _, rounded, *_) = trained(item), trained(item, autocast=True)
    assert len(exact) == len(rounded) == 3  # both settings with a seed, the better one with the other
    for one, other in zip(exact, rounded, strict=True):
        settings = one["specification"]["settings"]
        assert "autocast" not in settings
        assert other["specification"] == {**one["specification"], "settings": {**settings, "autocast": True}}
        assert one["step"] == other["step"]
        assert one["train_loss"] != other["train_loss"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)


def test_an_optimizer_that_is_not_installed_is_not_run_and_said() -> None:
    item = Item("made", "", (cell("there", "sgd", 0.05), cell("gone", "nowhere", 0.05)), (Claim("c", "there", "gone"),))
    rows, _, runs, _, _, said = trained(item, "smoke")
    assert len(runs) == 2
    assert rows[1].verdict == rows[2].verdict == verdict.NOT_RUN
    assert "unknown optimizer 'nowhere'" in said[0]


def test_a_paper_schedule_takes_the_papers_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Protocol("A", (0, 100), {"sgd": (0.2, 0.1)}, {"sgd": {"momentum": 0.0}})
    task = dataclasses.replace(TASKS["digits"], protocol=protocol)
    monkeypatch.setattr("varigrad.lab.reproduce.trained.find_task", lambda name: task)
    made = dataclasses.replace(cell("a", "sgd", 0.2), schedule="paper")
    job = trials(made)[0].job(Manner("full", CPU), 0)
    assert job.row.arguments == {"momentum": 0.0}
    assert job.settings.schedule == "paper"


def test_the_best_value_counts_where_the_paper_takes_it() -> None:
    evaluations = tuple(
        Evaluation(step, loss, 0.0, 0.0, loss, accuracy)
        for step, loss, accuracy in ((1, 3, 0.9), (2, 1, 0.5), (3, 2, 0.6))
    )
    run = Run(0.1, 0, evaluations, False, 0.0, 1.0, 0.0)
    last, best = cell("a", "sgd", 0.1), dataclasses.replace(cell("a", "sgd", 0.1), best=True)
    assert (measured(last, run), measured(best, run)) == (60.0, 90.0)
    assert measured(dataclasses.replace(best, metric=TEST_LOSS), run) == 1


def test_the_variance_inside_the_batch_is_what_the_row_uses() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = find_optimizer("msvag-batch").build(model, 0.1, 0.0, 4, 10)
    model(torch.randn(4, 3)).square().sum(1).mean().backward()
    assert model.weight.grad_variance.shape == (2, 3)
    optimizer.step()


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)], env={"COLUMNS": "160"})


def test_the_command_lists_everything() -> None:
    result = invoke()
    assert result.exit_code == 0, result.output
    for paper, item in EVERY_ITEM:
        assert f"{paper.name}/{item.name} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vsdg/table1"], "unknown paper 'vsdg': did you mean 'vsgd'?"),
        (["vsgd/tabel1"], "unknown table or figure of vsgd 'tabel1': did you mean 'table1'?"),
        (["vsgd/table1", "--scale", "half"], "--scale 'half' does not exist (accepted: full, tenth, smoke)"),
        (["vsgd/table1", "--seeds", "0"], "--seeds 0 is out of range"),
        (["vsgd/table3"], "vsgd/table3, hyperparameters: nothing to run. "),
        (["vsgd/table1", "--engine", "abacus"], "--engine 'abacus' does not exist"),
        (["svgd/fig1", "--autocast"], "--autocast: svgd/fig1 trains no cells; leave it out"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = invoke(*arguments, "--store", tmp_path / "runs")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_data_is_named_before_anything_runs(tmp_path: Path) -> None:
    result = invoke("dissecting-adam/fig5-p4", "--scale", "smoke", "--data-dir", tmp_path, "--store", tmp_path / "runs")
    assert result.exit_code == 2
    assert "no war-and-peace/warpeace_input.txt" in result.stderr


def test_findings_are_written_and_strictly_valid(tmp_path: Path) -> None:
    result = invoke("svgd/fig1", "--scale", "smoke", "--store", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert re.search(r"order of .* 2 +2\.00\d* +– +reproduced", result.stdout)
    record = json.loads((tmp_path / "out" / "svgd-fig1-smoke.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert record["item"] == "svgd/fig1"
    assert record["rows"][0]["verdict"] == verdict.REPRODUCED
    assert record["provenance"]["torch"] == torch.__version__
    assert (tmp_path / "out" / "svgd-fig1-smoke.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_lists_every_item_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reproducing.md").read_text("utf-8")
    _, _, listed = page.partition("\n## All items\n")
    assert re.findall(r"^\| `([\w/-]+)` \| (.*?) \|", listed, re.MULTILINE) == [
        (f"{paper.name}/{item.name}", item.title) for paper, item in EVERY_ITEM
    ]


def test_what_a_number_measures_is_said_once(tmp_path: Path) -> None:
    """Said twice, it left no room for the numbers on the page."""
    found = CliRunner().invoke(app, ["reproduce", "svgd/fig7", "--scale", "smoke", "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    with (tmp_path / "svgd-fig7-smoke.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} == {
        "slope, closed form",
        "slope, authors' log",
        "largest distance from the line, in standard errors",
    }
    assert {row["cell"] for row in rows} == {
        *(f"n = {n}, λ = {scale}, spectral norm" for n, scale in ((2, 1), (5, 2), (10, 3), (25, 4))),
        *(f"n = {n}, λ = {scale}, Frobenius norm" for n, scale in ((2, 1), (5, 2), (10, 3), (25, 4))),
    }


def test_what_the_paper_has_no_number_for_is_written_all_the_same(tmp_path: Path) -> None:
    """Of figures without numbers only the claims are judged."""
    paper, item = find_items("dissecting-adam/fig5-p4")[0]
    findings = (
        Row("M-SGD, training loss", None, 1.32, None, None, "", "1 seed"),
        Row("M-SGD is ahead", None, 0.1, 0.05, 0.15, verdict.REPRODUCED, "lead in training loss"),
    )
    written = write(Findings(paper, item, "tenth", findings, (), 1.0, ()), {"commit": "none"}, tmp_path)
    assert {path.suffix for path in written} >= {".html", ".csv", ".tex", ".json"}
    with (tmp_path / "dissecting-adam-fig5-p4-tenth.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["metric"], row["verdict"], row["scale"]) for row in rows] == [
        ("M-SGD", "training loss", "no number", "tenth; 1 seed"),
        ("M-SGD is ahead", "lead in training loss", "reproduced", "tenth"),
    ]
    page = (tmp_path / "dissecting-adam-fig5-p4-tenth.html").read_text("utf-8")
    assert "1 reproduced, 1 no number, of 2." in page


def test_what_was_computed_in_bfloat16_says_so_and_replaces_nothing_exact(tmp_path: Path) -> None:
    paper, item = find_items("dissecting-adam/fig5-p4")[0]
    found = Findings(paper, item, "tenth", (Row("M-SGD, training loss", None, 1.3, None, None, "", "1 seed"),))
    for findings in (found, dataclasses.replace(found, autocast=True)):
        write(findings, {"commit": "none"}, tmp_path)
    for name, scale, autocast in (("tenth", "tenth", False), ("tenth-autocast", "tenth, autocast", True)):
        with (tmp_path / f"dissecting-adam-fig5-p4-{name}.csv").open(encoding="utf-8") as file:
            assert [row["scale"] for row in csv.DictReader(file)] == [f"{scale}; 1 seed"]
        record = json.loads((tmp_path / f"dissecting-adam-fig5-p4-{name}.json").read_text("utf-8"))
        assert (record["scale"], record["autocast"]) == ("tenth", autocast)
