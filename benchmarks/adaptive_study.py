"""What a learned gain is worth: AdaptiveVSGD against its controls, paired over seeds. It can be stopped at any time.

    python benchmarks/adaptive_study.py tune --tasks char cifar mnist      # every contestant's learning rate, then
    python benchmarks/adaptive_study.py compare --tasks char cifar mnist   # fresh seeds at the rate that was best
    python benchmarks/adaptive_study.py variants --tasks char cifar        # the constants of the rule
    python benchmarks/adaptive_study.py read                               # the tables

Needs the data folder (VARIGRAD_DATA or --data-dir), for the contestant schedule-free also `pip install schedulefree`.
Every finished run is a file under results/adaptive/runs, written at once; a run that is there is not run again. All
runs of a task have the same batches for the same seed, the same length, a warm-up of 3 % and a cosine to zero, but for
schedule-free, whose rate stays. The learning rate is chosen on validation data, on a grid of factor 1.7 that is
extended until the best is inside it, with seed 0; the comparison has seeds of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from pathlib import Path

import torch
from adaptive_contestants import CONTESTANTS
from adaptive_tasks import TASKS, Images, Letters, data_of
from torch import nn
from torch.nn import functional

from varigrad.lab.machine import provenance

RUNS = Path(__file__).parent.parent / "results" / "adaptive" / "runs"
FACTOR = 1.7
TUNING_SEEDS, FRESH_SEEDS, POINTS = (0,), tuple(range(10, 20)), 10

# ---------------------------------------------------------------- one run


def evaluate(model: nn.Module, data: Images | Letters, part: str, most: int = 10**6) -> float:
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in data.parts(part, most):
            total += functional.cross_entropy(model(inputs), targets, reduction="sum").item()
            count += targets.numel()
    model.train()
    return total / count


def train(task: str, contestant: str, lr: float, seed: int, length: int, folder: Path) -> dict:
    """Trains once; returns the losses and, where gains are learned, their history."""
    row, data, steps = TASKS[task], data_of(task, folder), TASKS[task].steps * length
    torch.manual_seed(seed)
    model, who = row.model(data), CONTESTANTS[contestant]
    optimizers = who.make(model, lr)
    modal = [o for o in optimizers if hasattr(o, "eval")]
    for optimizer in modal:
        optimizer.train()
    batches = data.batches(row.batch, 1000 + seed)
    losses, curve, gains = [], [], []
    for step in range(steps):
        for optimizer in optimizers:
            warm = min(1.0, (step + 1) / (0.03 * steps))
            shape = 1.0 if who.constant else 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = lr * warm * shape
            if who.before:
                who.before(optimizer, step / steps)
        inputs, targets = next(batches)
        loss = functional.cross_entropy(model(inputs), targets)
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if not math.isfinite(losses[-1]):
            break
        if (step + 1) % (steps // POINTS) == 0:
            for optimizer in modal:
                optimizer.eval()
                calibrate(model, data, row.batch)
            curve.append(evaluate(model, data, "validation", 1000 if step + 1 < steps else 10**6))
            states = [state for optimizer in optimizers for state in optimizer.state.values()]
            if "gain" in states[0]:
                gains.append([round(state["gain"].item(), 5) for state in states])
            for optimizer in modal:
                if step + 1 < steps:
                    optimizer.train()
    finite = len(losses) == steps and math.isfinite(losses[-1])
    width = steps // 50
    result = {
        "validation_loss": curve[-1] if finite else None,
        "test_loss": evaluate(model, data, "test") if finite else None,
        "train_loss": statistics.fmean(losses[-steps // 20 :]) if finite else None,
        "train_curve": [round(statistics.fmean(losses[i : i + width]), 5) for i in range(0, len(losses), width)],
        "validation_curve": [round(value, 5) for value in curve],
    }
    if gains:
        result["tensors"] = [name for name, _ in model.named_parameters()]
        result["gains"] = gains
    return result


def calibrate(model: nn.Module, data: Images | Letters, size: int) -> None:
    """The averages of batch norm for the weights that schedule-free evaluates with, as its authors ask for."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
    batches = data.batches(size, 0)
    with torch.no_grad():
        for _ in range(50):
            model(next(batches)[0])


def path_of(task: str, contestant: str, lr: float, seed: int, length: int) -> Path:
    return RUNS / f"{task}-x{length}" / contestant / f"lr={lr:.3g},seed={seed}.json"


def run(task: str, contestant: str, lr: float, seed: int, length: int, folder: Path) -> dict:
    """The record of a run: read where it is finished, else trained and written."""
    path = path_of(task, contestant, lr, seed, length)
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    record = {"task": task, "length": length, "contestant": contestant, "lr": lr, "seed": seed}
    record |= train(task, contestant, lr, seed, length, folder)
    record["provenance"] = provenance("python benchmarks/adaptive_study.py", torch.device("cpu"))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record) + "\n", "utf-8")
    part.replace(path)
    print(f"{path.relative_to(RUNS)} {record['validation_loss']}", flush=True)
    return record


# ---------------------------------------------------------------- what is run


