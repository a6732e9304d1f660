"""The figures that a docstring quotes are those of the runs that are kept under results/."""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import varigrad

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "learning-rate"
sys.path.append(str(ROOT / "benchmarks"))  # where its programs find those beside them
TABLE_1 = ROOT / "results" / "svgd-table1"


def validation_losses(task: str, optimizer: str) -> dict[float, float]:
    record = json.loads((RESULTS / f"{task}.json").read_text("utf-8"))
    rungs = next(row["rungs"] for row in record["optimizers"] if row["name"] == optimizer)
    assert all(len(rung["runs"]) == 3 for rung in rungs)
    return {rung["lr"]: rung["validation_loss"]["mean"] for rung in rungs}


@pytest.mark.parametrize("optimizer", [varigrad.VSGD, varigrad.ConstantVSGD])
@pytest.mark.parametrize("task", ["mnist-mlp", "digits"])
def test_the_default_learning_rate_is_the_one_that_was_measured(optimizer, task):
    name = {"VSGD": "vsgd", "ConstantVSGD": "constant-vsgd"}[optimizer.__name__]
    losses = validation_losses(task, name)
    default = optimizer([torch.zeros(1, requires_grad=True)]).defaults["lr"]
    best = min(losses, key=losses.__getitem__)
    text = " ".join(optimizer.__doc__.split())
    assert f"{losses[default]:.4f} on {'MNIST' if task == 'mnist-mlp' else 'digits'}" in text
    assert f"best was {losses[best]:.4f}, at {best:.0e}".replace("e-0", "e-") in text


def test_the_table_of_svgd_is_that_of_its_runs():
    """Means, deviations and paired intervals on the page, from the curves of the runs."""
    errors: dict[str, dict[int, tuple[float, float]]] = {}
    for path in TABLE_1.glob("seeds-*.json"):
        for row in json.loads(path.read_text("utf-8"))["optimizers"]:
            for run in row["rungs"][0]["runs"]:
                curve = 100 - 100 * torch.tensor(run["curves"]["test_accuracy"], dtype=torch.float64)
                errors.setdefault(row["name"], {})[run["seed"]] = (curve[-1].item(), curve.min().item())
    tensors = {name: torch.tensor([runs[seed] for seed in range(10)]) for name, runs in errors.items()}
    page = (ROOT / "docs" / "virtual-gradients.md").read_text("utf-8")
    for name, label in {"svgd": "SVGD", "sgd": "SGD", "rmsprop": "RMSProp", "adam": "Adam"}.items():
        cells = [cell.strip() for cell in re.search(rf"^\| {label} \| 1\.\d\d (.*)$", page, re.MULTILINE)[1].split("|")]
        mean, std = tensors[name].mean(0), tensors[name].std(0)
        assert cells[1:3] == [f"{mean[i]:.3f} ± {std[i]:.3f}" for i in range(2)]
        if name != "svgd":
            gap = (tensors["svgd"] - tensors[name])[:, 0]
            half = 2.2621572 * gap.std() / 10**0.5  # Student's t with nine degrees of freedom
            assert cells[3:5] == [f"{gap.mean():+.3f}", f"{gap.mean() - half:+.3f} to {gap.mean() + half:+.3f}"]
    summary = json.loads((TABLE_1 / "summary.json").read_text("utf-8"))
    assert summary["settings"]["seeds"] == list(range(10))
    assert summary["optimizers"]["svgd"]["final"]["mean"] == pytest.approx(tensors["svgd"].mean(0)[0].item(), abs=1e-4)


def test_the_table_of_low_precision_is_that_of_its_runs():
    """The rows stand in the order of the arms of float32, state, stochastic, kahan, nearest, both, and torch's two."""
    arms = (
        *("VSGD, float32", "VSGD, bfloat16 state", "VSGD, bfloat16 weights, stochastic"),
        *("VSGD, bfloat16 weights, kahan", "VSGD, bfloat16 weights, nearest"),
        *("VSGD, bfloat16 weights, stochastic, bfloat16 state", "AdamW, float32", "AdamW, bfloat16 weights"),
    )
    page = (ROOT / "docs" / "mixed-precision.md").read_text("utf-8")
    _, _, *rows = (line for line in page.split("Training loss, mean of the")[1].splitlines() if line.startswith("|"))
    losses = []
    for task in ("digits", "mnist-mlp"):
        runs = json.loads((ROOT / "results" / "low-precision" / f"{task}.json").read_text("utf-8"))["runs"]
        losses.append({arm: torch.tensor([run["arms"][arm]["train_loss"] for run in runs]) for arm in arms})
    for arm, row in zip(arms, rows[: len(arms)], strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:] == [f"{task[arm].mean():.4f} ± {task[arm].std():.4f}" for task in losses]
    for rounding in ("stochastic", "kahan"):
        gap = losses[1][f"VSGD, bfloat16 weights, {rounding}"] - losses[1]["VSGD, float32"]
        assert f"({gap.mean():.4f} ± {gap.std():.4f}" in " ".join(page.split())


