"""One run: a task trained with one optimizer, one learning rate and one seed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from varigrad.lab import schedules
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.tasks.task import Task

SCHEDULES = ("cosine", "constant", "onecycle", "paper")  # and drops:STEP=FACTOR,...


@dataclass(frozen=True)
class Settings:
    """What all runs of a comparison have in common.

    Attributes:
        steps: Optimizer steps, at least 1.
        weight_decay: As each optimizer understands it, at least 0.
        schedule: `"cosine"` (short linear warm-up, then down to 0), `"constant"`, `"onecycle"`, `"drops:..."` (see
            `varigrad.lab.schedules`) or `"paper"` (the task's protocol).
        device: Where the data lies and the network is trained.
        everything: Whether the validation part is trained on, too, as the papers did: nothing can be chosen on it then.
    """

    steps: int
    weight_decay: float = 0.0
    schedule: str = "cosine"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    everything: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What a run looked like after `step` steps; losses are mean cross-entropies, accuracies between 0 and 1.

    The training loss is the mean over the batches since the evaluation before. Of a run that has diverged all
    losses are infinite and all accuracies 0.
    """

    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        lr: The learning rate (the schedule's highest).
        seed: What the initial weights, the order of the images and the augmentation were drawn from.
        evaluations: In the order of their steps; at least one.
        diverged: Whether a loss became infinite or undefined, which ends the run at the next evaluation.
        optimizer_ms: Median duration of `optimizer.step()`, in milliseconds.
        steps_per_second: Training alone, evaluations not counted.
        state_bytes: Bytes of optimizer state per parameter, at the end.
    """

    lr: float
    seed: int
    evaluations: tuple[Evaluation, ...]
    diverged: bool
    optimizer_ms: float
    steps_per_second: float
    state_bytes: float

    @property
    def final(self) -> Evaluation:
        """The last evaluation."""
        return self.evaluations[-1]

    @property
    def best_test_accuracy(self) -> float:
        """The highest test accuracy of all evaluations."""
        return max(evaluation.test_accuracy for evaluation in self.evaluations)

    def steps_to(self, target: float) -> int | None:
        """The step of the first evaluation whose test accuracy is at least `target`, if there is one."""
        return next((e.step for e in self.evaluations if e.test_accuracy >= target), None)


class Training:
    """A run underway, that can stop after any evaluation and go on elsewhere, to the bit.

    Initial weights, batches and augmentation depend on the seed alone: every optimizer gets the same. The global
    random generators are left as they were.

    Args:
        task: What to train.
        data: The task's data, on `settings.device`.
        row: The optimizer.
        lr: Learning rate, above 0.
        seed: At least 0.
        settings: What all runs have in common.

    Example:
        >>> from varigrad.lab.optimizers import find_optimizer
        >>> from varigrad.lab.tasks import find_task
        >>> task = find_task("digits")
        >>> arguments = task, task.data.load(None), find_optimizer("vsgd"), 0.01, 0, Settings(steps=48)
        >>> first, second = Training(*arguments), Training(*arguments)
        >>> for _ in range(3):
        ...     evaluation = first.advance()
        >>> second.load_state_dict(first.state_dict())
        >>> first.advance() == second.advance()
        True
    """

    def __init__(self, task: Task, data: Any, row: OptimizerRow, lr: float, seed: int, settings: Settings) -> None:
        self._task = task
        self._data = data.whole() if settings.everything else data
        self._lr = lr
        self._seed = seed
        self._device = settings.device
        with torch.random.fork_rng(devices=self._gpus()):
            torch.manual_seed(seed)
            self._model = task.model().to(settings.device)
            self._optimizer = row.build(self._model, lr, settings.weight_decay, task.batch_size)
            self._scheduler = torch.optim.lr_scheduler.LambdaLR(self._optimizer, _factor(task, row, settings))
            self._random = self._random_state()
        self._batches = task.kind.batches(self._data, task.batch_size, seed, task.pad)
        self._penalty = _penalty(task, settings)
        self._stops = _evenly(settings.steps, task.evaluations)
        self._evaluations: list[Evaluation] = []
        self._durations: list[float] = []
        self._seconds = 0.0

    @property
    def done(self) -> bool:
        """Whether the last step is done, or the run has diverged."""
        return len(self._evaluations) == len(self._stops) or self._diverged

    @property
    def _diverged(self) -> bool:
        return bool(self._evaluations) and math.isinf(self._evaluations[-1].train_loss)

    @property
    def steps_per_second(self) -> float:
        """The speed so far, evaluations not counted."""
        return self._evaluations[-1].step / self._seconds

    def advance(self) -> Evaluation:
        """Train up to the next evaluation and evaluate."""
        start, stop = self._evaluations[-1].step if self._evaluations else 0, self._stops[len(self._evaluations)]
        with torch.random.fork_rng(devices=self._gpus()):
            self._set_random_state(self._random)
            began = time.perf_counter()
            train_loss = self._train(start, stop)
            self._seconds += time.perf_counter() - began
            evaluation = self._evaluate(stop, train_loss)
            self._random = self._random_state()
        self._evaluations.append(evaluation)
        return evaluation

    def _train(self, start: int, stop: int) -> float:
        model, optimizer, loss_of, batches = self._model, self._optimizer, self._task.kind.loss, self._batches
        total = torch.zeros((), device=self._device)
        model.train()
        for step in range(start, stop):
            loss = loss_of(model, *batches[step])
            optimizer.zero_grad()
            penalised = loss if self._penalty is None else loss + self._penalty(model)
            penalised.backward()  # type: ignore[no-untyped-call]
            self._durations.append(_timed_step(optimizer, self._device))
            self._scheduler.step()
            total += loss.detach()
        return total.item() / (stop - start)  # one wait for the device; a single NaN shows in the sum

    def _evaluate(self, step: int, train_loss: float) -> Evaluation:
        self._model.eval()
        with torch.no_grad():
            validation_loss, validation_accuracy = self._task.kind.measure(self._model, self._data, "validation")
            test_loss, test_accuracy = self._task.kind.measure(self._model, self._data, "test")
        if not all(math.isfinite(loss) for loss in (train_loss, validation_loss, test_loss)):
            return Evaluation(step, math.inf, math.inf, 0.0, math.inf, 0.0)
        return Evaluation(step, train_loss, validation_loss, validation_accuracy, test_loss, test_accuracy)

    def result(self) -> Run:
        """The run so far; at least one evaluation must have been made."""
        return Run(
            lr=self._lr,
            seed=self._seed,
            evaluations=tuple(self._evaluations),
            diverged=self._diverged,
            optimizer_ms=1e3 * statistics.median(self._durations),
            steps_per_second=self.steps_per_second,
            state_bytes=_state_bytes(self._optimizer) / sum(p.numel() for p in self._model.parameters()),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers, lists and dictionaries."""
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "random": self._random,
            "evaluations": [asdict(evaluation) for evaluation in self._evaluations],
            "durations": list(self._durations),
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the run that `state_dict` was called on stood; it must have been made with the same arguments."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._random = state["random"]
        self._evaluations = [Evaluation(**evaluation) for evaluation in state["evaluations"]]
        self._durations = list(state["durations"])
        self._seconds = state["seconds"]

    def _gpus(self) -> list[int]:
        return list(range(torch.cuda.device_count())) if self._device.type == "cuda" else []

    def _random_state(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self._device)] if self._gpus() else [])]

    def _set_random_state(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._gpus():
            torch.cuda.set_rng_state(states[1], self._device)


def train(
    task: Task,
    data: Any,
    row: OptimizerRow,
    lr: float,
    seed: int,
    settings: Settings,
    on_evaluation: Callable[[Evaluation, float], None] = lambda evaluation, steps_per_second: None,
) -> Run:
    """Train once; see `Training`.

    Args:
        task: What to train.
        data: The task's data, on `settings.device`.
        row: The optimizer.
        lr: Learning rate, above 0.
        seed: At least 0.
        settings: What all runs have in common.
        on_evaluation: Told every evaluation and the speed so far, in steps per second.

    Example:
        >>> from varigrad.lab.optimizers import find_optimizer
        >>> from varigrad.lab.tasks import find_task
        >>> task = find_task("digits")
        >>> run = train(
        ...     task, task.data.load(None), find_optimizer("sgd"), lr=0.03, seed=0, settings=Settings(steps=300)
        ... )
        >>> run.final.test_accuracy > 0.9
        True
    """
    training = Training(task, data, row, lr, seed, settings)
    while not training.done:
        evaluation = training.advance()
        on_evaluation(evaluation, training.steps_per_second)
    return training.result()


def _penalty(task: Task, settings: Settings) -> Callable[[nn.Module], torch.Tensor] | None:
    """What is added to the loss: the task's own, and that of its protocol."""
    l1 = task.protocol.l1 if task.protocol and settings.schedule == "paper" else 0.0
    if not l1 and not task.l2:
        return None

    def penalty(model: nn.Module) -> torch.Tensor:
        parts = []
        if l1:
            parts.append(l1 * torch.stack([p.abs().sum() for p in model.parameters()]).sum())
        if task.l2:
            weights = [p for p in model.parameters() if p.dim() > 1]
            parts.append(0.5 * task.l2 * torch.stack([p.square().sum() for p in weights]).sum())
        return torch.stack(parts).sum()

    return penalty


def _timed_step(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # else the backward pass still running would be counted
    began = time.perf_counter()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _evenly(steps: int, evaluations: int) -> list[int]:
    return sorted({math.ceil(steps * (index + 1) / evaluations) for index in range(evaluations)})


def _factor(task: Task, row: OptimizerRow, settings: Settings) -> Callable[[int], float]:
    """What the learning rate is multiplied by in each step."""
    if settings.schedule == "paper" and task.protocol is not None:
        return task.protocol.factor(row.name, settings.steps / task.steps)
    return schedules.factor(settings.schedule, settings.steps)


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return _bytes({key: value for key, value in optimizer.state_dict().items() if key != "param_groups"})


def _bytes(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
