import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from varigrad.lab.data import Digits
from varigrad.lab.engines.here import Here
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Evaluation, Run, Settings
from varigrad.lab.tuning import scores
from varigrad.lab.tuning.grids import GRIDS, find_grid
from varigrad.lab.tuning.space import Axis, Point, axes, halton
from varigrad.lab.tuning.targets import by_procedure
from varigrad.lab.tuning.tune import Trial, Tuned, Tuning, tune

from .made_runs import diverged, run


def radical_inverse(number: int, base: int = 2) -> float:
    value, share = 0.0, 1.0
    while number:
        share /= base
        number, digit = divmod(number, base)
        value += digit * share
    return value


def test_halton_points_are_a_scrambled_radical_inverse() -> None:
    """In base 2 a scrambling flips digits: differences of neighbours keep their size, and halves stay halves."""
    points = halton([Axis("lr", 1e-4, 1e-1)], 16, study=3)
    shares = [math.log(point.lr / 1e-4) / math.log(1e3) for point in points]
    assert sorted(int(16 * share) for share in shares) == list(range(16))  # one in every sixteenth
    assert sorted(int(4 * share) for share in shares[:4]) == list(range(4))
    flips = {int(16 * share) ^ int(16 * radical_inverse(number)) for number, share in enumerate(shares)}
    assert len(flips) < 16 or shares != sorted(shares)


def test_every_optimizer_gets_the_same_points_of_its_own_space() -> None:
    spaces = {name: axes(row, ["lr", "weight-decay"]) for name, row in OPTIMIZERS.items()}
    found = {name: halton(space, 16, study=0) for name, space in spaces.items()}
    assert {len(points) for points in found.values()} == {16}
    for name, points in found.items():
        low, high = OPTIMIZERS[name].rates[0], OPTIMIZERS[name].rates[-1]
        assert all(low <= point.lr <= high and 1e-5 <= point.weight_decay <= 1e-1 for point in points)
        shares = [math.log(point.lr / low) / math.log(high / low) for point in points]
        expected = [math.log(point.lr / 1e-4) / math.log(1e3) for point in found["adamw"]]
        assert shares == pytest.approx(expected, abs=1e-4)
    assert halton(spaces["sgd"], 4, study=0) == found["sgd"][:4]
    assert halton(spaces["sgd"], 4, study=1) != found["sgd"][:4]


def test_a_space_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match="unknown axis 'momentum'"):
        axes(OPTIMIZERS["sgd"], ["lr", "momentum"])
    with pytest.raises(LabError, match="--space weight-decay: not a space"):
        axes(OPTIMIZERS["sgd"], ["weight-decay"])


def test_the_papers_grids_have_as_many_points_as_the_papers_say() -> None:
    assert {name: len(points) for name, points in GRIDS["vsgd/table1"].points.items()} == {
        "vsgd": 8,
        "adam": 4,
        "adamw": 4,
        "sgd": 8,
    }
    p4 = find_grid("dissecting-adam/fig5-p4").points
    assert (p4["msgd"][0].lr, p4["msgd"][-1].lr, len(p4["msgd"])) == (10.0, 0.06, 8)
    assert {point.arguments.get("momentum") for point in GRIDS["vsgd/table1"].points["sgd"]} == {0.9, 0.99}
    assert {point.weight_decay for point in GRIDS["vsgd/table1"].points["vsgd"]} == {0.0, 0.01}
    assert "adabayes/table1" not in GRIDS  # one setting each: nothing was chosen
    with pytest.raises(LabError, match="tried nothing with vsgd"):
        find_grid("dissecting-adam/fig5-p4").of(OPTIMIZERS["vsgd"])
    with pytest.raises(LabError, match="unknown grid 'vsgd/tabel1': did you mean 'vsgd/table1'"):
        find_grid("vsgd/tabel1")


