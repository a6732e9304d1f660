"""The tables of the fair comparison, from results/fair: what `benchmarks/tables.py` puts into pages."""

import functools
import json
import math
import statistics
from pathlib import Path

import numpy as np
from scipy import stats

RESULTS = Path(__file__).parent.parent / "results"
FAIR = RESULTS / "fair"
BASELINE = "adamw"
PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
TASKS = {
    "digits-short": "Digits",
    "logreg-short": "One line on MNIST",
    "mnist-short": "MNIST",
    "cifar10-short": "CIFAR-10",
    "cifar100-short": "CIFAR-100",
    "gpt-short": "GPT",
    "lstm-short": "LSTM",
}
TEXTS = ("gpt-short", "lstm-short")
IMAGES = tuple(task for task in TASKS if task not in TEXTS)
FIVE = ("mnist-short", "cifar10-short", "cifar100-short", "gpt-short", "lstm-short")
"""The tasks of the geometric mean: those that AdaptiveVSGD's aim was set for, without the two smallest."""

NAMES = {
    "adaptive-muon": "AdaptiveMuon",
    "adaptive-vsgd": "AdaptiveVSGD",
    "adaptive-nesterov": "AdaptiveVSGD, nesterov",
    "gain-by-hand": "AdaptiveVSGD, gain by hand",
    "vsgd": "VSGD",
    "constant-vsgd": "ConstantVSGD",
    "msvag": "MSVAG",
    "adabayes-fp": "AdaBayesFP",
    "svgd": "SVGD",
    "adamw": "AdamW",
    "momentum-by-hand": "AdamW, momentum by hand",
    "nadamw": "NAdamW",
    "schedule-free": "schedule-free AdamW",
    "sgd": "SGD with momentum",
    "muon": "Muon",
}

MUONS = {
    **{key: NAMES[key] for key in ("adamw", "adaptive-vsgd", "muon", "adaptive-muon")},
    "muon-fixed": "Muon, the rest by AdaptiveVSGD",
    "muon-learned": "Muon, momentum learned, the rest by AdaptiveVSGD",
    "muon-learned-adamw": "Muon, momentum learned, the rest by AdamW",
    "muon-weighed": "Muon, weights weighed by their noise",
    "muon-learned-long": "Muon, momentum learned, longer memory",
    "muon-learned-longer": "Muon, momentum learned, still longer memory",
}

AROUND_ADAPTIVE = (
    *("adaptive-muon", "adaptive-vsgd", "adaptive-nesterov", "gain-by-hand", "momentum-by-hand"),
    *("adamw", "nadamw", "schedule-free", "muon", "vsgd", "sgd"),
)


def records(folder=FAIR):
    """The tasks that have been run, by name, and what each optimizer has there."""
    found = {name: folder / f"{name}.json" for name in TASKS}
    return {name: json.loads(path.read_text("utf-8")) for name, path in found.items() if path.exists()}


def table(cell, last=None, names=NAMES, tasks=TASKS):
    """A row for each optimizer, a column for each task, and one over all tasks if there is something to say."""
    found = {task: record for task, record in records().items() if task in tasks}
    rows = [("Optimizer", *(TASKS[name] for name in found), *([last[0]] if last else []))]
    for key, name in ((name, NAMES[name]) for name in names):
        if not any(key in task["optimizers"] for task in found.values()):
            continue
        cells = [cell(task, key) if key in task["optimizers"] else "" for task in found.values()]
        five = [found[task] for task in FIVE if task in found]
        rows.append((name, *cells, *([last[1](five, key)] if last else [])))
    return rows


def accuracy():
    """Test accuracy at the end, in per cent."""

    def cell(task, key):
        row = task["optimizers"][key]
        values = [100 * curve[-1] for curve in row["test_accuracy"]]
        mark = "*" if row["edges"] else ""
        return f"{statistics.fmean(values):.2f}{PLUS_MINUS}{statistics.stdev(values):.2f}{mark}"

    return table(cell)


def loss(tasks):
    """AdamW's test loss at the end; of the others the difference to it, seed by seed."""
    return table(functools.partial(loss_less, BASELINE), tasks=tasks)


def loss_less(baseline, task, key):
    """The test loss at the end less a baseline's, seed by seed, with its interval; the baseline's own as it is."""
    base, own = ([curve[-1] for curve in task["optimizers"][name]["test_loss"]] for name in (baseline, key))
    return f"{statistics.fmean(base):.4f}" if key == baseline else less(own, base)


