import dataclasses
import math

import pytest
import torch
from torch import nn

from varigrad.lab.data import Digits
from varigrad.lab.optimizers import OPTIMIZERS, OptimizerRow
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Evaluation, Settings, train

TASK = TASKS["digits"]
DATA = Digits().load(None)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_trains_as_a_plain_loop_would() -> None:
    run = train(TASK, DATA, OPTIMIZERS["adamw"], 0.01, seed=4, settings=Settings(40, weight_decay=0.1))

    from varigrad.lab.batches import Batches

    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    losses = []
    for step, (inputs, labels) in zip(range(40), Batches(DATA, 32, seed=4), strict=False):
        rising, falling = (step + 1) / 2, 0.5 * (1 + math.cos(math.pi * (step - 2) / 38))  # 5 % of 40 steps: 2
        optimizer.param_groups[0]["lr"] = 0.01 * (rising if step < 2 else falling)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    pixels = (DATA.test.images - DATA.mean[0]) / DATA.std[0]
    logits = model(pixels)
    assert math.isclose(run.final.test_loss, nn.functional.cross_entropy(logits, DATA.test.labels).item(), rel_tol=1e-4)
    accuracy = (logits.argmax(1) == DATA.test.labels).float().mean().item()
    assert math.isclose(run.final.test_accuracy, accuracy, abs_tol=0.0021)
    last = run.evaluations[-2].step
    assert math.isclose(run.final.train_loss, sum(losses[last:]) / (40 - last), rel_tol=1e-4)


def test_evaluations_are_evenly_spaced_and_end_with_the_last_step() -> None:
    told: list[Evaluation] = []
    run = train(TASK, DATA, OPTIMIZERS["sgd"], 0.01, 0, Settings(48), lambda evaluation, speed: told.append(evaluation))
    assert [evaluation.step for evaluation in run.evaluations] == list(range(2, 49, 2))
    assert told == list(run.evaluations)
    few = train(TASK, DATA, OPTIMIZERS["sgd"], 0.01, 0, Settings(3))
    assert [evaluation.step for evaluation in few.evaluations] == [1, 2, 3]


def test_the_same_again() -> None:
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        runs.append(train(TASK, DATA, OPTIMIZERS["vsgd"], 0.01, 0, Settings(20)))
        assert torch.equal(before, torch.get_rng_state())
    assert runs[0].evaluations == runs[1].evaluations
    assert runs[0].evaluations != train(TASK, DATA, OPTIMIZERS["vsgd"], 0.01, 1, Settings(20)).evaluations


def test_every_optimizer_starts_from_the_same_weights() -> None:
    starts = []

    def spy(parameters, lr, weight_decay):
        parameters = list(parameters)
        starts.append([p.detach().clone() for p in parameters])
        return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay)

    row = dataclasses.replace(OPTIMIZERS["sgd"], optimizer=spy, arguments={})
    for lr, seed in ((0.1, 0), (0.01, 0), (0.01, 1)):
        train(TASK, DATA, row, lr, seed, Settings(1))
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert not torch.equal(starts[0][0], starts[2][0])


def test_divergence_ends_the_run_and_counts() -> None:
    run = train(TASK, DATA, OPTIMIZERS["sgd"], 1e8, 0, Settings(48))
    assert run.diverged
    assert len(run.evaluations) < 24
    assert run.final == Evaluation(run.final.step, math.inf, math.inf, 0.0, math.inf, 0.0)


def test_a_single_nan_in_between_is_noticed() -> None:
    class Poisoned(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            for parameter in self.param_groups[0]["params"]:
                parameter.data.add_(math.nan if self.steps == 3 else 0.0)
                if self.steps == 4:
                    parameter.data.nan_to_num_(0.0)

    row = OptimizerRow("poisoned", Poisoned, "", "", (1.0,))
    assert train(dataclasses.replace(TASK, evaluations=1), DATA, row, 0.1, 0, Settings(10)).diverged


def test_schedules() -> None:
    rates = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])

    row = OptimizerRow("recording", Recording, "", "", (1.0,))
    train(TASK, DATA, row, 0.5, 0, Settings(100))
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert max(rates) == pytest.approx(0.5)
    assert sorted(rates[5:], reverse=True) == rates[5:]
    assert 0 < rates[-1] < 0.001
    rates.clear()
    train(TASK, DATA, row, 0.5, 0, Settings(10, schedule="constant"))
    assert rates == [0.5] * 10


@pytest.mark.parametrize(("name", "expected"), [("vsgd", 12), ("constant-vsgd", 8), ("adamw", 8), ("sgd", 4)])
def test_state_bytes(name: str, expected: int) -> None:
    run = train(TASK, DATA, OPTIMIZERS[name], 0.001, 0, Settings(2))
    assert expected <= run.state_bytes < expected + 0.1  # the step counters are the rest


@pytest.mark.parametrize("row", OPTIMIZERS.values(), ids=lambda row: row.name)
def test_every_row_can_be_built(row: OptimizerRow) -> None:
    optimizer = row.build(nn.Linear(2, 2), lr=0.125, weight_decay=0.25, batch_size=32, steps=100)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.25)
    assert all(group[key] == value for key, value in row.arguments.items())
    module, _, name = row.class_name.rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is type(optimizer)


def test_times() -> None:
    run = train(TASK, DATA, OPTIMIZERS["adamw"], 0.001, 0, Settings(20))
    assert 0 < run.optimizer_ms < 1e3 / run.steps_per_second * 20


def test_training_goes_through_the_compiled_network_and_judging_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Compiled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            calls.append(len(inputs))
            return self.model(inputs)

    monkeypatch.setattr(torch, "compile", Compiled)
    plain = train(TASK, DATA, OPTIMIZERS["vsgd"], 0.01, 0, Settings(6))
    assert calls == []
    compiled = train(TASK, DATA, OPTIMIZERS["vsgd"], 0.01, 0, Settings(6, compiled=True))
    assert calls == [32] * 6
    assert compiled.evaluations == plain.evaluations


def test_autocast_computes_in_bfloat16_and_judges_in_float32() -> None:
    seen = []

    def network() -> nn.Module:
        model = TASK.model()
        model.register_forward_hook(lambda module, args, output: seen.append((module.training, output.dtype)))
        return model

    task = dataclasses.replace(TASK, model=network)
    cast, plain = (
        train(task, DATA, OPTIMIZERS["adamw"], 0.01, 0, Settings(30, autocast=autocast)) for autocast in (True, False)
    )
    assert set(seen) == {(True, torch.bfloat16), (True, torch.float32), (False, torch.float32)}
    assert cast.final.test_loss != plain.final.test_loss
    assert math.isclose(cast.final.test_loss, plain.final.test_loss, rel_tol=0.05)


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_uncompiled() -> None:
    plain, compiled = (
        train(TASK, DATA, OPTIMIZERS["sgd"], 0.03, 0, Settings(40, compiled=way)) for way in (False, True)
    )
    assert math.isclose(compiled.final.test_loss, plain.final.test_loss, rel_tol=1e-4)