def test_trials_then_the_winner_with_paired_seeds(tmp_path: Path) -> None:
    engine = Here(lambda task: Digits().load(None), Store(tmp_path))
    points = [
        (OPTIMIZERS["sgd"], [Point(1e-3), Point(0.1, 0.01, {"momentum": 0.5})]),
        (OPTIMIZERS["adamw"], [Point(3e-3)]),
    ]
    told: list[Tuned] = []
    plans: list[int] = []
    found = tune(
        TASKS["digits"], points, [4, 1000], Settings(40), engine, on_tuned=told.append, on_plan=plans.append
    )  # fmt: skip
    assert plans == [3 + 4]
    assert (found.trial_seed, found.seeds) == (1001, (4, 1000))
    assert told == list(found.tuned)
    sgd, adamw = found.tuned
    assert [(trial.point.lr, trial.run.lr, trial.run.seed) for trial in sgd.trials] == [
        (1e-3, 1e-3, 1001),
        (0.1, 0.1, 1001),
    ]
    assert sgd.winner.point == points[0][1][1]
    assert [(run.lr, run.seed) for run in sgd.runs] == [(0.1, 4), (0.1, 1000)]
    assert [(run.lr, run.seed) for run in adamw.runs] == [(3e-3, 4), (3e-3, 1000)]
    kept = [entry.specification for entry in Store(tmp_path).entries() if entry.specification.optimizer == "sgd"]
    assert len(kept) == 4
    assert {(s.arguments["momentum"], s.settings["weight_decay"]) for s in kept if s.lr == 0.1} == {(0.5, 0.01)}
    again = tune(TASKS["digits"], points, [4, 1000], Settings(40), engine)
    assert again.tuned == found.tuned  # nothing is made twice


def test_the_test_part_has_no_say() -> None:
    trials = (
        Trial(Point(0.1), run(0.1, validation=0.3, test=0.1)),
        Trial(Point(0.2), run(0.2, validation=0.2, test=0.9)),
    )
    assert Tuned(OPTIMIZERS["sgd"], trials, ()).winner is trials[1]
    lost = (Trial(Point(0.1), diverged(0.1)), Trial(Point(0.2), run(0.2, validation=9.0)))
    assert Tuned(OPTIMIZERS["sgd"], lost, ()).winner is lost[1]


def test_a_winner_on_the_edge_is_told() -> None:
    def edges(best: int, decays=(0.0, 0.1, 0.0)) -> tuple[str, ...]:
        points = [Point(lr, decay) for lr, decay in zip((0.3, 0.1, 0.2), decays, strict=True)]
        trials = [Trial(p, run(p.lr, validation=0.0 if i == best else 1.0)) for i, p in enumerate(points)]
        return Tuned(OPTIMIZERS["sgd"], tuple(trials), ()).edges

    assert [edges(best) for best in range(3)] == [("lr",), ("lr",), ()]
    assert edges(2, (0.0, 0.1, 0.2)) == ("weight_decay",)


def reaching(step: float, seed: int) -> Run:
    """A run that reaches an accuracy of 0.9 at a step, a hundredth of a second each; never where it is infinite."""
    stops = [step, 1000] if math.isfinite(step) else [1000]
    evaluations = tuple(
        Evaluation(int(stop), 0.1, 0.1, 0.5, 0.1, 0.95 if math.isfinite(step) else 0.5) for stop in stops
    )
    return Run(0.1, seed, evaluations, False, 0.1, 100.0, 8.0, tuple(stop / 100 for stop in stops))


def tuning(**steps: list[float]) -> Tuning:
    tuned = [
        Tuned(OPTIMIZERS[name], (Trial(Point(0.1), run(0.1)),), tuple(reaching(s, i) for i, s in enumerate(row)))
        for name, row in steps.items()
    ]
    seeds = tuple(range(len(next(iter(steps.values())))))
    return Tuning(TASKS["digits"], Settings(1000), seeds, 1000, 0.9, tuple(tuned), 1.0)


def test_time_to_target_in_steps_and_in_seconds() -> None:
    (tuned,) = tuning(sgd=[100, math.inf, 300]).tuned
    assert scores.times(tuned, 0.9, "steps").tolist() == [100, math.inf, 300]
    assert scores.times(tuned, 0.9, "seconds").tolist() == [1, math.inf, 3]
    assert scores.times(tuned, 0.99, "steps").tolist() == [math.inf] * 3


def test_a_performance_profile() -> None:
    one = tuning(adamw=[100, 100, math.inf, math.inf], sgd=[200, 50, 100, math.inf])
    found = scores.profile([one], "steps")
    assert found["adamw"] == ([1.0, 2.0], [0.25, 0.5])  # half of the seeds never: it ends below one
    assert found["sgd"] == ([1.0, 2.0], [0.5, 0.75])
    two = tuning(adamw=[100], sgd=[400])
    both = scores.profile([one, two], "steps")
    assert both["sgd"] == ([1.0, 2.0, 4.0], [0.25, 0.375, 0.875])  # the tasks count equally, not the seeds


