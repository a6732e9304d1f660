"""Every task trains on data of its layout, user's tasks are found, and what is missing is named."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from varigrad.lab import own, schedules
from varigrad.lab.data import FASHION_MNIST, TINY_IMAGENET
from varigrad.lab.encoded import IMAGENET, EncodedClassification
from varigrad.lab.errors import LabError
from varigrad.lab.kinds.text import NextSymbol, TextBatches
from varigrad.lab.models.char_lstm import CharLSTM
from varigrad.lab.optimizers import OPTIMIZERS, find_optimizer
from varigrad.lab.tasks import TASKS, find_task
from varigrad.lab.tasks.problems import rippled, stochastic_quadratic
from varigrad.lab.text_data import TextFile
from varigrad.lab.training import Settings, train

from .made_data import jpeg, pixels, png, write_table

DIGITS = TASKS["digits"].data.load(None)


def test_fashion_mnist_has_the_layout_of_mnist(tmp_path: Path) -> None:
    folder = tmp_path / "zalando-datasets" / "fashion_mnist" / "fashion_mnist"
    for part, count in (("train", 24), ("test", 12)):
        images = [png(image) for image in pixels(count, (28, 28), 0)]
        write_table(folder / f"{part}-00000-of-00001.parquet", images, [row % 10 for row in range(count)])
    assert len(FASHION_MNIST.load(tmp_path).train) == 22
    task = dataclasses.replace(TASKS["fashion-2c2d"], batch_size=4)
    run = train(task, task.data.load(tmp_path), find_optimizer("msvag"), 1e-3, 0, Settings(1))
    assert 0 <= run.final.test_accuracy <= 1


def test_tiny_imagenet_is_tested_on_its_validation_part_and_grey_images_are_coloured(tmp_path: Path) -> None:
    folder = tmp_path / "zh-plus" / "tiny-imagenet" / "data"
    for part, count in (("train", 20), ("valid", 6)):
        images = [jpeg(image) for image in pixels(count - 1, (64, 64, 3), 0)] + [jpeg(pixels(1, (64, 64), 1)[0])]
        write_table(folder / f"{part}-00000-of-00001-0123abcd.parquet", images, [row % 200 for row in range(count)])
    data = TINY_IMAGENET.load(tmp_path)
    assert [len(data.train), len(data.validation), len(data.test)] == [18, 2, 6]
    grey = data.test.images[-1]
    assert torch.equal(grey[0], grey[1])
    assert not torch.equal(data.test.images[0, 0], data.test.images[0, 1])
    task = dataclasses.replace(TASKS["tiny-imagenet-convmixer"], batch_size=4)
    run = train(task, data, find_optimizer("vsgd"), 1e-3, 0, Settings(1))
    assert 0 <= run.final.test_accuracy <= 1


def imagenet_folder(folder: Path) -> Path:
    for part, count in (("train", 60), ("validation", 5)):
        images = [jpeg(image) for image in pixels(count, (40, 56, 3), 0)]
        path = folder / "ILSVRC" / "imagenet-1k" / "data" / f"{part}-00000-of-00001.parquet"
        write_table(path, images, [row % 1000 for row in range(count)])
    return folder


def test_imagenet_is_decoded_batch_by_batch(tmp_path: Path) -> None:
    data = IMAGENET.load(imagenet_folder(tmp_path))
    assert [len(data.train), len(data.validation), len(data.test)] == [59, 1, 5]
    kind = EncodedClassification(32)
    walked, fresh = kind.batches(data, 8, seed=3, pad=0), kind.batches(data, 8, seed=3, pad=0)
    for step in range(9):  # seven steps an epoch
        images, labels = walked[step]
    again = fresh[8]
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert images.shape == (8, 3, 32, 32)
    epoch = torch.cat([fresh[step][1] for step in range(7)])
    assert len(set(epoch.tolist())) == 56
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1000))
    loss, _ = kind.measure(model, data, "test")
    assert 6 < loss < 8


def test_an_image_of_one_colour_stays_it(tmp_path: Path) -> None:
    kind = EncodedClassification(16)
    red = jpeg(np.full((50, 70, 3), (255, 0, 0), dtype=np.uint8))
    expected = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(kind.mean)) / torch.tensor(kind.std)
    for piece in (kind._middle(red), kind._random_piece(red, torch.Generator().manual_seed(0))):
        assert piece.shape == (3, 16, 16)
        assert (piece - expected.view(3, 1, 1)).abs().max() < 0.03


TEXT = "abcdefghij" * 300


def text_source(tmp_path: Path, text: str = TEXT, symbols: int = 10) -> TextFile:
    (tmp_path / "text.txt").write_text(text, "utf-8")
    return TextFile("text.txt", symbols, rows=5, origin="https://example.org/text.txt")


def test_a_text_is_cut_in_three_and_every_line_end_is_kept(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + b"ab\r\n" * 200)
    data = TextFile("text.txt", 4, rows=5, origin="").load(tmp_path)
    assert data.alphabet == "\n\rab"
    assert data.train[:5].tolist() == [2, 3, 1, 0, 2]
    assert [len(data.train), len(data.validation), len(data.test)] == [600, 40, 160]


def test_batches_of_a_text_go_on_where_they_stopped(tmp_path: Path) -> None:
    text = torch.arange(101)
    batches = TextBatches(text, rows=4, length=7, seed=1, consecutive=True)
    for step in range(40):
        inputs, targets = batches[step]
        assert torch.equal(targets, (inputs + 1) % 101)
        assert torch.equal(batches[step + 1][0][:, 0], targets[:, -1])
    starts = batches[0][0][:, 0]
    assert torch.equal((starts - starts[0]) % 101, torch.tensor([0, 25, 50, 75]))
    scattered = TextBatches(text, rows=4, length=7, seed=1, consecutive=False)
    assert torch.equal(scattered[5][0], scattered[5][0])
    assert not torch.equal(scattered[5][0], scattered[6][0])


def test_judging_a_text_leaves_the_memory_alone(tmp_path: Path) -> None:
    data = text_source(tmp_path).load(tmp_path)
    kind, model = NextSymbol(6, consecutive=True), CharLSTM(10, rows=5, width=8).eval()
    with torch.no_grad():
        model(data.train[:25].view(5, 5))
        before = model.hidden.clone()
        first = kind.measure(model, data, "test")
        assert torch.equal(model.hidden, before)
        assert kind.measure(model, data, "test") == first
        model.forget()
        rows = (len(data.test) - 1) // 5
        inputs = data.test[: 5 * rows].view(5, rows)
        targets = data.test[1 : 5 * rows + 1].view(5, rows)
        scores = model(inputs).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(scores, targets.flatten()).item()
    assert first[0] == pytest.approx(expected, rel=1e-5)


def test_a_recurrent_network_learns_the_alphabet(tmp_path: Path) -> None:
    source = text_source(tmp_path)
    task = dataclasses.replace(
        TASKS["warpeace-lstm"],
        data=source,
        model=lambda: CharLSTM(10, rows=5, width=16, dropout=0.1),
        batch_size=5,
        evaluations=3,
        kind=NextSymbol(10, consecutive=True),
    )
    run = train(task, source.load(tmp_path), find_optimizer("adam"), 0.03, 0, Settings(90))
    assert run.final.test_accuracy > 0.95


@pytest.mark.parametrize(
    ("text", "symbols", "message"),
    [
        (None, 10, r"no text.txt in .*: download https://example.org/text.txt as FOLDER/text.txt and give --data-dir"),
        (TEXT + "k", 10, "11 different ones, expected at least 120 and at most 10 different ones"),
        ("ab", 10, "has 2 symbols"),
    ],
)
def test_a_text_that_is_missing_or_another(tmp_path: Path, text: str | None, symbols: int, message: str) -> None:
    source = text_source(tmp_path, text or "", symbols)
    if text is None:
        (tmp_path / "text.txt").unlink()
        assert source.whereabouts(tmp_path).startswith("missing")
    with pytest.raises(LabError, match=message):
        source.load(tmp_path)


def test_without_a_folder_the_text_is_asked_for() -> None:
    with pytest.raises(LabError, match=r"no war-and-peace/warpeace_input.txt in any folder .*download https://"):
        TASKS["warpeace-lstm"].data.load(None)


@pytest.mark.skipif("VARIGRAD_DATA" not in os.environ, reason="needs the folder VARIGRAD_DATA")
def test_war_and_peace_has_83_symbols() -> None:
    data = TASKS["warpeace-lstm"].data.load(Path(os.environ["VARIGRAD_DATA"]))
    assert len(data.alphabet) == 83
    assert len(data.train) + len(data.validation) + len(data.test) == 3_258_228


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith(("sqp", "hilbert", "ripples"))])
def test_gradients_of_a_problem_are_those_of_its_formula(name: str) -> None:
    task = TASKS[name]
    torch.manual_seed(0)
    model = task.model()
    inputs, targets = task.kind.batches(task.data.load(None), task.batch_size, 0, 0)[3]
    task.kind.loss(model, inputs, targets).backward()
    (parameter,) = model.parameters()
    theta = parameter.detach().double().flatten()
    if name.startswith("sqp"):
        problem = task.kind.problem
        expected = problem.curvature @ (theta - problem.noise * inputs[0].double())
    elif name == "hilbert":
        matrix = torch.tensor([[1 / (i + j + 1) for i in range(10)] for j in range(10)], dtype=torch.float64)
        expected = 2 * matrix.T @ (matrix @ theta - 0.05)
    else:
        expected = (rippled(theta + 1e-6) - rippled(theta - 1e-6)) / 2e-6
    assert torch.allclose(parameter.grad.double().flatten(), expected, rtol=1e-4, atol=1e-5)


def test_the_twelve_problems_share_spectra_and_axes() -> None:
    still, loud = stochastic_quadratic("ill", True, 0.0), stochastic_quadratic("ill", True, 4.0)
    assert torch.equal(still.curvature, loud.curvature)
    aligned = stochastic_quadratic("ill", False, 0.0)
    assert torch.allclose(torch.linalg.eigvalsh(still.curvature), aligned.curvature.diagonal().sort().values)


def test_progress_of_a_problem_is_the_share_of_the_excess_that_is_gone() -> None:
    run = train(TASKS["sqp-mild-aligned-0"], TASKS["sqp-mild-aligned-0"].data, OPTIMIZERS["sgd"], 0.1, 0, Settings(400))
    assert run.final.test_accuracy > 0.99
    assert run.evaluations[0].test_accuracy < run.final.test_accuracy
    assert run.final.test_loss < 0.01 * run.evaluations[0].test_loss


def test_a_run_goes_on_to_the_bit_with_dropout_and_memory(tmp_path: Path) -> None:
    source = text_source(tmp_path)
    task = dataclasses.replace(
        TASKS["warpeace-lstm"],
        data=source,
        model=lambda: CharLSTM(10, rows=5, width=8, dropout=0.3),
        batch_size=5,
        evaluations=4,
        kind=NextSymbol(6, consecutive=True),
    )
    arguments = task, source.load(tmp_path), find_optimizer("vsgd"), 0.01, 5, Settings(12)
    whole = train(*arguments)

    class Killed:
        """Keeps what is saved after the seventh step, and dies."""

        steps = 0

        def load(self):
            return None

        def due(self):
            self.steps += 1
            return self.steps == 7

        def save(self, state):
            torch.save(state, tmp_path / "run.pt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*arguments, checkpoints=Killed())
    torch.manual_seed(99)
    resumed = Killed()
    resumed.load, resumed.due = lambda: torch.load(tmp_path / "run.pt"), lambda: False
    assert train(*arguments, checkpoints=resumed).evaluations == whole.evaluations


def test_everything_is_trained_on_when_asked() -> None:
    seen = []

    class Spy:
        def batches(self, data, batch_size, seed, pad):
            seen.append(len(data.train))
            return TASKS["digits"].kind.batches(data, batch_size, seed, pad)

        def __getattr__(self, name):
            return getattr(TASKS["digits"].kind, name)

    task = dataclasses.replace(TASKS["digits"], kind=Spy())
    train(task, DIGITS, OPTIMIZERS["sgd"], 0.01, 0, Settings(1))
    train(task, DIGITS, OPTIMIZERS["sgd"], 0.01, 0, Settings(1, everything=True))
    assert seen == [1000, 1297]


def test_the_squared_weights_are_added_to_the_loss_and_biases_are_not() -> None:
    gradients = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            gradients.append([(p.detach().clone(), p.grad.clone()) for p in self.param_groups[0]["params"]])

    row = dataclasses.replace(OPTIMIZERS["sgd"], optimizer=Recording, arguments={})
    for task in (TASKS["digits"], dataclasses.replace(TASKS["digits"], l2=0.25)):
        train(task, DIGITS, row, 0.1, 0, Settings(1))
    for (p, plain), (_, penalised) in zip(*gradients, strict=True):
        assert torch.allclose(penalised, plain + (0.25 * p if p.dim() > 1 else 0), atol=1e-6)


def test_schedules_are_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    onecycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=50)
    factor = schedules.factor("onecycle", 50)
    for step in range(50):
        assert 0.1 * factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        onecycle.step() if step < 49 else None


@pytest.mark.parametrize("wrong", ["drops:", "drops:5=0.1,3=0.2", "drops:5=-1", "drops:x=1", "linear", "drops:0=1"])
def test_schedules_that_do_not_exist_are_refused(wrong: str) -> None:
    with pytest.raises(LabError, match="does not exist"):
        schedules.factor(wrong, 10)


TASK_FILE = """
import functools
from varigrad.lab.data import Digits
from varigrad.lab.models.mlp import mlp
from varigrad.lab.tasks import Task