def less(own, base):
    """The mean difference of pairs, with half of its 95 % interval (Student's t)."""
    if lost := sum(value is None for value in own):
        return f"{lost} of {len(own)} diverged"
    gaps = [one - other for one, other in zip(own, base, strict=True)]
    half = float(stats.t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{statistics.fmean(gaps):+.4f}{PLUS_MINUS}{half:.4f}"


def lengths(cell, tasks=TASKS):
    """A row for each optimizer in a longer run, a column for each task and length."""
    found, longer = [], set()
    for task in tasks:
        more = [record for study in ("x4", "x16") if (record := records(FAIR / study).get(task))]
        found += [records()[task], *more] if more else []
        longer.update(*(record["optimizers"] for record in more))
    rows = [
        ("Optimizer", *(f"{TASKS[record['task'].rpartition(':')[2]]}, {record['steps']:,} steps" for record in found))
    ]
    for key, name in {**NAMES, "muon-weighed": MUONS["muon-weighed"]}.items():
        if key in longer:
            rows.append((name, *(cell(record, key) if key in record["optimizers"] else "" for record in found)))
    return rows


def share(task, key):
    """The median of the shares of AdamW's steps."""
    middle = np.median(shares(task, key))
    return "never" if np.isinf(middle) else f"{middle:.2f}"


def muon():
    """Muon with AdaptiveVSGD beside it and a learned momentum in it: test losses less Muon's own."""
    found = records(FAIR / "muon")
    rows = [("Optimizer", *(TASKS[name] for name in found))]
    for key, name in MUONS.items():
        cells = [loss_less("muon", record, key) if key in record["optimizers"] else "" for record in found.values()]
        rows += [(name, *cells)] if any(cells) else []
    return rows


def vsgd():
    """VSGD with a shorter memory of its variances: test losses less VSGD's own."""
    found = records(FAIR / "vsgd")
    rows = [("Setting", *(TASKS[name] for name in found))]
    for key, name in (("vsgd", "the defaults"), ("vsgd-short-memory", "`kappas=(0.6, 0.6)`")):
        rows.append((name, *(loss_less("vsgd", record, key) for record in found.values())))
    return rows


def sensitivity(optimizer):
    """The validation loss with one constant changed, less that with all as they are."""
    found = [
        json.loads(path.read_text("utf-8")) for path in sorted((RESULTS / "sensitivity" / optimizer).glob("*.json"))
    ]
    rows = [("Constant", *(f"{TASKS[record['task']]}, {record['steps']:,} steps" for record in found))]
    losses = [{key: list(seeds.values()) for key, seeds in r["validation_loss"].items()} for r in found]
    for key in losses[0]:
        if key == optimizer:
            rows.append(("as they are", *(f"{statistics.fmean(task[key]):.4f}" for task in losses)))
        else:
            cells = [less(task[key], task[optimizer]) if key in task else "" for task in losses]
            rows.append((f"`{key.replace('=', ' = ')}`", *cells))
    return rows


def gains():
    """The median of the learned gains over tensors and seeds, in the course of a run."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted((RESULTS / "gains").glob("*.json"))]
    rows = [("Gains, after so much of the run", *(f"{share:.0%}" for share in found[0]["shares"]))]
    for record in found:
        for key, chosen in record["optimizers"].items():
            for matrix in (True, False):
                several = [
                    row["gains"] for run in chosen["runs"] for row in run["tensors"].values() if row["matrix"] is matrix
                ]
                if several:
                    part = ", ".join([NAMES[key], *(["matrices" if matrix else "the rest"] * (key == "adaptive-muon"))])
                    title = f"{TASKS[record['task']]}, {record['steps']:,} steps: {part}"
                    rows.append((title, *(f"{value:.2f}" for value in np.median(several, axis=0))))
    return rows


def shares(task, key):
    """For each seed the share of AdamW's steps to AdamW's final validation loss; infinite if it is never reached."""
    found = task["optimizers"][key]["share_of_steps_to_adamws_loss"]
    return np.array([math.inf if share is None else share for share in found])


def steps(names=NAMES):
    """The medians of these shares, and their geometric mean with the interval of a bootstrap over the seeds."""

    def overall(tasks, key):
        if not tasks or any(key not in task["optimizers"] for task in tasks):
            return ""
        generator = np.random.default_rng(0)
        logs, drawn = [], []
        for task in tasks:
            found = shares(task, key)
            logs.append(np.log(np.median(found)))
            drawn.append(np.log(np.median(found[generator.integers(len(found), size=(10_000, len(found)))], axis=1)))
        if np.isinf(logs).any():
            return "never on one"
        low, high = np.quantile(np.exp(np.mean(drawn, axis=0)), [0.025, 0.975], method="inverted_cdf")
        return f"{np.exp(np.mean(logs)):.2f} ({low:.2f} to {'∞' if np.isinf(high) else f'{high:.2f}'})"

    return table(share, (f"The last {sum(task in records() for task in FIVE)}, geometric mean", overall), names)


def rates():
    """The learning rate that was best; with an asterisk if it was the outermost that was tried."""

    def cell(task, key):
        row = task["optimizers"][key]
        return f"{row['lr']:.2g}{'*' if row['edges'] else ''}"

    return table(cell)