def test_the_ratio_is_that_of_the_medians_and_its_interval_is_paired() -> None:
    noisy = [100.0, 200.0, 300.0, 400.0, 500.0]
    paired = scores.ratio([tuning(adamw=noisy, sgd=[2 * t for t in noisy])], "sgd", "steps")
    assert (paired.mean, paired.low, paired.high) == pytest.approx((2, 2, 2))  # the noise is common to both
    unpaired = scores.ratio([tuning(adamw=noisy, sgd=[2 * t for t in reversed(noisy)])], "sgd", "seconds")
    assert unpaired.mean == pytest.approx(2)
    assert unpaired.low < 1.2 < 3 < unpaired.high
    two = scores.ratio([tuning(adamw=[100], sgd=[200]), tuning(adamw=[100], sgd=[800])], "sgd", "steps")
    assert two.mean == pytest.approx(4)
    never = scores.ratio([tuning(adamw=[100] * 5, sgd=[math.inf] * 3 + [50] * 2)], "sgd", "steps")
    assert (never.mean, never.high) == (math.inf, math.inf)
    assert never.low == pytest.approx(0.5)
    neither = scores.ratio([tuning(adamw=[math.inf], sgd=[math.inf])], "sgd", "steps")
    assert (neither.mean, neither.low, neither.high) == (1, 1, 1)
    assert scores.ratio([tuning(vsgd=[1], sgd=[1])], "sgd", "steps") is None


