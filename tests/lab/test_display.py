import io

from rich.console import Console

from varigrad.lab.display import Display
from varigrad.lab.engines.jobs import Job, Progress
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Evaluation, Settings


def progress(worker: int, seed: int, step: int) -> Progress:
    job = Job(TASKS["digits"], OPTIMIZERS["sgd"], 0.01, seed, Settings(100))
    return Progress(job, worker, Evaluation(step, 0.5, 0.5, 0.875, 0.5, 0.9), 1234.0)


def test_a_bar_for_all_runs_and_one_for_each_worker() -> None:
    file = io.StringIO()
    with Display(Console(file=file, force_terminal=True, width=110, color_system=None)) as display:
        display.show_plan(4)
        display.show_run()
        display.show_progress(progress(0, 7, 50))
        display.show_progress(progress(1, 8, 25))
        display._bars.refresh()
    last = file.getvalue().split("all runs")[-1].splitlines()
    assert " 44%" in last[0]  # one run, a half and a quarter of four
    assert "1 of 4" in last[0]
    assert last[1].startswith("sgd, lr 0.01, seed 7 ")
    assert " 50% loss 0.5000  accuracy 87.5%  1,234 steps/s" in last[1]
    assert last[2].startswith("sgd, lr 0.01, seed 8 ")
    assert " 25% " in last[2]


def test_without_a_terminal_only_lines_that_stay() -> None:
    file = io.StringIO()
    with Display(Console(file=file, force_terminal=False, width=110)) as display:
        display.show_plan(4)
        display.show_progress(progress(0, 7, 50))
        display.say("one line")
    assert file.getvalue() == "one line\n"
