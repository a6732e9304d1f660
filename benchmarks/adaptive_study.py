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
import functools
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from controls import by_hand
from torch import Tensor, nn
from torch.nn import functional

import varigrad
from varigrad.lab.data import CIFAR10, MNIST
from varigrad.lab.machine import provenance
from varigrad.lab.models.mlp import mlp

RUNS = Path(__file__).parent.parent / "results" / "adaptive" / "runs"
FACTOR = 1.7
TUNING_SEEDS, FRESH_SEEDS, POINTS = (0,), tuple(range(10, 20)), 10
CHANNELS_LAST = torch.channels_last  # faster on a CPU

# ---------------------------------------------------------------- tasks


class FlatConv(nn.Module):
    """A 3x3 convolution whose kernel is a matrix, so that Muon takes it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Conv2d(inputs, outputs, 3, bias=False).weight.detach().flatten(1).clone())

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(
            images, self.weight.unflatten(1, (-1, 3, 3)).contiguous(memory_format=CHANNELS_LAST), padding=1
        )


def convnet() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
        layers += [FlatConv(inputs, outputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attention(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Gpt(nn.Module):
    def __init__(self, letters: int, width: int = 64, layers: int = 2, heads: int = 4, length: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, letters)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        x = self.token(text) + self.position.weight[: text.shape[1]]
        return self.head(self.last(self.blocks(x))).transpose(1, 2)


class Images:
    """Batches of images, flipped where that makes sense."""

    def __init__(self, source, folder: Path, shrink: int, flip: bool) -> None:
        data = source.load(folder)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))

        def ready(split):
            images = torch.cat([(part.float() - mean) / std for part in split.images.split(5000)])
            images = functional.avg_pool2d(images, shrink) if shrink > 1 else images
            return images.contiguous(memory_format=CHANNELS_LAST), split.labels

        self.train, self.validation, self.test = map(ready, (data.train, data.validation, data.test))
        self.flip = flip

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        images, labels = self.train
        while True:
            for rows in torch.randperm(len(labels), generator=generator).split(size):
                if len(rows) == size:
                    batch = images[rows]
                    if self.flip:
                        flipped = torch.rand(size, generator=generator) < 0.5
                        batch = torch.where(flipped.view(-1, 1, 1, 1), batch.flip(-1), batch)
                    yield batch, labels[rows]

    def parts(self, name: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = getattr(self, name)
        yield from zip(images[:most].split(1000), labels[:most].split(1000), strict=True)


class Letters:
    """Windows of a text."""

    def __init__(self, folder: Path, length: int = 64) -> None:
        text = (folder / "war-and-peace" / "warpeace_input.txt").read_text("utf-8")
        alphabet = sorted(set(text))
        self.letters, self.length = len(alphabet), length
        codes = torch.tensor([alphabet.index(letter) for letter in text])
        first, second = int(0.9 * len(codes)), int(0.95 * len(codes))
        self.train, self.validation, self.test = codes[:first], codes[first:second], codes[second:]

    def _windows(self, codes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        rows = codes[starts[:, None] + torch.arange(self.length + 1)]
        return rows[:, :-1], rows[:, 1:]

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(self.train) - self.length, (size,), generator=generator)
            yield self._windows(self.train, starts)

    def parts(self, name: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        codes = getattr(self, name)
        starts = torch.linspace(0, len(codes) - self.length - 1, min(most // 10, 1000)).long()
        for some in starts.split(100):
            yield self._windows(codes, some)


@dataclass(frozen=True)
class Task:
    data: Callable[[Path], Images | Letters]
    model: Callable[[Images | Letters], nn.Module]
    batch: int
    steps: int
    middle: int = 0
    """The rung that the search for a learning rate begins at."""


TASKS = {
    "char": Task(Letters, lambda data: Gpt(data.letters), 16, 500),
    "cifar": Task(functools.partial(Images, CIFAR10, shrink=2, flip=True), lambda data: convnet(), 64, 500, 2),
    "mnist": Task(
        functools.partial(Images, MNIST, shrink=1, flip=False),
        lambda data: mlp(784, 256, 128, 64, 32, 10, batch_norm=True),
        32,
        1000,
    ),
}


@functools.cache
def data_of(task: str, folder: Path) -> Images | Letters:
    return TASKS[task].data(folder=folder)


# ---------------------------------------------------------------- contestants


class ByHand(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD with all gains at what the schedule says."""

    def scalars(self, step, group, memory):
        gain = torch.full_like(memory["gain"], group["gain_by_hand"])
        values = super().scalars(step, group, memory)
        return values | {"gain": gain, "weight": torch.clamp(gain, min=1.0 / step)}