def test_a_bootstrap_interval_covers_as_often_as_it_says() -> None:
    """Medians of 20 pairs, log-normal with a true ratio of 1.5: 95 % intervals, of 100 about 95 cover."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        common = generator.lognormal(5, 0.3, 20)
        ours = 1.5 * common * generator.lognormal(0, 0.1, 20)
        found = scores.ratio([tuning(adamw=np.ceil(common).tolist(), sgd=np.ceil(ours).tolist())], "sgd", "steps")
        covered += found.low <= 1.5 <= found.high
    assert 88 <= covered <= 100


def falling(losses: list[float], seed: int = 0) -> Run:
    """A run with these validation losses at steps 100, 200, ...; infinite: it diverged."""
    evaluations = tuple(Evaluation(100 * (i + 1), 0.1, loss, 0.5, 0.1, 0.5) for i, loss in enumerate(losses))
    return Run(
        0.1, seed, evaluations, math.isinf(losses[-1]), 0.1, 100.0, 8.0, tuple(float(i) for i in range(len(losses)))
    )


def against(theirs: list[list[float]], ours: list[list[float]], glance: int | None = None) -> Tuning:
    """AdamW's losses and another's, seed by seed."""
    trial = (Trial(Point(0.1), run(0.1)),)
    tuned = [
        Tuned(OPTIMIZERS[name], trial, tuple(falling(losses, seed) for seed, losses in enumerate(rows)))
        for name, rows in (("adamw", theirs), ("vsgd", ours))
    ]
    task = dataclasses.replace(TASKS["digits"], glance=glance)
    return Tuning(task, Settings(400), tuple(range(len(theirs))), 1000, 0.9, tuple(tuned), 1.0)


def test_the_share_of_steps_to_the_loss_that_adamw_ends_with() -> None:
    inf = math.inf
    theirs = [[4, 3, 2, 1], [4, 3, 2, 1], [4, 1, 3, 2], [4, 3, 2, 1], [4, inf], [4, inf]]
    ours = [[2, 1, 1, 1], [9, 9, 9, 1.1], [2, 2, 2, 2], [1, inf], [4, 3, 3, 3], [inf]]
    found = against(theirs, ours)
    assert scores.shares(found, found.tuned[1]).tolist() == [
        0.5,
        inf,
        0.5,
        inf,
        0,
        1,
    ]  # of the third: its own 200 steps
    assert scores.shares(found, found.tuned[0]).tolist() == [1] * 6
    alone = dataclasses.replace(found, tuned=found.tuned[1:])
    assert scores.shares(alone, found.tuned[1]) is None
    assert scores.share([alone], "vsgd") is None


def test_with_a_glance_the_last_evaluation_is_another_yardstick() -> None:
    """It alone sees all samples, here with a loss that the glance never shows."""
    losses = [[4, 3, 2, 2.5]], [[3, 2, 1, 2.4]]
    assert scores.shares(against(*losses), against(*losses).tuned[1]).tolist() == [2 / 3]  # 2.5: at 200, and at 300
    short = against(*losses, glance=10)
    assert scores.shares(short, short.tuned[1]).tolist() == [2 / 3]  # 2: at 200, and at 300
    late = against([[4, 3, 2, 0.5]], [[4, 4, 2.1, 0.4]], glance=10)
    assert scores.shares(late, late.tuned[1]).tolist() == [math.inf]


def test_shares_over_tasks_are_a_geometric_mean_with_a_paired_interval() -> None:
    half, twice = [[4, 3, 2, 1]], [[2, 1, 1, 1]]
    both = scores.share([against(half, twice), against(half, [[1, 1, 1, 1]])], "vsgd")
    assert (both.mean, both.low, both.high) == pytest.approx((math.sqrt(0.5 * 0.25),) * 3)
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        step = generator.integers(0, 8, 15)
        rows = [[2.0] * int(count) + [0.5] * (10 - int(count)) for count in step]
        found = scores.share([against([[2.0] * 9 + [1.0]] * 15, rows)], "vsgd")
        covered += found.low <= 0.45 <= found.high  # the median of (step + 1) / 10 over all steps is 0.4 to 0.5
    assert covered >= 32


def test_several_studies_have_a_winner_each_and_medians_over_them(tmp_path: Path) -> None:
    engine = Here(lambda task: Digits().load(None), Store(tmp_path))
    row = OPTIMIZERS["sgd"]
    studies = [[(row, [Point(0.001), Point(0.1)])], [(row, [Point(0.01), Point(0.1)])], [(row, [Point(0.003)])]]
    plans: list[int] = []
    told: list[None] = []
    found = tune(
        TASKS["digits"], studies[0], [0, 1], Settings(40), engine, 0.5, further=studies[1:],
        on_plan=plans.append, on_run=lambda: told.append(None),
    )  # fmt: skip
    (sgd,) = found.tuned
    assert [study.winner.point.lr for study in sgd.studies] == [
        0.1,
        0.1,
        0.003,
    ]  # the first two hit upon the same point
    assert [len(study.runs) for study in sgd.studies] == [2, 2, 2]
    assert sgd.studies[0].runs == sgd.studies[1].runs
    assert plans == [len(told)] == [5 + 6]
    assert len(Store(tmp_path).entries()) == 4 + 4  # nothing is made twice
    assert [trial.point.lr for trial in sgd.all_trials] == [0.001, 0.1, 0.01, 0.1, 0.003]
    single = [scores.times(study, 0.5, "steps") for study in sgd.studies]
    assert scores.times(sgd, 0.5, "steps").tolist() == np.median(single, axis=0).tolist()
    assert sgd.rung.runs == tuple(run for study in sgd.studies for run in study.runs)


def test_a_target_by_procedure_is_the_best_median_of_the_references(tmp_path: Path) -> None:
    engine = Here(lambda task: Digits().load(None), Store(tmp_path))
    task = dataclasses.replace(TASKS["digits"], evaluations=1)
    found = by_procedure(task, 1, ["lr"], 2, [0, 2003], Settings(60), engine)
    runs: dict[tuple[str, float], dict[int, Run]] = {}
    for entry in Store(tmp_path).entries():
        runs.setdefault((entry.specification.optimizer, entry.specification.lr), {})[entry.specification.seed] = (
            entry.run
        )
    medians = {}
    for name in ("sgd", "adam", "adamw"):
        own = {lr: seeds for (optimizer, lr), seeds in runs.items() if optimizer == name}
        assert list(map(len, own.values())).count(1) == 3  # four trials, of which one won
        (winner,) = (seeds for seeds in own.values() if len(seeds) > 1)
        best = min(own.values(), key=lambda seeds: seeds[1000].final.validation_loss)
        assert best is winner
        judged = [run.final.test_accuracy for seed, run in winner.items() if seed != 1000]
        assert sorted(winner) == [1000, 2000, 2001, 2002, *range(2004, 2011)]  # ten, none of the two
        medians[name] = np.median(judged)
    assert found.accuracy == max(medians.values())
    assert f"10 runs of {max(medians, key=medians.get)}, the best of sgd, adam, adamw after 4 trials" in found.origin


def test_what_a_smaller_budget_would_have_found() -> None:
    losses = [0.5, 0.1, 0.9, math.inf, 0.3]
    trials = [Trial(Point(0.1), dataclasses.replace(run(0.1, validation=loss))) for loss in losses]
    tuned = Tuned(OPTIMIZERS["sgd"], tuple(trials), ())
    for budget in range(1, 6):
        lowest = sorted(min(choice) for choice in itertools.combinations(losses, budget))
        assert scores.best_of(tuned, budget) == lowest[(len(lowest) - 1) // 2]
