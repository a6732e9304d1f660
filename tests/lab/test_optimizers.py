import dataclasses
import importlib

import pytest
import torch
from torch import nn

from varigrad.lab import optimizers
from varigrad.lab.data import Digits
from varigrad.lab.errors import LabError
from varigrad.lab.models.gpt import GPT
from varigrad.lab.muon import MuonAndAdamW
from varigrad.lab.optimizers import OPTIMIZERS, find_optimizer
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings, train
from varigrad.matrices import inner_matrices


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2))


def test_muon_steps_inner_matrices_and_adamw_the_rest() -> None:
    """Against the two of torch, each given its part."""
    ours, theirs = network(), network()
    combined = MuonAndAdamW(ours, lr=0.01, weight_decay=0.1)
    matrices = [theirs[0].weight, theirs[2].weight]
    others = [p for p in theirs.parameters() if all(p is not matrix for matrix in matrices)]
    parts = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.01, weight_decay=0.1),
    ]
    for step in range(4):
        for model, steppers in ((ours, [combined]), (theirs, parts)):
            model.zero_grad()
            model(torch.full((3, 4), 1.0 + step)).square().sum().backward()
            for optimizer in steppers:
                for group in optimizer.param_groups:
                    group["lr"] = 0.01 / (step + 1)  # a scheduler's: it must reach both
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_the_kernels_of_inner_convolutions_as_matrices(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(6, 2)
    ).to(memory_format=memory)
    theirs = nn.Parameter(model[1].weight.detach().clone(memory_format=torch.contiguous_format).flatten(1))
    others = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p is not model[1].weight]
    ours = MuonAndAdamW(model, lr=0.01, weight_decay=0.1)
    muon = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.1)
    for step in range(3):
        ours.zero_grad()
        assert model[1].weight.grad is None
        model(torch.full((2, 3, 7, 7), 1.0 + step)).square().sum().backward()
        theirs.grad = model[1].weight.grad.contiguous().flatten(1)
        for mine, other in zip((p for p in model.parameters() if p is not model[1].weight), others, strict=True):
            other.grad = mine.grad
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    # Muon computes in bfloat16, whose sums depend on the order of the columns.
    assert torch.allclose(model[1].weight.flatten(1), theirs, rtol=0.0, atol=2e-4)
    for mine, other in zip((p for p in model.parameters() if p is not model[1].weight), others, strict=True):
        assert torch.equal(mine, other)


def test_the_output_layer_is_no_inner_matrix_and_a_tied_network_has_none() -> None:
    model = GPT(7, context=4, width=8, heads=2, depth=1)
    assert len(inner_matrices(model)) == 4
    assert len(inner_matrices(nn.Sequential(model.blocks, nn.Linear(8, 7)))) == 4
    assert len(inner_matrices(network())) == 2


@pytest.mark.parametrize("name", ["adabound", "amsbound", "schedule-free"])
def test_what_others_have_is_the_class_it_says(name: str) -> None:
    if name not in OPTIMIZERS:
        pytest.skip("not installed")
    row = OPTIMIZERS[name]
    package, kind = row.class_name.split(".")
    optimizer = row.build(network(), lr=0.001, weight_decay=0.0, batch_size=32, steps=100)
    assert type(optimizer) is getattr(importlib.import_module(package), kind)
    if name != "schedule-free":
        assert optimizer.param_groups[0]["final_lr"] == 0.1
        assert optimizer.param_groups[0]["ams_bound"] == (name == "amsbound")


def test_schedule_free_is_judged_at_its_average_and_keeps_its_rate_up() -> None:
    modes: list[str] = []

    class Modes(torch.optim.SGD):
        def train(self) -> None:
            modes.append("train")

        def eval(self) -> None:
            modes.append("eval")

        def step(self, closure=None):
            modes.append(f"{self.param_groups[0]['lr']:.3f}")
            return super().step(closure)

    row = dataclasses.replace(OPTIMIZERS["sgd"], optimizer=Modes, schedule_free=True)
    task = dataclasses.replace(TASKS["digits"], evaluations=2)
    train(task, Digits().load(None), row, 0.1, 0, Settings(40))
    rates = ["0.050", *["0.100"] * 19]  # 5 % of 40 steps: 2 of warm-up
    assert modes == ["train", *rates, "eval", "train", *["0.100"] * 20, "eval"]


def test_what_is_not_installed_is_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "_MISSING", {"schedule-free": "schedulefree"})
    with pytest.raises(LabError, match="'schedule-free' is not installed: pip install schedulefree"):
        find_optimizer("schedule-free")
