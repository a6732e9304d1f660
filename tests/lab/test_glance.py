"""Evaluations before the last one look at fewer samples, if a task says so."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from varigrad.cli import app
from varigrad.lab.data import Digits
from varigrad.lab.encoded import EncodedSplit
from varigrad.lab.engines.jobs import Job
from varigrad.lab.errors import LabError
from varigrad.lab.kinds.images import Classification
from varigrad.lab.kinds.text import NextSymbol
from varigrad.lab.models.char_lstm import CharLSTM
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.store.specification import Specification
from varigrad.lab.tasks import TASKS, Task
from varigrad.lab.text_data import TextData
from varigrad.lab.training import Run, Settings, train

DATA = Digits().load(None)
TASK = dataclasses.replace(TASKS["digits"], evaluations=3)


@dataclasses.dataclass(frozen=True)
class Watched(Classification):
    on_measure: Callable[[Any, str], None] = lambda data, part: None

    def measure(self, model: nn.Module, data: Any, part: str) -> tuple[float, float]:
        self.on_measure(data, part)
        return super().measure(model, data, part)


def trained(task: Task, data: Any = DATA) -> Run:
    return train(task, data, OPTIMIZERS["sgd"], 0.03, 0, Settings(30))


def test_all_but_the_last_see_the_same_few_and_training_is_what_it_was() -> None:
    seen: list[tuple[str, torch.Tensor]] = []

    def watch(data: Any, part: str) -> None:
        seen.append((part, getattr(data, part).images))

    watched = dataclasses.replace(TASK, kind=Watched(on_measure=watch))
    plain, short = trained(watched), trained(dataclasses.replace(watched, glance=40))
    assert [(part, len(images)) for part, images in seen[6:]] == [
        *[("validation", 40), ("test", 40)] * 2,
        ("validation", 297),
        ("test", 500),
    ]
    assert torch.equal(seen[6][1], seen[8][1])
    assert torch.equal(seen[7][1], seen[9][1])
    # Drawn from the whole part, each once: neither its beginning nor anything else.
    rows = [
        [row for row, image in enumerate(DATA.test.images) if torch.equal(image, glimpsed)] for glimpsed in seen[7][1]
    ]
    assert all(rows)
    assert len({row[0] for row in rows}) == 40
    assert max(row[0] for row in rows) > 400
    assert plain.final == short.final
    assert [e.train_loss for e in plain.evaluations] == [e.train_loss for e in short.evaluations]
    assert plain.evaluations[0].test_loss != short.evaluations[0].test_loss
    assert trained(dataclasses.replace(TASK, glance=500)).evaluations[0].test_loss == plain.evaluations[0].test_loss


def test_of_a_text_the_first_symbols_are_looked_at_in_whole_columns() -> None:
    parts = [torch.randint(10, (size,), generator=torch.Generator().manual_seed(size)) for size in (900, 400, 400)]
    data = TextData(*parts, alphabet="0123456789", rows=4)
    assert torch.equal(data.glance(42).test, parts[2][:45])  # 11 columns of 4, and the successor of the last
    assert len(data.glance(1000).test) == 400
    task = Task(
        "text", "", TASKS["warpeace-lstm"].data, lambda: CharLSTM(10, rows=4), 4, 6, 1, 0.5, 0, 2, 1,
        kind=NextSymbol(5, consecutive=True), glance=40,
    )  # fmt: skip
    plain = train(dataclasses.replace(task, glance=None), data, OPTIMIZERS["sgd"], 0.1, 0, Settings(6))
    short = train(task, data, OPTIMIZERS["sgd"], 0.1, 0, Settings(6))
    assert plain.final == short.final
    assert plain.evaluations[0].test_loss != short.evaluations[0].test_loss


def test_of_encoded_images_rows_are_drawn() -> None:
    import numpy as np

    some = EncodedSplit(None, np.arange(100, 200)).some(10)
    assert len(some) == 10
    assert len(set(some.rows.tolist())) == 10
    assert set(some.rows.tolist()) <= set(range(100, 200))
    assert len(EncodedSplit(None, np.arange(5)).some(10)) == 5


def test_a_problem_without_samples_is_judged_as_ever() -> None:
    task = TASKS["sqp-mild-aligned-0.1"]
    runs = [
        train(one, task.data.load(None), OPTIMIZERS["sgd"], 0.1, 0, Settings(24))
        for one in (task, dataclasses.replace(task, glance=3))
    ]
    assert runs[0].evaluations == runs[1].evaluations


def test_it_is_part_of_the_key_where_it_is_set_only() -> None:
    def spec(task: Task) -> Specification:
        return Specification.of(task, OPTIMIZERS["vsgd"], 0.01, 1, Settings(100))

    assert spec(TASKS["digits"]).key == "55e714c454e1cf0d"  # of a run that was made before there was a glance
    short = spec(dataclasses.replace(TASKS["digits"], glance=40))
    assert short.key != spec(TASKS["digits"]).key
    assert Job.of(Specification.read(short.values()), torch.device("cpu")).task.glance == 40


def test_data_that_cannot_be_cut_short_is_named() -> None:
    class Own:
        train, validation, test = DATA.train, DATA.validation, DATA.test
        mean, std = DATA.mean, DATA.std

    assert trained(TASK, Own()).final == trained(TASK).final
    with pytest.raises(LabError, match=r"task digits: glance=40, but its data \(Own\) has no method glance\(count\)"):
        trained(dataclasses.replace(TASK, glance=40), Own())


def test_the_commands_take_it(tmp_path: Path) -> None:
    common = ["--optimizers", "sgd", "--steps", "24", "--seeds", "1", "--workers", "1", "--store", str(tmp_path)]
    done = CliRunner().invoke(app, ["compare", "--lr", "0.01", *common, "--glance", "50"])
    assert done.exit_code == 0, done.output
    assert "before the end of training, 50 samples" in " ".join(done.stdout.split())
    done = CliRunner().invoke(app, ["tune", "--trials", "1", *common, "--glance", "60"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["compare", "--lr", "0.01", *common, "--glance", "all"])
    assert "before the end of training" not in done.stdout
    assert sorted(str(entry.specification.glance) for entry in Store(tmp_path).entries()) == ["50", "60", "60", "None"]
    wrong = CliRunner().invoke(app, ["compare", *common, "--glance", "few"])
    assert "--glance 'few' is not a whole number (accepted: a whole number from 1 to 1000000000" in wrong.stderr
