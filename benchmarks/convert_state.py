"""What happens when a job that AdamW has trained so far goes on with another optimizer: paired over seeds.

    python benchmarks/convert_state.py --task digits --lr 3e-3 --schedule cosine [--json FILE]
    python benchmarks/convert_state.py --read results/convert-state/*.json

For every seed AdamW trains the first half. From there everyone goes on with the same batches: AdamW itself, VSGD and
others from the converted state, and VSGD from nothing. Reported, against AdamW and paired by seed: the training loss in
windows after the switch, the validation loss at the end, and how the first step of each compares with AdamW's own:
correlation (the cosine between them) and the ratio of their lengths, over all weights, weight decay left out.
`--read` prints the tables of docs/migrating-from-adamw.md from what was measured before.
"""

import argparse
import copy
import functools
import json
import math
import os
import shlex
import statistics
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import varigrad
from varigrad.lab.batches import Batches, Normaliser
from varigrad.lab.tasks import find_task

DECAY = 0.01
WINDOWS = ((1, 1), (2, 10), (11, 50), (51, 200), (201, 1000))


def to(optimizer, **options):
    return functools.partial(varigrad.convert_state, to=optimizer, **options)


TRAINED = {
    "AdamW unchanged": None,
    "VSGD converted": to("vsgd"),
    "VSGD converted, variances='noise'": to("vsgd", variances="noise"),
    "VSGD converted, variances='noise', match_lr=False": to("vsgd", variances="noise", match_lr=False),
    "VSGD from nothing": lambda saved: {**varigrad.convert_state(saved, to="vsgd"), "state": {}},
    "ConstantVSGD converted": to("constant-vsgd"),
    "ConstantVSGD converted, variances='noise'": to("constant-vsgd", variances="noise"),
    "AdamStar converted": to("adam-star"),
    "MSVAG converted": to("msvag"),
}
STEPPED = {"MSGD converted": to("msgd"), "MSSD converted": to("mssd"), "SVAG converted": to("svag")}


def successor(name, convert, model, adamw):
    """The optimizer that goes on, for a copy of the model."""
    params = list(model.parameters())
    kind = torch.optim.AdamW if convert is None else getattr(varigrad, name.split()[0])
    optimizer = kind(params)
    # torch's own load_state_dict shares storage with what it is given.
    saved = copy.deepcopy(adamw.state_dict())
    optimizer.load_state_dict(saved if convert is None else convert(saved))
    return optimizer


def train(model, optimizer, batches, rate, steps):
    """Trains and returns the loss of every step; `rate` is what every learning rate is multiplied by."""
    model.train()
    base, losses = [group["lr"] for group in optimizer.param_groups], []
    for step in steps:
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * rate(step)
        inputs, labels = batches[step]
        loss = cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = lr
    return losses


def first_step(model, optimizer, batches, rate, step):
    """What the first step takes each weight, weight decay left out."""
    before = [param.detach().clone() for param in model.parameters()]
    (group,) = optimizer.param_groups
    decay = group["lr"] * rate(step) * group["weight_decay"]
    train(model, optimizer, batches, rate, [step])
    return torch.cat(
        [(new.detach() - (1 - decay) * old).flatten() for new, old in zip(model.parameters(), before, strict=True)]
    ).double()


def median_gain(optimizer):
    """The gain w of the median weight: one minus the momentum."""
    gains = [
        (state["systematic_var"] / (state["systematic_var"] + state["observation_var"])).flatten()
        for state in optimizer.state.values()
    ]
    return torch.cat(gains).median().item()