REPRODUCTIONS = sorted((ROOT / "results" / "reproduce").glob("*.json"))


@pytest.mark.parametrize("path", REPRODUCTIONS, ids=lambda path: path.stem)
def test_the_page_counts_the_verdicts_of_each_reproduction(path):
    record = json.loads(path.read_text("utf-8"))
    autocast = record.get("autocast", False)
    assert path.stem == f"{record['item'].replace('/', '-')}-{record['scale']}{'-autocast' * autocast}"
    scale = f"{record['scale']}{', autocast' * autocast}"
    assert "--out results/reproduce" in record["provenance"]["command"]
    page = (ROOT / "docs" / "reproducing.md").read_text("utf-8")
    (line,) = re.findall(rf"^\| `{record['item']}` \| {scale} \|(.*)\|$", page, re.MULTILINE)
    verdicts = [row["verdict"] for row in record["rows"]]
    kinds = ("reproduced", "within noise", "not reproduced", "not run")
    assert [cell.strip() for cell in line.split("|")] == [
        str(sum(verdict.startswith(kind) for verdict in verdicts)) for kind in kinds
    ]


def test_what_is_said_of_war_and_peace_is_what_was_found():
    record = json.loads((ROOT / "results/reproduce/dissecting-adam-fig5-p4-tenth-autocast.json").read_text("utf-8"))
    found = {row["label"]: row["ours"] for row in record["rows"]}
    page = " ".join((ROOT / "docs" / "reproducing.md").read_text("utf-8").split())
    names = ("M-SGD", "M-SVAG", "Adam", "M-SSD")
    one, two, three, four = (f"{found[f'{name}, training loss']:.3f}" for name in names)
    assert f"M-SGD and M-SVAG are at a training loss of {one} and {two}, Adam at {three}, M-SSD at {four}" in page
    one, two, three, four = (f"{found[f'{name}, test accuracy (%)']:.1f}" for name in names)
    assert f"at test accuracies of {one}, {two}, {three} and {four} %" in page
    assert f"took {record['provenance']['seconds'] / 60:.0f} minutes" in page


def test_what_is_said_of_p1_is_what_was_found():
    path = ROOT / "results" / "reproduce" / "dissecting-adam-fig5-p1-mnist-full-autocast.json"
    record = json.loads(path.read_text("utf-8"))
    found = {row["label"]: row for row in record["rows"]}
    names = ("M-SGD", "Adam", "M-SSD", "M-SVAG")
    assert all("edge" in found[f"{name}, training loss"]["detail"] for name in names)
    one, two, three, four = (f"{found[f'{name}, training loss']['ours']:.4f}" for name in names)
    assert f"M-SGD ends at a training loss of {one}, Adam at {two}, M-SSD at {three} and M-SVAG at {four}," in words(
        "reproducing"
    )
    assert f"took {record['provenance']['seconds'] / 60:.0f} minutes beside" in words("reproducing")


def test_what_is_said_of_svgds_first_table_is_what_was_found():
    record = json.loads((ROOT / "results/reproduce/svgd-table1-full.json").read_text("utf-8"))
    found = {row["label"].partition(":")[0]: f"{row['ours']:.2f}" for row in record["rows"]}
    page = " ".join((ROOT / "docs" / "reproducing.md").read_text("utf-8").split())
    svgd, sgd, rmsprop, adam = (found[name] for name in ("SVGD", "SGD", "RMSProp", "Adam"))
    assert f"{svgd} % for SVGD, {sgd} for SGD, {rmsprop} for RMSProp and {adam} for Adam" in page
    assert f"took {record['provenance']['seconds'] / 60:.0f} minutes" in page


def test_what_is_said_of_the_notebook_is_what_was_found():
    record = json.loads((ROOT / "results/reproduce/vsgd-notebook-full.json").read_text("utf-8"))
    found = {row["label"].partition(":")[0]: f"{row['ours']:.1f}" for row in record["rows"]}
    vsgd, sgd, adam = (found[name] for name in ("VSGD", "SGD with momentum", "Adam"))
    assert f"{vsgd} % for VSGD, {sgd} for SGD with momentum and {adam} for Adam" in words("reproducing")


def lead(study, task, over, digits):
    """By how much AdaptiveMuon ends below another, seed by seed, with a 95 % interval, as a page has it."""
    record = json.loads((ROOT / "results" / "fair" / study / f"{task}.json").read_text("utf-8"))["optimizers"]
    ours, theirs = ([curve[-1] for curve in record[name]["test_loss"]] for name in ("adaptive-muon", over))
    gaps = np.subtract(theirs, ours)
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{gaps.mean():.{digits}f} ± {half:.{digits}f}"


def words(page):
    return " ".join((ROOT / "docs" / f"{page}.md").read_text("utf-8").split())


