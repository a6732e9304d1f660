"""The figures that a docstring quotes are those of the runs that are kept under results/."""

import json
from pathlib import Path

import pytest
import torch

import varigrad

RESULTS = Path(__file__).parent.parent / "results" / "learning-rate"


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
