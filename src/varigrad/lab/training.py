"""One run: a task trained with one optimizer, one learning rate and one seed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from varigrad.lab import schedules
from varigrad.lab.checkpoint import Checkpoints, NoCheckpoints
from varigrad.lab.errors import LabError
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
        compiled: Whether training goes through `torch.compile`: a minute at the beginning, then shorter steps. Losses
            differ in their last digits. It is not for `svgd` and others that take the model.
        autocast: Whether training computes in bfloat16 what `torch.autocast` does, for speed. Weights, gradients and
            evaluations stay in float32, but a run is another one.
    """

    steps: int
    weight_decay: float = 0.0
    schedule: str = "cosine"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    everything: bool = False
    compiled: bool = False
    autocast: bool = False

    @property
    def manner(self) -> str:
        """For people, such as `"cosine schedule"`."""
        return f"{self.schedule} schedule{', autocast to bfloat16' if self.autocast else ''}"


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
        seconds: Seconds of training before each of the evaluations, which are not counted themselves.
    """

    lr: float
    seed: int
    evaluations: tuple[Evaluation, ...]
    diverged: bool
    optimizer_ms: float
    steps_per_second: float
    state_bytes: float
    seconds: tuple[float, ...] = ()

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

    def seconds_to(self, target: float) -> float | None:
        """Seconds of training before the first evaluation whose test accuracy is at least `target`."""
        pairs = zip(self.evaluations, self.seconds, strict=True)
        return next((seconds for e, seconds in pairs if e.test_accuracy >= target), None)


def train(
    task: Task,
    data: Any,
    row: OptimizerRow,
    lr: float,
    seed: int,
    settings: Settings,
    on_evaluation: Callable[[Evaluation, float], None] = lambda evaluation, steps_per_second: None,
    checkpoints: Checkpoints | None = None,
) -> Run:
    """Train once.

    Initial weights, batches and augmentation depend on the seed alone: every optimizer gets the same. The global
    random generators are left as they were.

    Args:
        task: What to train.
        data: The task's data, on `settings.device`.
        row: The optimizer.
        lr: Learning rate, above 0.
        seed: At least 0.
        settings: What all runs have in common.
        on_evaluation: Told every evaluation and the speed so far, in steps per second.
        checkpoints: Where the state is kept between two steps. What was kept there before is gone on from, to the
            bit: evaluations made before are not told again.

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
    device = settings.device
    with _seeded(seed):
        model = task.network(device)
        optimizer = row.build(model, lr, settings.weight_decay, task.batch_size, settings.steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor(task, row, settings))
        data = data.whole() if settings.everything else data
        glimpse = data if task.glance is None else glanced(task, data)
        batches, loss_of = task.kind.batches(data, task.batch_size, seed, task.pad), task.kind.loss
        penalty = _penalty(task, settings)
        forward: Any = torch.compile(model) if settings.compiled else model
        stops = _evenly(settings.steps, task.evaluations)
        evaluations: list[Evaluation] = []
        durations: list[float] = []  # of optimizer.step()
        trained: list[float] = []  # seconds before each evaluation
        seconds, total, reached = 0.0, torch.zeros((), device=device), 0
        checkpoints = checkpoints or NoCheckpoints()
        if (saved := checkpoints.load()) is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            scheduler.load_state_dict(saved["scheduler"])
            _set_random_state(saved["random"], device)
            evaluations = [Evaluation(**evaluation) for evaluation in saved["evaluations"]]
            durations, trained = saved["durations"].tolist(), saved["trained"]
            seconds, total, reached = saved["seconds"], saved["total"].to(device), saved["step"]
        remaining = list(zip([0, *stops], stops, strict=False))[len(evaluations) :]
        for start, stop in remaining:
            began = time.perf_counter()
            model.train()
            _set_mode(optimizer, "train")
            for step in range(max(start, reached), stop):
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
                    loss = loss_of(forward, *batches[step])
                optimizer.zero_grad()
                (loss if penalty is None else loss + penalty(model)).backward()  # type: ignore[no-untyped-call]
                durations.append(_timed_step(optimizer, device))
                scheduler.step()
                total += loss.detach()
                if checkpoints.due():
                    state = {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scheduler": scheduler.state_dict(),
                        "random": _random_state(device),
                        "evaluations": [asdict(evaluation) for evaluation in evaluations],
                        "durations": torch.tensor(durations, dtype=torch.float64),
                        "trained": trained,
                        "seconds": seconds + time.perf_counter() - began,
                        "total": total,
                        "step": step + 1,
                    }
                    checkpoints.save(state)
            train_loss = total.item() / (stop - start)  # one wait for the device; a single NaN shows in the sum
            total.zero_()
            seconds += time.perf_counter() - began
            trained.append(seconds)
            _set_mode(optimizer, "eval")
            evaluation = _evaluate(task, model, data if stop == settings.steps else glimpse, stop, train_loss)
            evaluations.append(evaluation)
            on_evaluation(evaluation, stop / seconds)
            if math.isinf(evaluation.train_loss):
                break
    return Run(
        lr=lr,
        seed=seed,
        evaluations=tuple(evaluations),
        diverged=math.isinf(evaluations[-1].train_loss),
        optimizer_ms=1e3 * statistics.median(durations),
        steps_per_second=evaluations[-1].step / seconds,
        state_bytes=_state_bytes(optimizer) / sum(p.numel() for p in model.parameters()),
        seconds=tuple(trained),
    )


def glanced(task: Task, data: Any) -> Any:
    """What the evaluations before the last one are given in place of all data.

    Raises:
        LabError: The data cannot be cut short.
    """
    assert task.glance is not None
    if not hasattr(data, "glance"):
        raise LabError(
            f"task {task.name}: glance={task.glance}, but its data ({type(data).__name__}) has no method glance(count) "
            "that gives the same with fewer samples to be judged by"
        )
    return data.glance(task.glance)


def _set_mode(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Schedule-free optimizers train at one point and are judged at another; others have no modes."""
    getattr(optimizer, mode, lambda: None)()


def _timed_step(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # else the backward pass still running would be counted
    began = time.perf_counter()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _evaluate(task: Task, model: nn.Module, data: Any, step: int, train_loss: float) -> Evaluation:
    model.eval()
    with torch.no_grad():
        validation_loss, validation_accuracy = task.kind.measure(model, data, "validation")
        test_loss, test_accuracy = task.kind.measure(model, data, "test")
    if not all(math.isfinite(loss) for loss in (train_loss, validation_loss, test_loss)):
        return Evaluation(step, math.inf, math.inf, 0.0, math.inf, 0.0)
    return Evaluation(step, train_loss, validation_loss, validation_accuracy, test_loss, test_accuracy)


def _penalty(task: Task, settings: Settings) -> Callable[[nn.Module], torch.Tensor] | None:
    """What is added to the loss: the task's own penalty, and that of its protocol."""
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


def _evenly(steps: int, evaluations: int) -> list[int]:
    return sorted({math.ceil(steps * (index + 1) / evaluations) for index in range(evaluations)})


def _factor(task: Task, row: OptimizerRow, settings: Settings) -> Callable[[int], float]:
    """What the learning rate is multiplied by in each step."""
    if settings.schedule == "paper" and task.protocol is not None:
        return task.protocol.factor(row.name, settings.steps / task.steps)
    if settings.schedule == "cosine" and row.schedule_free:
        return schedules.warm_up(settings.steps)
    return schedules.factor(settings.schedule, settings.steps)


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return _bytes({key: value for key, value in optimizer.state_dict().items() if key != "param_groups"})


def _bytes(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _random_state(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: Sequence[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