def test_what_is_said_of_adaptive_muon_is_what_was_found():
    muon, schedule_free, by_hand, gpt, lstm = (
        lead("", *pair)
        for pair in (
            ("mnist-short", "muon", 4),
            ("cifar10-short", "schedule-free", 3),
            ("cifar100-short", "gain-by-hand", 3),
            ("gpt-short", "muon", 3),
            ("lstm-short", "muon", 3),
        )
    )
    leads = f"by {muon}, {schedule_free}, {by_hand}, {gpt} and {lstm}."
    assert f"a gain set by hand, Muon and Muon, {leads}" in words("results")
    adamw, muon = (lead("x4", "gpt-short", over, 3) for over in ("adamw", "muon"))
    assert f"below AdamW by {adamw} and below Muon by {muon};" in words("muon")
    adamw, muon = (lead("x16", "gpt-short", over, 3) for over in ("adamw", "muon"))
    assert f"with sixteen times as many it still does, by {adamw} and {muon}." in words("muon")
    assert f"it ends below AdamW, by {lead('x4', 'mnist-short', 'adamw', 4)}, below Muon," in words("muon")
    behind = lead("x16", "mnist-short", "adamw", 4)
    assert behind.startswith("-")
    assert f"above AdamW](adaptive.md#in-longer-runs), by {behind[1:]}," in words("muon")


def test_what_is_said_of_fitting_mnist_is_what_was_found():
    record = json.loads((ROOT / "results" / "fair" / "x16" / "mnist-short.json").read_text("utf-8"))["optimizers"]
    muon, ours, adamw = (
        f"{np.mean([curve[-1] for curve in record[name]['train_loss']]):.4f}"
        for name in ("muon", "adaptive-muon", "adamw")
    )
    assert f"to losses of {muon} and {ours} where AdamW has {adamw}," in words("adaptive")


def test_what_is_said_of_the_time_to_adamws_loss_is_what_was_found():
    """The share of AdamW's steps times the ratio of the times of a step."""
    fair = tables().fair_tables

    def faster(optimizer):
        found = []
        for task in fair.FIVE:
            record = json.loads((ROOT / "results" / "training-time" / f"{task}.json").read_text("utf-8"))
            share = np.median(fair.shares(fair.records()[task], optimizer))
            found.append(1 / (share * record["optimizers"][optimizer]["ratio"]))
        return found

    mnist, cifar10, cifar100, gpt, lstm = faster("adaptive-muon")
    said = "three times as fast with the GPT, a fifth faster on CIFAR-100, a tenth with the LSTM, no faster on CIFAR-10"
    assert f"gets to AdamW's loss {said}, and six times slower on MNIST." in words("results")
    assert (round(1 / mnist), round(cifar10, 1), round(cifar100, 1)) == (6, 1, 1.2)
    assert (round(gpt), round(lstm, 1)) == (3, 1.1)
    mnist, cifar10, cifar100, gpt, lstm = faster("adaptive-vsgd")
    said = "twice as fast with the GPT and a fifth faster with the LSTM, no faster on CIFAR-10 and CIFAR-100"
    assert f"AdaptiveVSGD is {said}, and a quarter slower on MNIST." in words("results")
    assert (round(4 / mnist), round(cifar10, 1), round(cifar100, 1)) == (5, 1, 1)
    assert (round(gpt), round(lstm, 1)) == (2, 1.2)


def tables():
    """The program that makes the tables of README.md and docs/results.md."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *(f"docs/{name}.md" for name in ("results", "adaptive", "muon", "virtual-gradients", "batch-variance")),
    ],
)
def test_tables_are_those_of_the_results(page):
    text = (ROOT / page).read_text("utf-8")
    assert "<!-- table: " in text
    assert tables().renewed(text) == text, "run python benchmarks/tables.py"


def test_the_results_page_shows_every_study_with_its_commands():
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    for folder in (ROOT / "results").iterdir():
        assert f"<!-- table: commands {folder.name} -->" in page


def test_a_loss_of_another_scale_costs_what_the_page_says():
    """One row, from the runs themselves: VSGD on the digits, the loss times 100, the rate as it was."""
    runs = json.loads((ROOT / "results" / "loss-scale" / "digits.json").read_text("utf-8"))["runs"]
    accuracies = {
        (run["lr"], run["factor"], run["seed"]): run["test_accuracy"]
        for run in runs
        if run["optimizer"] == "vsgd" and run["seed"] < 10
    }
    gaps = (
        100 * torch.tensor([accuracies[0.03, 100.0, seed] - accuracies[0.03, 1.0, seed] for seed in range(10)]).double()
    )
    half = 2.2621572 * gaps.std() / 10**0.5
    (row,) = (line for line in tables().loss_scale("digits").splitlines() if line.startswith("| VSGD "))
    assert row.endswith(f"{gaps.mean():+.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{half:.2f} |")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_is_of_the_results_that_are_kept(theme):
    """It names its command and holds a digest of the record that it was drawn from."""
    picture = ROOT / "docs" / "assets" / f"comparison-{theme}.svg"
    assert picture.stat().st_size < 200_000
    record, digest = re.search(r"picture\.py (\S+) \S+; sha256 (\w{64})", picture.read_text("utf-8")).groups()
    assert hashlib.sha256((ROOT / record).read_bytes()).hexdigest() == digest
