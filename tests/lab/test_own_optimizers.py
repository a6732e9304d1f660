"""Optimizers of the user's own: found in files and packages, told apart, and run by other processes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from varigrad.cli import app
from varigrad.lab import own
from varigrad.lab.data import Digits
from varigrad.lab.engines.here import Here
from varigrad.lab.engines.jobs import Job
from varigrad.lab.engines.processes import Processes
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS, OptimizerRow, all_optimizers, find_optimizer, find_optimizers
from varigrad.lab.options import parse_optimizers
from varigrad.lab.store.folder import Store
from varigrad.lab.store.specification import Specification
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings, train

DATA = Digits().load(None)

ROWS = '''
import torch
from varigrad.lab.optimizers import OptimizerRow


class Halving(torch.optim.SGD):
    """SGD whose momentum rises over the run."""

    def __init__(self, params, lr, weight_decay=0.0, total=1):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=0.9)
        self.total, self.taken = total, 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["momentum"] = 0.9 * self.taken / self.total
        self.taken += 1
        return super().step(closure)


def derived(lr, batch_size, steps):
    return {"total": steps}


rising = OptimizerRow("rising", Halving, "momentum up", "mine", (0.003, 0.01, 0.03), derived=derived)
family = [
    OptimizerRow(f"heavy-{momentum}", torch.optim.SGD, "", "mine", (0.01, 0.03), {"momentum": momentum})
    for momentum in (0.5, 0.95)
]
'''
CLASSES = '''
from torch.optim import SGD, Adam, Optimizer


class Mine(SGD):
    """Plain, and mine.

    And more."""


class Other(Adam):
    pass


class _Base(SGD):
    pass
'''


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_rows.py").write_text(ROWS)
    (tmp_path / "my_classes.py").write_text(CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(text: str) -> list[str]:
    return [row.name for row in parse_optimizers(text)]


def test_a_file_stands_for_its_rows_or_else_its_classes(files: Path) -> None:
    assert names("my_rows.py") == ["my_rows.py:rising", "my_rows.py:heavy-0.5", "my_rows.py:heavy-0.95"]
    assert names("vsgd,my_rows.py:family") == ["vsgd", "my_rows.py:heavy-0.5", "my_rows.py:heavy-0.95"]
    assert names("my_rows.py:heavy-0.95,my_rows.py:Halving") == ["my_rows.py:heavy-0.95", "my_rows.py:Halving"]
    assert names("my_classes.py") == ["my_classes.py:Mine", "my_classes.py:Other"]
    assert names(f"{files}/my_classes.py:_Base,my_classes.py:SGD") == [
        f"{files}/my_classes.py:_Base",
        "my_classes.py:SGD",
    ]
    (mine,) = find_optimizers("my_classes.py:Mine")
    assert (mine.summary, mine.class_name, mine.rates) == (
        "Plain, and mine",
        "my_classes.Mine",
        OPTIMIZERS["vsgd"].rates,
    )
    for name in names("my_rows.py,my_classes.py,my_classes.py:SGD"):  # so workers find them
        assert find_optimizer(name).name == name
    assert set(names("all")) == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("missing.py", "no file missing.py; an optimizer of your own is given as FILE.py or FILE.py:NAME"),
        ("my_rows.pyc", "--optimizers my_rows.pyc: expected FILE.py or FILE.py:NAME"),
        ("my_rows.py:risin", r"unknown optimizer of my_rows.py 'risin': did you mean 'rising'\?"),
        ("my_rows.py,my_rows.py:rising", "my_rows.py:rising stands there twice"),
        ("empty.py", "empty.py has no optimizer; define a subclass of torch.optim.Optimizer at its top level"),
        ("broken.py", "broken.py fails: ZeroDivisionError"),
        ("twice.py", "twice.py has two optimizers called one"),
        ("steep.py", r"steep.py:one: rates \(0.02, 0.1\): not a rung of the ladder: 0.02"),
        ("falling.py", r"falling.py:one: rates \(0.1, 0.01\): expected one or more learning rates, from low to high"),
        ("function.py", "function.py:one: arguments .* function cannot be written as JSON"),
        ("rateless.py", "rateless.py:Rateless: rateless.Rateless takes no keyword lr"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(files: Path, text: str, told: str) -> None:
    row = "from torch.optim import SGD\nfrom varigrad.lab.optimizers import OptimizerRow\none = OptimizerRow('one', SGD"
    contents = {
        "empty": "from torch.optim import SGD\n",
        "broken": "1 / 0",
        "twice": f"{row}, '', '', (0.1,))\ntwo = OptimizerRow('one', SGD, '', '', (0.1,))",
        "steep": f"{row}, '', '', (0.02, 0.1))",
        "falling": f"{row}, '', '', (0.1, 0.01))",
        "function": f"{row}, '', '', (0.1,), {{'dampening': lambda: 0}})",
        "rateless": "import torch\nclass Rateless(torch.optim.SGD):\n    def __init__(self, params): ...\n",
    }
    for name, content in contents.items():
        (files / f"{name}.py").write_text(content)
    with pytest.raises(LabError, match=told):
        parse_optimizers(text)


def test_one_of_several_must_be_said(files: Path) -> None:
    with pytest.raises(LabError, match=r"has several optimizers: say which \(my_rows.py:rising, my_rows.py:heavy-0.5"):
        find_optimizer("my_rows.py")


def test_a_row_is_told_the_number_of_steps(files: Path) -> None:
    row = find_optimizer("my_rows.py:rising")
    assert row.build(nn.Linear(2, 2), 0.1, 0.0, batch_size=32, steps=500).total == 500
    told: list[dict[str, float]] = []

    def derived(**known: float) -> dict[str, object]:
        told.append(known)
        return {}

    train(TASKS["digits"], DATA, dataclasses.replace(OPTIMIZERS["sgd"], derived=derived), 0.01, 0, Settings(24))
    assert told == [{"lr": 0.01, "batch_size": 32, "steps": 24}]


def test_a_class_without_weight_decay_is_given_none() -> None:
    class Bare(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)

    row = OptimizerRow("bare", Bare, "", "", (0.01,))
    assert row.build(nn.Linear(2, 2), 0.25, 0.0, 32, 10).param_groups[0]["lr"] == 0.25
    with pytest.raises(LabError, match=r"bare: .*Bare takes no weight decay, got 0.1 \(accepted: 0\)"):
        row.build(nn.Linear(2, 2), 0.25, 0.1, 32, 10)


def specification(row: OptimizerRow) -> Specification:
    return Specification.of(TASKS["digits"], row, 0.01, 1, Settings(100))


def test_rows_of_the_lab_keep_the_keys_that_runs_of_earlier_versions_have() -> None:
    keys = {"vsgd": "55e714c454e1cf0d", "sgd": "16a1e2b39162a1cb", "adabayes": "ff214ca3a6ca070c"}
    assert {name: specification(OPTIMIZERS[name]).key for name in keys} == keys


def test_the_class_is_part_of_the_key_of_a_row_that_is_not_the_labs(files: Path) -> None:
    first = specification(find_optimizer("my_rows.py:rising"))
    assert first.optimizer_class == "my_rows.Halving"
    assert Specification.read(json.loads(json.dumps(first.values()))) == first
    (files / "my_rows.py").write_text(ROWS.replace("Halving", "Doubling"))
    second = specification(find_optimizer("my_rows.py:rising"))
    assert first.key != second.key
    with pytest.raises(LabError, match=r"my_rows.py:rising is a my_rows.Doubling by now, the run is of a my_rows.Halv"):
        first.row()


def test_workers_find_a_file_by_its_whole_path(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run here and in a worker that is started elsewhere."""
    row = find_optimizer("my_rows.py:rising")
    job = Job(TASKS["digits"], row, 0.03, 0, Settings(24))
    places = own.whereabouts(["digits", row.name])
    assert places == {"my_rows.py:rising": f"{files / 'my_rows.py'}:rising"}
    found = []
    store = Store(tmp_path / "store")
    Here(lambda task: DATA).run([job], lambda job, run: found.append(run) or (), lambda progress: None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    workers = Processes(store, ["cpu"], 1, None, {"command": "test"}, print, places)
    workers.run([job], lambda job, run: found.append(run) or (), lambda progress: None)
    here, there = ([dataclasses.astuple(evaluation) for evaluation in run.evaluations] for run in found)
    assert here == [pytest.approx(evaluation) for evaluation in there]  # workers have a thread of their own each
    (entry,) = store.entries()
    assert entry.specification == job.specification


def test_both_commands_compare_them_with_others(files: Path) -> None:
    common = ["--steps", "8", "--store", "store", "--workers", "2"]
    done = CliRunner().invoke(
        app, ["compare", "--optimizers", "my_rows.py,sgd", "--lr", "0.01", "--seeds", "1", "--out", "out", *common]
    )
    assert done.exit_code == 0, done.output
    assert "heavy-0.95" in done.output
    assert "my_rows.py:" not in done.output
    record = json.loads((files / "out" / "comparison.json").read_text())
    assert [row["class"] for row in record["optimizers"]] == ["my_rows.Halving", *["torch.optim.SGD"] * 3]
    assert record["optimizers"][0]["arguments"] == {"total": 8}
    done = CliRunner().invoke(
        app, ["tune", "--optimizers", "my_classes.py,sgd", "--trials", "2", "--seeds", "1", "--out", "tuned", *common]
    )
    assert done.exit_code == 0, done.output
    assert (files / "tuned" / "report.html").read_text().count("Mine") > 1
    (files / "taken.py").write_text(CLASSES.replace("Mine", "sgd"))
    done = CliRunner().invoke(app, ["compare", "--optimizers", "taken.py:sgd,sgd", *common])
    assert done.exit_code == 2
    assert "sgd stands there twice" in done.output + done.stderr


class Entry:
    name, value = "mine", "package:rows"

    def __init__(self, loaded: object) -> None:
        self.load = lambda: loaded


def test_optimizers_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(OPTIMIZERS["sgd"], name="mine")

    def install(*loaded: object) -> None:
        found = {"varigrad.optimizers": [Entry(item) for item in loaded], "varigrad.tasks": []}
        monkeypatch.setattr(own, "entry_points", lambda group: found[group])

    install([row], torch.optim.Rprop)
    assert find_optimizer("mine") is row
    assert list(all_optimizers()) == [*OPTIMIZERS, "mine", "Rprop"]
    assert "mine" in CliRunner().invoke(app, ["list"]).output
    with pytest.raises(LabError, match="unknown optimizer 'min': did you mean 'mine'"):
        find_optimizer("min")
    install(OPTIMIZERS["sgd"])
    with pytest.raises(LabError, match="there is an optimizer called sgd already; give it another name"):
        find_optimizer("mine")
    install("mine")
    with pytest.raises(LabError, match=r"mine = package:rows of varigrad.optimizers is str, expected an OptimizerRow"):
        find_optimizer("mine")
