import math
import statistics

from varigrad.lab.spread import Spread

from .made_runs import contender, diverged, run


def test_the_rate_is_chosen_on_validation_and_reported_on_test() -> None:
    best = contender(
        "adamw",
        {
            0.01: [run(0.01, validation=0.3, test=0.1, accuracy=0.99)],
            0.03: [run(0.03, validation=0.2, test=0.8, accuracy=0.70)],
            0.1: [run(0.1, validation=0.4, test=0.2, accuracy=0.95)],
        },
    ).best
    assert best.lr == 0.03
    assert best.test_loss.mean == 0.8
    assert best.test_accuracy.mean == 0.70


def test_the_mean_over_the_seeds_decides() -> None:
    rungs = {
        0.01: [run(0.01, 0, validation=0.1), run(0.01, 1, validation=0.9)],
        0.03: [run(0.03, 0, validation=0.4), run(0.03, 1, validation=0.4)],
    }
    assert contender("adamw", rungs).best.lr == 0.03


def test_a_diverged_seed_ranks_a_rung_last_and_is_never_dropped() -> None:
    rungs = {
        0.01: [run(0.01, 0, validation=2.0), run(0.01, 1, validation=2.0)],
        0.03: [run(0.03, 0), diverged(0.03, 1)],
    }
    tested = contender("adamw", rungs)
    assert tested.best.lr == 0.01
    assert tested.rungs[1].diverged == 1
    assert tested.rungs[1].test_loss == Spread(math.inf, None)
    assert tested.rungs[1].test_accuracy.mean == 0.45


def test_equal_losses_are_settled_by_accuracy() -> None:
    rungs = {0.01: [run(0.01, accuracy=0.8)], 0.03: [run(0.03, accuracy=0.9)]}
    assert contender("adamw", rungs).best.lr == 0.03


def test_the_edge() -> None:
    rates = (0.01, 0.03, 0.1)
    for winner, expected in zip(rates, (True, False, True), strict=True):
        rungs = {lr: [run(lr, validation=0.1 if lr == winner else 0.5)] for lr in rates}
        assert contender("adamw", rungs).on_edge is expected
    assert contender("adamw", {0.01: [run(0.01)]}).on_edge is False


def test_steps_to_the_target() -> None:
    rung = contender("adamw", {0.01: [run(0.01, 0, accuracy=0.9), run(0.01, 1, accuracy=0.5), run(0.01, 2)]}).best
    assert rung.steps_to(0.9) == (20, 2)
    assert rung.steps_to(0.45) == (10, 3)
    assert rung.steps_to(0.91) == (math.inf, 0)
    half = contender("adamw", {0.01: [run(0.01, 0, accuracy=0.9), run(0.01, 1, accuracy=0.5)]}).best
    assert half.steps_to(0.9) == (math.inf, 1)  # half the seeds never got there: no median


def test_best_is_the_highest_on_the_way() -> None:
    falling = run(0.01, accuracy=0.9)
    assert falling.best_test_accuracy == 0.9
    assert diverged(0.01).best_test_accuracy == 0.0


def test_spread() -> None:
    values = [0.1, 0.2, 0.6]
    spread = Spread.of(values)
    assert math.isclose(spread.mean, 0.3)
    assert math.isclose(spread.std, statistics.stdev(values))
    assert spread.text(2) == "0.30 ± 0.26"
    assert spread.text(1, scale=100) == "30.0 ± 26.5"
    assert Spread.of([0.5]).text(3) == "0.500"
    assert Spread.of([0.5, math.inf]).text(3) == "∞"