def schedule_gain(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    for group in optimizer.param_groups:
        group["gain_by_hand"] = by_hand(fraction)


def schedule_beta(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    for group in optimizer.param_groups:
        group["betas"] = (1 - by_hand(fraction), group["betas"][1])


Hook = Callable[[torch.optim.Optimizer, float], None]


@dataclass(frozen=True)
class Contestant:
    """How an optimizer is made; `before` is called before each step with the fraction of the run that is done."""

    make: Callable[[nn.Module, float], list[torch.optim.Optimizer]]
    start: float
    before: Hook | None = None
    constant: bool = False


def simple(kind, start: float, before: Hook | None = None, **settings) -> Contestant:
    return Contestant(lambda model, lr: [kind(model.parameters(), lr=lr, **settings)], start, before)


def muon(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Hidden matrices by Muon at AdamW's scale of steps; the first and the last layer and all else by AdamW."""
    named = list(model.named_parameters())
    matrices = [name for name, p in named if p.ndim == 2 and not name.startswith(("token", "position", "head"))]
    if not hasattr(model, "head"):
        matrices = matrices[1:-1]
    hidden = [p for name, p in named if name in matrices]
    rest = [p for name, p in named if name not in matrices]
    return [
        torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.01),
    ]


def schedule_free(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    import schedulefree

    return [schedulefree.AdamWScheduleFree(model.parameters(), lr=lr, weight_decay=0.01, foreach=True)]


def variant(**constants) -> type[varigrad.AdaptiveVSGD]:
    return type("Variant", (varigrad.AdaptiveVSGD,), constants)


def with_gain(rule: type[torch.optim.Optimizer], start: float, nesterov: bool = False) -> Contestant:
    return Contestant(lambda model, lr: [rule(model.parameters(), lr=lr, weight_decay=0.01, nesterov=nesterov)], start)


def hand(nesterov: bool) -> Contestant:
    def make(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
        groups = [{"params": list(model.parameters())}]
        optimizer = ByHand(groups, lr=lr, weight_decay=0.01, nesterov=nesterov)
        schedule_gain(optimizer, 0.0)
        return [optimizer]

    return Contestant(make, 3e-3, schedule_gain)


CONTESTANTS = {
    "adaptive": with_gain(varigrad.AdaptiveVSGD, 3e-3),
    "hand-set": hand(nesterov=False),
    "adamw": simple(torch.optim.AdamW, 3e-3, weight_decay=0.01),
    "nadamw": simple(torch.optim.NAdam, 3e-3, weight_decay=0.01, decoupled_weight_decay=True),
    "adaptive-nesterov": with_gain(varigrad.AdaptiveVSGD, 3e-3, nesterov=True),
    "adamw-scheduled": simple(torch.optim.AdamW, 3e-3, schedule_beta, weight_decay=0.01),
    "hand-set-nesterov": hand(nesterov=True),
    "muon": Contestant(muon, 3e-3),
    "vsgd": simple(varigrad.VSGD, 3e-3, weight_decay=0.01),
    "sgd": simple(torch.optim.SGD, 0.1, momentum=0.9, weight_decay=5e-4),
    "schedule-free": Contestant(schedule_free, 3e-3, constant=True),
}


class Aimed(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD that aims at a mean product of successive signs other than zero."""

    target = 0.0

    def scalars(self, step, group, memory):
        agreement = memory["agreement"] - self.target * memory["pairs"]
        return super().scalars(step, group, {**memory, "agreement": agreement})


VARIANTS = {
    "start_gain": (0.02, 0.1),
    "gain_rate": (0.1, 1.0),
    "gain_bounds": ((0.001, 0.9), (0.02, 0.9), (0.005, 0.7), (0.005, 0.99)),
    "prior_pairs": (0.1, 1.0, 100.0),
    "least_rate": (1e-2, 1e-4),
}
for _name, _values in VARIANTS.items():
    for _value in _values:
        _label = "-".join(map(str, _value)) if isinstance(_value, tuple) else str(_value)
        CONTESTANTS[f"adaptive,{_name}={_label}"] = with_gain(variant(**{_name: _value}), 3e-3)
for _value in (-0.1, -0.03, 0.03, 0.1):
    CONTESTANTS[f"adaptive,target={_value}"] = with_gain(type("Variant", (Aimed,), {"target": _value}), 3e-3)

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
