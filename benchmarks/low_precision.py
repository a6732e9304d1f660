"""What 16-bit parameters and 16-bit state cost in training: paired over seeds, against float32.

    python benchmarks/low_precision.py --task mnist-mlp --steps 20000 [--json FILE]
    python benchmarks/low_precision.py --read results/low-precision/*.json

The same network, the same batches and the same start for everyone, at a constant learning rate of 1e-4, where half a
unit of the last place of a bfloat16 weight is often larger than the step. Reported is the mean training loss of the
last tenth of the steps, and the validation loss and accuracy at the end.
"""

import argparse
import copy
import json
import os
import platform
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

BFLOAT16 = torch.bfloat16
ARMS = {
    "VSGD, float32": (varigrad.VSGD, torch.float32, {}),
    "VSGD, bfloat16 state": (varigrad.VSGD, torch.float32, {"state_dtype": BFLOAT16}),
    "VSGD, bfloat16 weights, nearest": (varigrad.VSGD, BFLOAT16, {"rounding": "nearest"}),
    "VSGD, bfloat16 weights, stochastic": (varigrad.VSGD, BFLOAT16, {}),
    "VSGD, bfloat16 weights, kahan": (varigrad.VSGD, BFLOAT16, {"rounding": "kahan"}),
    "VSGD, bfloat16 weights, stochastic, bfloat16 state": (varigrad.VSGD, BFLOAT16, {"state_dtype": BFLOAT16}),
    "AdamW, float32": (torch.optim.AdamW, torch.float32, {"weight_decay": 0.0}),
    "AdamW, bfloat16 weights": (torch.optim.AdamW, BFLOAT16, {"weight_decay": 0.0}),
}
FIGURES = ("train_loss", "validation_loss", "validation_accuracy")


def train(start, arm, task, data, lr, steps, seed):
    """One run; returns its figures."""
    make, dtype, settings = ARMS[arm]
    model = copy.deepcopy(start).to(dtype)
    optimizer = make(model.parameters(), lr=lr, **settings)
    batches, losses = Batches(data, task.batch_size, seed, task.pad), []
    for step in range(steps):
        inputs, labels = batches[step]
        loss = cross_entropy(model(inputs.to(dtype)).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The averages of batch norm would be lost in bfloat16: they are estimated once, in the dtype of evaluation.
    judged = copy.deepcopy(model).float().eval()
    normalise = Normaliser(data)
    with torch.no_grad():
        for layer in judged.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
                layer.momentum = None
        judged.train()
        judged(normalise(data.train.images[:10_000]))
        judged.eval()
        logits = torch.cat([judged(normalise(images)) for images in data.validation.images.split(1000)])
    return {
        "train_loss": statistics.fmean(losses[-steps // 10 :]),
        "validation_loss": cross_entropy(logits, data.validation.labels).item(),
        "validation_accuracy": (logits.argmax(1) == data.validation.labels).double().mean().item(),
    }


def report(runs):
    """The table: mean over the seeds and standard deviation; what is not float32 also against its float32, paired."""
    print(f"{'':52}" + "".join(f"{head:>22}" for head in (*FIGURES, "train_loss - float32")))
    for arm in runs[0]["arms"]:
        rows = [run["arms"][arm] for run in runs]
        base = [run["arms"][f"{arm.split(',')[0]}, float32"]["train_loss"] for run in runs]
        cells = [[row[figure] for row in rows] for figure in FIGURES]
        cells.append([row["train_loss"] - other for row, other in zip(rows, base, strict=True)])
        print(f"{arm:52}" + "".join(f"{spread(cell):>22}" for cell in cells))


def spread(values):
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("VARIGRAD_DATA"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, nargs="+")
    options = parser.parse_args()
    if options.read:
        for path in options.read:
            record = json.loads(path.read_text("utf-8"))
            print(f"\n{record['task']}, {record['steps']} steps, lr {record['lr']:g}, {len(record['runs'])} seeds")
            report(record["runs"])
        return
    torch.set_num_threads(1)
    task = find_task(options.task)
    data = task.data.load(options.data_dir)
    record = {
        "command": shlex.join(["python", "benchmarks/low_precision.py", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"varigrad": varigrad.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "task": task.name,
        "steps": options.steps,
        "lr": options.lr,
        "threads": 1,
        "runs": [],
    }
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        start = task.model()
        arms = {arm: train(start, arm, task, data, options.lr, options.steps, seed) for arm in ARMS}
        record["runs"].append({"seed": seed, "arms": arms})
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    report(record["runs"])


if __name__ == "__main__":
    main()
