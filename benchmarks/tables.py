"""Writes the tables of README.md and of pages under docs/ anew from what is kept under results/.

    python benchmarks/tables.py

A table stands in a page between <!-- table: NAME --> and <!-- end -->. A test makes all of them again and compares.
"""

import functools
import json
import math
import re
import statistics
from collections import defaultdict
from pathlib import Path

import fair_tables
from scipy import stats

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
WITH_TABLES = ("results", "adaptive", "muon", "virtual-gradients", "batch-variance")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in WITH_TABLES))
NAMES = {
    "vsgd": "VSGD",
    "constant-vsgd": "ConstantVSGD",
    "adaptive-vsgd": "AdaptiveVSGD",
    "adaptive-muon": "AdaptiveMuon",
    "adamw": "AdamW",
    "sgd": "SGD",
}
NAMES |= {
    "adabayes": "AdaBayes",
    "adabayes-fp": "AdaBayesFP",
    "svag": "SVAG",
    "msvag": "MSVAG",
    "adam-star": "AdamStar",
}
NAMES |= {"msgd": "MSGD", "ssd": "SSD", "mssd": "MSSD", "svgd": "SVGD"}
OTHERS = {"nadamw": "NAdamW", "muon": "Muon", "schedule-free": "schedule-free AdamW", "rmsprop": "RMSprop"}


def learning_rate(task):
    """Each optimizer at the best of its rates, from a record of `varigrad compare`."""
    record = read("learning-rate", task)
    rows = [("Optimizer", "Best lr", "Validation loss", "Test accuracy, %", "Steps to the target, median")]
    for row in record["optimizers"]:
        (best,) = (rung for rung in row["rungs"] if rung["lr"] == row["best_lr"])
        accuracies = [100 * run["curves"]["test_accuracy"][-1] for run in best["runs"]]
        losses = [run["curves"]["validation_loss"][-1] for run in best["runs"]]
        reached = row["steps_to_target"]
        steps = f"{reached['median']:,.0f}" if reached["reached"] == len(losses) else f"reached by {reached['reached']}"
        rows.append((title(row["name"]), f"{row['best_lr']:g}", spread(losses, 4), spread(accuracies, 2), steps))
    return markdown(rows)


def loss_scale(task, own_rate=False):
    """Test accuracy with the loss as it is, and what each factor adds to it, seed by seed."""
    runs = by("loss-scale", task, "optimizer", "factor", "lr")
    rows = [("Optimizer", "lr", "Test accuracy, %", "Loss × 0.01", "Loss × 100")]
    if own_rate:
        rows = [("Optimizer", "lr × 0.01", "Loss × 0.01", "lr × 100", "Loss × 100")]
    for name in dict.fromkeys(key[0] for key in runs):
        reported = {key: {s: r for s, r in found.items() if s < 100} for key, found in runs.items() if key[0] == name}
        (kept,) = (lr for (_, factor, lr), found in reported.items() if factor == 1 and found)
        base = reported[name, 1.0, kept]
        cells = [title(name)]
        if not own_rate:
            cells += [f"{kept:g}", spread([100 * run["test_accuracy"] for run in base.values()], 2)]
        for factor in (0.01, 100.0):
            lr = kept
            if own_rate:
                tuning = {
                    k[2]: [r for s, r in f.items() if s >= 100] for k, f in runs.items() if k[:2] == (name, factor)
                }
                lr = min((rate for rate in tuning if tuning[rate]), key=lambda rate: mean_loss(tuning[rate]))
                cells.append(f"{lr:g}")
            cells.append(gained(reported[name, factor, lr], base))
        rows.append(tuple(cells))
    return markdown(rows)


