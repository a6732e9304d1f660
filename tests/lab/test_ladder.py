from collections.abc import Callable

import pytest

from varigrad.lab.comparison import Contender, Rung
from varigrad.lab.grid import extension
from varigrad.lab.ladder import above, below, ladder
from varigrad.lab.optimizers import OPTIMIZERS

from .made_runs import contender, diverged, run


def test_rungs_are_the_exact_decimal_numbers() -> None:
    assert ladder(1e-4, 1e-1) == (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
    assert ladder(0.3, 3.0) == (0.3, 1.0, 3.0)
    assert (below(1e-4), above(1e-1), above(3.0)) == (3e-5, 0.3, 10.0)


def test_what_is_no_rung_is_refused() -> None:
    for wrong in (0.002, 0.0031, 5.0, 0.9999):
        with pytest.raises(ValueError, match=f"not a rung of the ladder: {wrong}"):
            above(wrong)


def test_every_optimizer_has_an_equal_budget() -> None:
    assert {len(row.rates) for row in OPTIMIZERS.values()} == {7}


def extended(start: Contender, rung: Callable[[float], Rung]) -> Contender:
    """The contender at the end of its climb."""
    ladder = [rung.lr for rung in start.rungs]
    while (lr := extension(start, ladder)) is not None:
        start = Contender(start.row, tuple(sorted((*start.rungs, rung(lr)), key=lambda rung: rung.lr)))
    return start


def climb(minimum: float) -> tuple[list[float], bool]:
    """The rates tried, and the edge mark, where loss falls towards the rate `minimum`."""

    def rung(lr: float) -> Rung:
        return Rung(lr, (run(lr, validation=abs(lr / minimum - 1)),))

    start = contender("adamw", {lr: rung(lr).runs for lr in (0.01, 0.03)})
    end = extended(start, rung)
    return [rung.lr for rung in end.rungs], end.on_edge


def test_a_winner_inside_stops_the_climb() -> None:
    assert climb(0.1) == ([0.01, 0.03, 0.1, 0.3], False)
    assert climb(0.003) == ([0.001, 0.003, 0.01, 0.03], False)


def test_a_winner_on_the_edge_after_three_more_is_marked() -> None:
    assert climb(1e6) == ([0.01, 0.03, 0.1, 0.3, 1.0], True)
    assert climb(1e-9) == ([0.0003, 0.001, 0.003, 0.01, 0.03], True)


def test_where_everything_diverges_the_climb_goes_down() -> None:
    start = contender("adamw", {0.01: [diverged(0.01)], 0.03: [diverged(0.03)]})
    end = extended(start, lambda lr: Rung(lr, (run(lr, validation=abs(lr - 0.001)) if lr < 0.005 else diverged(lr),)))
    assert end.best.lr == 0.001
    assert not end.best.diverged
