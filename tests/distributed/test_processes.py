"""What the other tests here rely on: that a rank which fails is heard, and one which hangs or dies too."""

import os
import signal

import pytest
from torch import distributed

from . import processes
from .processes import launch


def who():
    return distributed.get_rank(), distributed.get_world_size()


def fail_on_one():
    if distributed.get_rank() == 1:
        raise ValueError("not so")
    distributed.barrier()


def die_on_one():
    if distributed.get_rank() == 1:
        os._exit(7)
    distributed.barrier()


def test_every_rank_answers():
    assert launch(who, 3) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(("check", "said"), [(fail_on_one, "not so"), (die_on_one, "without an answer")])
def test_a_rank_that_fails_or_dies_ends_the_others(check, said):
    with pytest.raises(AssertionError, match=f"(?s)rank 1 of 2.*{said}"):
        launch(check, 2)


def test_ranks_that_wait_for_ever_are_given_up(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 1.0)
    with pytest.raises(AssertionError, match="have not ended after 1 seconds"):
        launch(signal.pause, 2)