def rung(contestant: str, number: int) -> float:
    return float(f"{CONTESTANTS[contestant].start * FACTOR**number:.3g}")


def tuned(task: str, contestant: str, length: int, seeds, folder: Path) -> float:
    """The learning rate of the lowest mean validation loss, the best being inside the grid."""
    low = high = 0
    means: dict[int, float] = {}

    def measure(number: int) -> float:
        if number not in means:
            losses = [run(task, contestant, rung(contestant, number), s, length, folder) for s in seeds]
            values = [record["validation_loss"] for record in losses]
            means[number] = math.inf if None in values else statistics.fmean(values)
        return means[number]

    for number in (-1, 0, 1):
        measure(TASKS[task].middle + number)
    while True:
        best = min(means, key=means.__getitem__)
        low, high = min(means), max(means)
        if best == low:
            measure(low - 1)
        elif best == high:
            measure(high + 1)
        else:
            return rung(contestant, best)


# ---------------------------------------------------------------- what is read from it


def records(task: str, length: int = 1) -> dict[str, dict[int, dict]]:
    """The finished runs of a task by contestant and fresh seed."""
    found: dict[str, dict[int, dict]] = {}
    for path in sorted((RUNS / f"{task}-x{length}").glob("*/*.json")):
        record = json.loads(path.read_text("utf-8"))
        if record["seed"] not in TUNING_SEEDS:
            found.setdefault(record["contestant"], {})[record["seed"]] = record
    return found


def reached(record: dict, other: dict) -> float:
    """The share of its steps after which a run has the training loss that another ended with; 1 if it never has."""

    def smooth(curve: list[float]) -> list[float]:
        return [statistics.fmean(curve[max(0, i - 4) : i + 1]) for i in range(len(curve))]

    goal, mine = smooth(other["train_curve"])[-1], smooth(record["train_curve"])
    return next(((i + 1) / len(mine) for i, value in enumerate(mine) if value <= goal), 1.0)


def spread(values: list[float], digits: int = 4, sign: str = "") -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):{sign}.{digits}f} ± {error:.{digits}f}"


def comparison(task: str, length: int = 1) -> list[list[str]]:
    """The table of a task: everyone against AdamW and against AdaptiveVSGD, paired over the seeds that both have."""
    found = records(task, length)
    rows = []
    for name in CONTESTANTS:
        runs = found.get(name, {}) if "," not in name else {}
        runs = {seed: run for seed, run in runs.items() if seed in FRESH_SEEDS}
        if len(runs) < 2:
            continue
        row = [name, f"{next(iter(runs.values()))['lr']:g}", str(len(runs))]
        row.append(spread([run["test_loss"] for run in runs.values()]))
        for other in ("adamw", "adaptive"):
            pairs = [(run, found[other][seed]) for seed, run in runs.items() if seed in found.get(other, {})]
            gaps = [run["test_loss"] - base["test_loss"] for run, base in pairs]
            row.append(spread(gaps, sign="+") if name != other and len(gaps) > 1 else "")
        base = found.get("adamw", {})
        shares = [reached(run, base[seed]) for seed, run in runs.items() if seed in base]
        row.append(f"{statistics.geometric_mean(shares):.2f}" if shares and name != "adamw" else "")
        rows.append(row)
    return rows


def sensitivity(task: str) -> list[list[str]]:
    """The variants of the rule: test losses less that of the rule as it is, seed by seed."""
    found = records(task)
    rows = []
    for name in CONTESTANTS:
        runs = found.get(name, {}) if "," in name else {}
        gaps = [run["test_loss"] - found["adaptive"][seed]["test_loss"] for seed, run in runs.items()]
        if gaps:
            rows.append([name.partition(",")[2], str(len(gaps)), f"{statistics.fmean(gaps):+.4f}"])
    return rows


def show(rows: list[list[str]]) -> None:
    """Prints a table as Markdown has it."""
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "compare", "variants", "read"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS)
    parser.add_argument("--length", type=int, default=1, help="how many times as many steps")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("VARIGRAD_DATA"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "read":
        for task in options.tasks:
            print(f"\n{task}, {TASKS[task].steps * options.length} steps: lr, runs, test loss, less AdamW's, less")
            print("AdaptiveVSGD's, share of the steps to AdamW's training loss; then the variants of the rule")
            show(comparison(task, options.length))
            show(sensitivity(task))
        return
    folder = Path(options.data_dir)
    plain = [name for name in CONTESTANTS if "," not in name]
    for task in options.tasks:
        if options.what == "variants":
            # At the rate that is best for the rule as it is.
            lr = tuned(task, "adaptive", 1, TUNING_SEEDS, folder)
            for name in options.contestants or ["adaptive", *(name for name in CONTESTANTS if "," in name)]:
                for seed in options.seeds or (20, 21, 22):
                    run(task, name, lr, seed, options.length, folder)
            continue
        for name in options.contestants or plain:
            lr = tuned(task, name, 1, TUNING_SEEDS, folder)
            if options.what == "compare":
                for seed in options.seeds or FRESH_SEEDS:
                    run(task, name, lr, seed, options.length, folder)


if __name__ == "__main__":
    main()