def vsgd_defaults(task):
    """The validation loss of every setting at three rates; at its best rate, what it adds to the test accuracy."""
    runs = by("vsgd-defaults", task, "arguments", "lr")
    settings = list(dict.fromkeys(key[0] for key in runs))
    rates = sorted({key[1] for key in runs if key[0] != "{}"})
    rows = [("Setting", *(f"lr {rate:g}" for rate in rates), "Test accuracy, points")]

    def best(setting):
        return min(rates, key=lambda rate: mean_loss(runs[setting, rate].values()))

    for setting in settings:
        losses = [[run["validation_loss"] for run in runs[setting, rate].values()] for rate in rates]
        label = ", ".join(f"{key}={value}" for key, value in json.loads(setting).items()) or "the defaults"
        label = label.replace("[", "(").replace("]", ")")
        more = "" if setting == "{}" else gained(runs[setting, best(setting)], runs["{}", best("{}")])
        rows.append((f"`{label}`" if setting != "{}" else label, *(spread(values, 4) for values in losses), more))
    return markdown(rows)


def vsgd_rates(task):
    """The defaults at all learning rates."""
    runs = by("vsgd-defaults", task, "arguments", "lr")
    rates = sorted(key[1] for key in runs if key[0] == "{}")
    rows = [("lr", "Validation loss", "Test accuracy, %")]
    for rate in rates:
        found = runs["{}", rate].values()
        accuracies = spread([100 * run["test_accuracy"] for run in found], 2)
        rows.append((f"{rate:g}", spread([run["validation_loss"] for run in found], 4), accuracies))
    return markdown(rows)


def overview():
    """What a newcomer should see first: accuracy, and what the scale of the loss does to it."""
    records = [
        {row["name"]: row for row in read("learning-rate", task)["optimizers"]} for task in ("mnist-mlp", "digits")
    ]
    rows = [("Optimizer", "MNIST, 3 seeds", "Digits, 3 seeds", "Digits, loss × 0.01", "Digits, loss × 100")]
    changes = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[3:]
        for line in loss_scale("digits").splitlines()
    }
    for name in records[0]:
        accuracies = []
        for record in records:
            (best,) = (rung for rung in record[name]["rungs"] if rung["lr"] == record[name]["best_lr"])
            accuracies.append(spread([100 * run["curves"]["test_accuracy"][-1] for run in best["runs"]], 2))
        rows.append((f"`{title(name)}`", *accuracies, *changes[title(name)]))
    return markdown(rows)


def step_time():
    """Each optimizer's step over that of torch's fused AdamW, on several sets of parameters."""
    columns = {
        "ResNet-50": ("resnet50", "ratio_to_adamw_fused"),
        "over its floor": ("resnet50", "floor_ratio"),
        "bfloat16 state": ("resnet50-bfloat16-state", "ratio_to_adamw_fused"),
        "GPT-2": ("gpt2", "ratio_to_adamw_fused"),
        "1,000 tensors of 1,000": ("small", "ratio_to_adamw_fused"),
    }
    found = {file: timings(file) for file, _ in columns.values()}
    rows = [("Optimizer", *columns)]
    for name, way in found["resnet50"]:
        if name in NAMES and name != "adamw":
            rows.append((NAMES[name], *(cell(found[file].get((name, way)), key) for file, key in columns.values())))
    return markdown(rows)


def step_time_operations():
    """What the step takes without compiled code: ours, torch's and another package's."""
    rows = [("Optimizer", "Loop over the tensors", "Lists of tensors (foreach)")]
    found = timings("resnet50-tensor-operations")
    for name in dict.fromkeys(name for name, _ in found):
        ways = [cell(found.get((name, way)), "ratio_to_adamw_fused") for way in ("loop", "foreach")]
        if any(ways):
            rows.append((NAMES.get(name, {"muon": "Muon, matrices only"}.get(name, f"`{name}`")), *ways))
    return markdown(rows)