def compare(task, data, lr, rate, steps, seed, arms):
    """One seed: what each way of going on leads to."""
    torch.manual_seed(seed)
    model = task.model()
    adamw = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=DECAY)
    batches, normalise, switch = Batches(data, task.batch_size, seed, task.pad), Normaliser(data), steps // 2
    train(model, adamw, batches, rate, range(switch))
    record, theirs = {}, None
    for name, convert in arms.items():
        trial = copy.deepcopy(model)
        ours = first_step(trial, successor(name, convert, trial, adamw), batches, rate, switch)
        theirs = ours if theirs is None else theirs
        correlation = (ours @ theirs / ours.norm() / theirs.norm()).item()
        told = {"first_step": {"correlation": correlation, "length_ratio": (ours.norm() / theirs.norm()).item()}}
        if name in TRAINED:
            trial = copy.deepcopy(model)
            optimizer = successor(name, convert, trial, adamw)
            told["lr_factor"] = optimizer.param_groups[0]["lr"] / lr
            losses = train(trial, optimizer, batches, rate, range(switch, steps))
            told["train_loss"] = {
                f"{first}-{last}": statistics.fmean(losses[first - 1 : last])
                for first, last in WINDOWS
                if last <= len(losses)
            }
            if name.startswith("VSGD"):
                told["median_gain"] = median_gain(optimizer)
            told["train_loss"]["last tenth"] = statistics.fmean(losses[-len(losses) // 10 :])
            trial.eval()
            with torch.no_grad():
                for part in ("validation", "test"):
                    split = getattr(data, part)
                    logits = torch.cat([trial(normalise(images)) for images in split.images.split(1000)])
                    told[f"{part}_loss"] = cross_entropy(logits, split.labels).item()
                    told[f"{part}_accuracy"] = (logits.argmax(1) == split.labels).double().mean().item()
        record[name] = told
    return {"seed": seed, "arms": record}


def spread(values):
    """Mean, and standard deviation over the seeds."""
    return f"{statistics.fmean(values):9.4f} ± {statistics.stdev(values) if len(values) > 1 else math.nan:6.4f}"


def report(runs):
    """The table: of AdamW the figures themselves, of all others the difference to it, seed by seed."""
    windows = [*runs[0]["arms"]["AdamW unchanged"]["train_loss"]]
    print(f"{'':50}" + "".join(f"{head:>20}" for head in ["correlation", "length ratio", *windows, "validation loss"]))
    for name in runs[0]["arms"]:
        rows = [run["arms"][name] for run in runs]
        cells = [[row["first_step"][key] for row in rows] for key in ("correlation", "length_ratio")]
        if name in TRAINED:
            for window in windows:
                cells.append([row["train_loss"][window] for row in rows])
            cells.append([row["validation_loss"] for row in rows])
            if name == "AdamW unchanged":
                adamws = cells[2:]
            else:
                cells[2:] = [
                    [a - b for a, b in zip(*pair, strict=True)] for pair in zip(cells[2:], adamws, strict=True)
                ]
        print(f"{name:50}" + "".join(f"{spread(cell):>20}" for cell in cells))


# What the page calls the columns.
COLUMNS = {
    "AdamW": "AdamW unchanged",
    "converted": "VSGD converted",
    '"noise"': "VSGD converted, variances='noise'",
    '"noise", rate kept': "VSGD converted, variances='noise', match_lr=False",
    "begun anew": "VSGD from nothing",
}
TABLES = {
    "First step: correlation": lambda arm: arm["first_step"]["correlation"],
    "First step: length": lambda arm: arm["first_step"]["length_ratio"],
    "Training loss, steps 2 to 10": lambda arm: arm["train_loss"]["2-10"],
    "Training loss, steps 11 to 50": lambda arm: arm["train_loss"]["11-50"],
    "Training loss, steps 51 to 200": lambda arm: arm["train_loss"]["51-200"],
    "Validation loss at the end": lambda arm: arm["validation_loss"],
}


def table(title, records):
    """One table of the page: a row for every setting; losses of all but AdamW are differences to AdamW's."""
    get, lines = TABLES[title], [[title, *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for record in records:
        settings = record["settings"]
        lines.append([f"{record['task']['name']}, {settings['schedule']}, {settings['lr']:g}"])
        for name in COLUMNS.values():
            values, sign = [get(run["arms"][name]) for run in record["runs"]], ""
            if name != "AdamW unchanged" and "loss" in title:
                adamws, sign = [get(run["arms"]["AdamW unchanged"]) for run in record["runs"]], "+"
                values = [ours - theirs for ours, theirs in zip(values, adamws, strict=True)]
            lines[-1].append(f"{statistics.fmean(values):{sign}.4f} ± {statistics.stdev(values):.4f}")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="digits")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--schedule", choices=("cosine", "constant"), default="cosine")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", action="store_true", help="only those that the page has a column for")
    parser.add_argument("--read", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.read:
        records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(arguments.read)]
        print("\n\n".join(table(title, records) for title in TABLES))
        return
    torch.set_num_threads(1)
    task = find_task(arguments.task)
    steps = arguments.steps or task.steps
    folder = os.environ.get("VARIGRAD_DATA")
    data = task.data.load(Path(folder) if folder else None)
    warm_up = math.ceil(0.05 * steps)

    def rate(step):
        if arguments.schedule == "constant":
            return 1.0
        return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * max(0, step - warm_up) / (steps - warm_up))))

    arms = {name: TRAINED[name] for name in COLUMNS.values()} if arguments.page else {**TRAINED, **STEPPED}
    runs = [compare(task, data, arguments.lr, rate, steps, seed, arms) for seed in range(arguments.seeds)]
    print(f"{task.name}, {steps} steps, AdamW's lr={arguments.lr:g}, weight_decay={DECAY}, {arguments.schedule}")
    report(runs)
    if arguments.json:
        record = {
            "format": "varigrad-convert-state",
            "task": {"name": task.name, "summary": task.summary, "batch_size": task.batch_size},
            "settings": {
                "steps": steps,
                "switch": steps // 2,
                "lr": arguments.lr,
                "weight_decay": DECAY,
                "schedule": arguments.schedule,
                "seeds": [run["seed"] for run in runs],
            },
            "runs": runs,
            "provenance": {
                "command": shlex.join(["python", "benchmarks/convert_state.py", *sys.argv[1:]]),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "varigrad": varigrad.__version__,
                "torch": torch.__version__,
                "threads": "1",
                "device": "cpu",
            },
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