line = Task("my-line", "digits, one line", Digits(), functools.partial(mlp, 64, 10), 32, 20, 1, 0.5)
"""


def test_a_task_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK_FILE)
    assert find_task(str(file)).name == f"{file}:my-line"
    assert find_task(f"{file}:my-line").steps == 20
    with pytest.raises(LabError, match=r"unknown task of .*mine.py 'your-line': did you mean 'my-line'"):
        find_task(f"{file}:your-line")
    file.write_text(TASK_FILE + "other = Task('other', '', Digits(), mlp, 1, 1, 1, 0.5)\n")
    with pytest.raises(LabError, match=r"has several tasks: say which \(.*mine.py:my-line, .*mine.py:other\)"):
        find_task(str(file))
    file.write_text(TASK_FILE.replace("line = Task(", "TASKS = (Task(") + ",)\n")
    assert find_task(f"{file}:my-line").steps == 20
    file.write_text("x = 1")
    with pytest.raises(LabError, match="has no task"):
        find_task(str(file))
    file.write_text("1 / 0")
    with pytest.raises(LabError, match="fails: ZeroDivisionError"):
        find_task(str(file))
    with pytest.raises(LabError, match=r"no file .*missing.py"):
        find_task(str(tmp_path / "missing.py"))


class Entry:
    name, value = "mine", "package:tasks"

    def __init__(self, loaded: object) -> None:
        self.loaded = loaded

    def load(self) -> object:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def test_tasks_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = dataclasses.replace(TASKS["digits"], name="mine")

    def install(*loaded: object) -> None:
        monkeypatch.setattr(own, "entry_points", lambda group: [Entry(item) for item in loaded])

    install([mine])
    assert find_task("mine") is mine
    with pytest.raises(LabError, match="unknown task 'min': did you mean 'mine'"):
        find_task("min")
    install(TASKS["digits"])
    with pytest.raises(LabError, match="there is a task called digits already"):
        find_task("mine")
    install("mine")
    with pytest.raises(LabError, match=r"mine = package:tasks of varigrad.tasks is str, expected a Task"):
        find_task("mine")
    install(ImportError("no package"))
    with pytest.raises(LabError, match="fails: ImportError: no package"):
        find_task("mine")