def step_time_sizes():
    """What the fused step takes of one tensor, over the number of its elements."""
    record = read("step-time", "one")["rows"]
    names = [name for name in dict.fromkeys(row["optimizer"] for row in record) if name != "adamw"]
    found = {(row["optimizer"], row["parameters"]): row for row in record if row["way"] == "fused"}
    rows = [("Elements", "AdamW, ms", *map(NAMES.get, names))]
    for size in dict.fromkeys(row["parameters"] for row in record):
        ratios = (cell(found[name, size], "ratio_to_adamw_fused") for name in names)
        rows.append((f"{size:,}", f"{found['adamw', size]['ms']:.3g}", *ratios))
    return markdown(rows)


def timings(name):
    """The rows of a record of `varigrad bench` by optimizer and way."""
    return {(row["optimizer"], row["way"]): row for row in read("step-time", name)["rows"]}


def cell(row, key):
    """A ratio, with the range of the middle half of the rounds where there is one."""
    if row is None or row[key] is None:
        return ""
    if key != "ratio_to_adamw_fused":
        return f"{row[key]:.2f}"
    low, high = row["ratio_quartiles"]
    return f"{row[key]:.2f} ({low:.2f} to {high:.2f})"


def taps_cost(name):
    """What a tap's pass costs over a plain one: median of the ratios and quartiles, from one record of a benchmark."""
    found = defaultdict(dict)
    for row in read("taps-cost", name)["rows"]:
        if row["arm"] not in ("plain", "a tap that only looks"):
            low, high = row["quartiles"]
            found[row["network"]][row["arm"]] = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
    arms = list(next(iter(found.values())))
    titles = [f"`{arm}`" if arm in ("layers", "ranks") else arm.capitalize() for arm in arms]
    return markdown(
        [("Network", *titles), *((network, *(cells.get(arm, "") for arm in arms)) for network, cells in found.items())]
    )


def lab_loop():
    """What a step of the lab takes over one of other loops, and a grid's time with several workers."""
    loops, workers = read("lab-loop", "loops"), read("lab-loop", "workers")
    rows = [("What", "Over", "Time")]
    rows.append(("`mnist-mlp`, a step", "a bare loop", ratio(loops["mnist-mlp"]["lab"])))
    for side, row in loops["cifar10-vgg6"].items():
        if side != "DataLoader":
            rows.append((f"`cifar10-vgg6`, a step, {side}", "a DataLoader's", ratio(row)))
    times = [two / one for one, two in zip(*workers["seconds"].values(), strict=True)]
    spread = f"{statistics.fmean(times):.2f} ({min(times):.2f} to {max(times):.2f})"
    rows.append((f"a grid of {workers['runs']} runs, {workers['workers']} workers", "one worker", spread))
    return markdown(rows)


def longer_loss(task):
    """AdamW's test losses on a task in runs of several lengths, and what the others' are more."""
    return markdown(fair_tables.lengths(functools.partial(fair_tables.loss_less, "adamw"), (task,)))


def training_time():
    """The processor time of a whole training step, AdamW's in milliseconds and the others' over it."""
    found = {name: read("training-time", name) for name in fair_tables.FIVE}
    rows = [("Optimizer", *(f"{fair_tables.TASKS[name]}, {record['parameters']:,}" for name, record in found.items()))]
    for name in found["mnist-short"]["optimizers"]:
        told = [record["optimizers"][name] for record in found.values()]
        times = [f"{row['ms']:.3g} ms" if name == "adamw" else ratio(row) for row in told]
        rows.append((fair_tables.NAMES[name], *times))
    return markdown(rows)


