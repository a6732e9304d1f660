"""A task trained as its paper did: the rates of each phase, the paper's settings, and the penalty on the weights."""

import dataclasses

import pytest
import torch

from varigrad.lab.data import Digits
from varigrad.lab.errors import LabError
from varigrad.lab.grid import compare
from varigrad.lab.optimizers import OPTIMIZERS, OptimizerRow
from varigrad.lab.options import by_protocol
from varigrad.lab.protocol import Protocol
from varigrad.lab.report.reading import method
from varigrad.lab.report.record import to_json
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings, train

DATA = Digits().load(None)
PROTOCOL = Protocol(
    "A Paper, Table 7", (0, 4, 10), {"sgd": (0.1, 0.05, 0.01), "svgd": (1.0, 0.5, 0.25)}, {"sgd": {"momentum": 0.0}}
)
TASK = dataclasses.replace(TASKS["digits"], steps=20, protocol=PROTOCOL)


def recorded(row_name: str, steps: int) -> list[float]:
    rates = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])

    row = OptimizerRow(row_name, Recording, "", "", (1.0,))
    train(TASK, DATA, row, PROTOCOL.rates[row_name][0], 0, Settings(steps, schedule="paper"))
    return rates


def test_the_rates_are_those_of_the_phases() -> None:
    assert recorded("sgd", 20) == pytest.approx([0.1] * 4 + [0.05] * 6 + [0.01] * 10)


def test_a_shorter_run_has_shorter_phases() -> None:
    assert recorded("svgd", 10) == pytest.approx([1.0] * 2 + [0.5] * 3 + [0.25] * 5)


def test_every_optimizer_has_the_papers_rate_and_settings() -> None:
    rows = by_protocol([OPTIMIZERS["sgd"], OPTIMIZERS["svgd"]], TASK)
    comparison = compare(TASK, DATA, rows, [0], Settings(4, schedule="paper"))
    assert [[rung.lr for rung in contender.rungs] for contender in comparison.contenders] == [[0.1], [1.0]]
    assert rows[0].keywords(0.1, 32, 10) == {"momentum": 0.0}
    assert '"learning_rates": "paper"' in to_json(comparison, {})
    assert "A Paper, Table 7" in " ".join(method(comparison))


def test_what_the_paper_does_not_have_is_refused() -> None:
    with pytest.raises(LabError, match="A Paper, Table 7 has no learning rates for adamw"):
        by_protocol([OPTIMIZERS["adamw"]], TASK)
    with pytest.raises(LabError, match="no paper is known for digits"):
        by_protocol([OPTIMIZERS["sgd"]], TASKS["digits"])


def test_the_penalty_is_added_to_the_loss_of_training_alone() -> None:
    """Its gradient is l1 times the sign of every parameter, biases too; the losses that are reported are without it."""
    steps = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            steps.append([(p.detach().clone(), p.grad.clone()) for p in self.param_groups[0]["params"]])

    row = OptimizerRow("sgd", Recording, "", "", (1.0,))
    plain = train(TASK, DATA, row, 0.1, 0, Settings(1, schedule="paper"))
    penalised = dataclasses.replace(TASK, protocol=dataclasses.replace(PROTOCOL, l1=0.5))
    run = train(penalised, DATA, row, 0.1, 0, Settings(1, schedule="paper"))
    for (p, without), (_, with_penalty) in zip(*steps, strict=True):
        assert torch.allclose(with_penalty, without + 0.5 * p.sign(), atol=1e-6)
    assert run.final == plain.final
    ignored = train(penalised, DATA, row, 0.1, 0, Settings(1, schedule="constant"))
    assert torch.equal(steps[2][0][1], steps[0][0][1])
    assert ignored.final == plain.final


def test_the_paper_of_the_mnist_network() -> None:
    """Table 1: three phases, at 0, 1600 and 3600 of 6000 steps; SVGD in the scale of the authors' program."""
    task = TASKS["mnist-mlp"]
    assert task.protocol is not None
    assert (task.batch_size, task.steps, task.protocol.starts, task.protocol.l1) == (32, 6000, (0, 1600, 3600), 1e-4)
    (row,) = by_protocol([OPTIMIZERS["svgd"]], task)
    assert row.rates == (0.01,)
    assert row.keywords(0.01, 32, 10) == pytest.approx({"scale": 3.2, "eps": 1.024e-3})
    factor = task.protocol.factor("svgd", 1.0)
    assert [factor(step) for step in (0, 1599, 1600, 3599, 3600, 5999)] == pytest.approx([1, 1, 0.5, 0.5, 0.1, 0.1])


def test_the_state_of_virtual_gradients_counts() -> None:
    """One float32 for each of the 64 + 32 + 10 outputs, over 6,570 parameters, and the step counters."""
    run = train(TASKS["digits"], DATA, OPTIMIZERS["svgd"], 0.01, 0, Settings(2))
    assert run.state_bytes == pytest.approx((4 * 106 + 4 * 6) / 6570)
