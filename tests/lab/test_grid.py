from varigrad.lab.comparison import Contender
from varigrad.lab.data import Digits
from varigrad.lab.engines.jobs import Progress
from varigrad.lab.grid import compare
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings

ROWS = [OPTIMIZERS["sgd"], OPTIMIZERS["vsgd"]]


def test_every_optimizer_every_rate_every_seed() -> None:
    progress: list[Progress] = []
    finished: list[Contender] = []
    comparison = compare(
        TASKS["digits"],
        Digits().load(None),
        ROWS,
        seeds=[3, 1],
        settings=Settings(2),
        rates=[0.1, 0.01],
        on_progress=progress.append,
        on_contender=finished.append,
    )
    assert [contender.row.name for contender in comparison.contenders] == ["sgd", "vsgd"]
    for contender in comparison.contenders:
        tried = [(rung.lr, run.lr, run.seed) for rung in contender.rungs for run in rung.runs]
        assert tried == [(0.01, 0.01, 3), (0.01, 0.01, 1), (0.1, 0.1, 3), (0.1, 0.1, 1)]
    assert finished == list(comparison.contenders)
    assert comparison.rates == (0.01, 0.1)
    assert [(p.job.lr, p.job.seed, p.evaluation.step) for p in progress[:3]] == [
        (0.01, 3, 1),
        (0.01, 3, 2),
        (0.01, 1, 1),
    ]
    assert len(progress) == 16


def test_a_ladder_is_extended_and_the_plan_with_it() -> None:
    plans: list[int] = []
    # Four steps are few: the highest rates of SGD's ladder, reached only by adding to it, are the best.
    row = OPTIMIZERS["sgd"]
    short = type(row)(row.name, row.optimizer, row.summary, row.source, (1e-4, 3e-4), row.arguments)
    comparison = compare(TASKS["digits"], Digits().load(None), [short], [0], Settings(4), on_plan=plans.append)
    (contender,) = comparison.contenders
    assert [rung.lr for rung in contender.rungs] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert contender.on_edge
    assert comparison.rates is None
    assert plans == [2, 3, 4, 5]