def ratio(row):
    """A ratio and the middle half of what was measured."""
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def commands(study):
    """The commands that make a study's files again, each of them once, in lines that fit a page."""
    told = []
    for path in sorted((RESULTS / study).rglob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        if path.name != "summary.json":  # which repeats what it is made from
            one = record.get("provenance", record)
            told += [entry["command"] for entry in (one if isinstance(one, list) else [one])]
    lines = []
    for command in dict.fromkeys(told):
        lines.append("")
        for part in re.split(r" (?=--)", command):
            if len(lines[-1]) + len(part) > 114:
                lines[-1] += " \\"
                lines.append("   ")
            lines[-1] += " " * bool(lines[-1]) + part
    return "```text\n" + "\n".join(lines) + "\n```"


TABLES = {
    "overview": overview,
    "learning-rate mnist-mlp": lambda: learning_rate("mnist-mlp"),
    "learning-rate digits": lambda: learning_rate("digits"),
    "loss-scale digits": lambda: loss_scale("digits"),
    "loss-scale digits own-rate": lambda: loss_scale("digits", own_rate=True),
    "loss-scale mnist-mlp": lambda: loss_scale("mnist-mlp"),
    **{
        f"{name} {task}": functools.partial(table, task)
        for name, table in (("vsgd-defaults", vsgd_defaults), ("vsgd-rates", vsgd_rates))
        for task in ("digits", "mnist-mlp", "gpt-short")
    },
    "step-time": step_time,
    "step-time operations": step_time_operations,
    "step-time sizes": step_time_sizes,
    **{f"taps-cost {name}": functools.partial(taps_cost, name) for name in ("virtual-gradients", "layers", "ranks")},
    "fair accuracy": lambda: markdown(fair_tables.accuracy()),
    "fair loss images": lambda: markdown(fair_tables.loss(fair_tables.IMAGES)),
    "fair loss texts": lambda: markdown(fair_tables.loss(fair_tables.TEXTS)),
    "fair steps": lambda: markdown(fair_tables.steps()),
    "fair steps adaptive": lambda: markdown(fair_tables.steps(fair_tables.AROUND_ADAPTIVE)),
    "fair rates": lambda: markdown(fair_tables.rates()),
    "fair longer steps": lambda: markdown(fair_tables.lengths(fair_tables.share)),
    **{f"fair longer loss {task}": functools.partial(longer_loss, f"{task}-short") for task in ("mnist", "gpt")},
    "fair muon": lambda: markdown(fair_tables.muon()),
    "fair vsgd": lambda: markdown(fair_tables.vsgd()),
    "lab-loop": lab_loop,
    "training-time": training_time,
    "gains": lambda: markdown(fair_tables.gains()),
    "sensitivity adaptive-vsgd": lambda: markdown(fair_tables.sensitivity("adaptive-vsgd")),
    "sensitivity adaptive-muon": lambda: markdown(fair_tables.sensitivity("adaptive-muon")),
    **{f"commands {path.name}": functools.partial(commands, path.name) for path in RESULTS.iterdir()},
}


def renewed(text):
    """A page with all its tables made again."""

    def table(match):
        return f"<!-- table: {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (.+?) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def title(name):
    return {**NAMES, **OTHERS}[name]


def read(study, task):
    return json.loads((RESULTS / study / f"{task}.json").read_text("utf-8"))


def by(study, task, *names):
    """The runs of a study by what they were made with, then by seed; arguments as JSON."""
    found = defaultdict(dict)
    for run in read(study, task)["runs"]:
        plain = {**run, "arguments": json.dumps(run["arguments"])}
        found[tuple(plain[name] for name in names)][run["seed"]] = run
    return found


def mean_loss(runs):
    return statistics.fmean(math.inf if run["validation_loss"] is None else run["validation_loss"] for run in runs)


def spread(values, digits):
    """Mean and standard deviation; of runs that diverged their number."""
    if lost := sum(value is None for value in values):
        return f"{lost} of {len(values)} diverged"
    mean = statistics.fmean(values)
    if digits > 2 and mean > 10:
        digits = 1
    return f"{mean:.{digits}f}{PLUS_MINUS}{statistics.stdev(values):.{digits}f}"


def gained(runs, base):
    """What is added to the test accuracy, in points: mean over the seeds and half of its 95 % interval."""
    values = [100 * (runs[seed]["test_accuracy"] - base[seed]["test_accuracy"]) for seed in sorted(base)]
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):+.2f}{PLUS_MINUS}{float(stats.t.ppf(0.975, len(values) - 1)) * error:.2f}"


def markdown(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main():
    for page in PAGES:
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")
        print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
