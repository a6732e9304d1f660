"""Convolutional networks whose channels lie last: another layout of the same numbers, on a CPU only."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from varigrad.lab.data import Digits
from varigrad.lab.engines.jobs import Job
from varigrad.lab.kinds.images import Classification
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.specification import Specification
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings, train

from .test_store import Stopped, StoppedAt, computed

DATA = Digits().load(None)
CPU = torch.device("cpu")


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


PLAIN = dataclasses.replace(TASKS["digits"], model=convolutions, evaluations=3)
LAST = dataclasses.replace(PLAIN, channels_last=True)


def test_it_is_the_same_network_in_another_layout() -> None:
    torch.manual_seed(0)
    plain = PLAIN.network(CPU)
    torch.manual_seed(0)
    last = LAST.network(CPU)
    assert plain[3].weight.is_contiguous()
    assert last[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain[3].weight, last[3].weight)
    runs = [train(task, DATA, OPTIMIZERS["vsgd"], 0.01, 0, Settings(30)) for task in (PLAIN, LAST)]
    assert runs[1].final.test_loss == pytest.approx(runs[0].final.test_loss, rel=1e-3)


@pytest.mark.parametrize("name", ["vsgd", "svgd", "msvag-batch", "adamw", "muon"])
def test_it_goes_on_to_the_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (LAST, DATA, OPTIMIZERS[name], OPTIMIZERS[name].rates[3], 3, Settings(20))
    undisturbed = train(*arguments)
    with pytest.raises(Stopped):
        train(*arguments, checkpoints=StoppedAt(9))
    state = torch.load("state", weights_only=True)
    assert computed(train(*arguments, checkpoints=StoppedAt(99, state=state))) == computed(undisturbed)


def test_it_is_part_of_the_key_where_it_has_a_meaning() -> None:
    def spec(task, device: str = "cpu") -> Specification:
        return Specification.of(task, OPTIMIZERS["vsgd"], 0.01, 1, Settings(100, device=torch.device(device)))

    assert spec(LAST).channels_last
    assert spec(LAST).key != spec(PLAIN).key
    assert spec(LAST, "cuda").key == spec(PLAIN, "cuda").key
    vgg = spec(TASKS["cifar10-vgg6"])
    assert vgg.channels_last
    assert Job.of(Specification.read(vgg.values()), CPU).specification == vgg


@pytest.mark.parametrize("task", [PLAIN, LAST], ids=["plain", "channels last"])
def test_judging_piece_by_piece_is_judging(task) -> None:
    torch.manual_seed(0)
    model = task.network(CPU).eval()
    with torch.no_grad():
        loss, accuracy = Classification().measure(model, DATA, "test")
        inputs = torch.stack([(image.float() - DATA.mean[0]) / DATA.std[0] for image in DATA.test.images])
        scores = model(inputs)
    assert loss == pytest.approx(nn.functional.cross_entropy(scores, DATA.test.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((scores.argmax(1) == DATA.test.labels).float().mean().item())
