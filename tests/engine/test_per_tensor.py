"""Counting steps and keeping numbers, by compiled code and without it."""

import pytest
import torch

from varigrad.engine import per_tensor
from varigrad.engine.keywords import keyword_arguments

from .toy_rules import Learned


@pytest.fixture(params=["compiled", "without a library"])
def way(request, monkeypatch):
    if request.param != "compiled":
        monkeypatch.setattr(per_tensor, "kernels", lambda: "there is none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_count_goes_up_by_one(way, dtype):
    counts = [torch.tensor(float(count), dtype=dtype) for count in (0, 7, 2**23, 0)]
    assert per_tensor.advance(counts) == [1.0, 8.0, 2.0**23 + 1, 1.0]
    assert [count.item() for count in counts] == [1.0, 8.0, 2.0**23 + 1, 1.0]
    assert {count.dtype for count in counts} == {dtype}


def test_views_of_one_tensor_are_counted_where_they_are(way):
    counts = torch.arange(6.0)
    assert per_tensor.advance([counts[1], counts[4]]) == [2.0, 5.0]
    assert counts.tolist() == [0.0, 2.0, 2.0, 3.0, 5.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_read_in_order_and_written_back(way, dtype):
    columns = {
        "first": [torch.tensor(value, dtype=dtype) for value in (0.1, -3.0, float("inf"), 0.0)],
        "second": [torch.tensor(value, dtype=dtype) for value in (7.0, 8.0, 9.0, 10.0)],
    }

    def kept():
        return {name: [tensor.item() for tensor in column] for name, column in columns.items()}

    numbers = per_tensor.Numbers(columns)
    read = numbers.read()
    assert {row.dtype for row in read.values()} == {dtype}
    assert {name: row.tolist() for name, row in read.items()} == kept()
    numbers.write({"second": read["first"].double() * 2})
    assert kept() == {"first": read["first"].tolist(), "second": (read["first"] * 2).tolist()}
    # Given in another order, of two kinds, and one of them a view with gaps.
    numbers.write({"second": torch.arange(8.0)[::2], "first": [torch.tensor(float(value)) for value in range(4)]})
    assert kept() == {"first": [0.0, 1.0, 2.0, 3.0], "second": [0.0, 2.0, 4.0, 6.0]}
    numbers.write({})
    assert kept() == {"first": [0.0, 1.0, 2.0, 3.0], "second": [0.0, 2.0, 4.0, 6.0]}


def test_autograd_is_not_cut_off_where_it_is_to_follow():
    optimizer = Learned([torch.zeros(3, requires_grad=True)], differentiable=True)
    state = {"step": torch.tensor(2.0), "logit": torch.tensor(0.1), "agreement": torch.tensor(2.0, requires_grad=True)}
    (group,) = optimizer.param_groups
    numbers = per_tensor.Numbers({name: [state[name]] for name in ("agreement", "logit")})
    found = keyword_arguments(optimizer.scalars, optimizer.rule, group, [state], numbers, 2.0)
    (slope,) = torch.autograd.grad(found["gain"][0], state["agreement"])
    assert slope > 0
