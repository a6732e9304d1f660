"""The compiled code for what is computed of a batch, against plain formulas in float64."""

import ctypes
import math
from array import array

import pytest
import torch

from varigrad.engine import batch, library

compiled = pytest.mark.skipif(isinstance(library.kernels(), str), reason="needs the compiled kernels")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def tolerance(dtype):
    return {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]


def close(found, exact, dtype):
    return (found.double() - exact).abs().max() <= tolerance(dtype) * exact.abs().max()


@pytest.fixture(params=[64, 32], ids="{}-byte vectors".format)
def vector(request, monkeypatch):
    if request.param > batch._vector(batch._library()):
        pytest.skip("this processor has no such vectors")
    monkeypatch.setattr(batch, "_vector", lambda library: request.param)


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def in_threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(batch, "SHARE", 16)


@compiled
@DTYPES
@pytest.mark.parametrize("elements", [1, 7, 512, 1300])
@pytest.mark.usefixtures("in_threads")
def test_a_gradient_is_normalised_by_its_mean_square(elements, dtype):
    torch.manual_seed(0)
    grad, r = torch.randn(5, elements, dtype=dtype), torch.rand(elements, dtype=dtype)
    before = r.double().clone()
    gain, result = torch.empty_like(r), torch.empty_like(grad)
    batch.normalise(grad, r, gain, result, (0.7, 0.02, 1e-3, 0.5))
    exact = 0.7 * before + 0.02 * grad.double().square().sum(0)
    assert close(r, exact, dtype)
    assert close(gain, 0.5 / (exact + 1e-3).sqrt(), dtype)
    assert torch.equal(result, grad * gain)


@compiled
@DTYPES
@pytest.mark.parametrize("samples", [1, 4, 7])
@pytest.mark.parametrize("elements", [1, 7, 1300])
@pytest.mark.usefixtures("in_threads")
def test_squares_are_summed_over_the_samples(elements, samples, dtype):
    grad = torch.randn(samples, elements, dtype=dtype)
    assert close(batch.sum_of_squares(grad), grad.double().square().sum(0), dtype)


@DTYPES
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("elements", [1, 7, 1300])
@pytest.mark.usefixtures("in_threads")
def test_the_variance_of_a_sum_is_found_from_squared_differences(elements, contiguous, dtype):
    terms = 1000 + torch.randn(9, elements, 2, dtype=dtype)[..., 0]
    terms = terms.contiguous() if contiguous else terms
    exact = 9 * terms.double().var(0)
    assert (batch.deviations(terms, terms.sum(0)) - exact).abs().max() <= 1e3 * torch.finfo(dtype).eps * exact.max()


@compiled
@DTYPES
def test_what_is_not_finite_leaves_the_mean_square_as_it_is(dtype):
    grad = torch.tensor([[1.0, math.nan, math.inf, 0.1 * torch.finfo(dtype).max, -1.0]], dtype=dtype)
    r = torch.full((5,), 0.25, dtype=dtype)
    batch.normalise(grad, r, None, torch.empty_like(grad), (0.5, 1.0, 0.0, 1.0))
    assert r.tolist() == [1.125, 0.25, 0.25, 0.25, 1.125]


@compiled
@DTYPES
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(
    ("samples", "rows", "positions", "columns"), [(1, 1, 1, 16), (3, 7, 5, 64), (9, 13, 300, 32), (17, 6, 2, 96)]
)
@pytest.mark.usefixtures("vector", "in_threads")
def test_products_and_their_squares_are_added_up(samples, rows, positions, columns, transposed, dtype):
    torch.manual_seed(0)
    step = batch.overhang(dtype)
    left = torch.randn(samples, rows, positions, dtype=dtype)
    if transposed:
        left = left.transpose(1, 2).contiguous().transpose(1, 2)
    room = torch.randn(samples * positions * columns + step, dtype=dtype)
    right = room[: samples * positions * columns].view(samples, positions, columns)
    total, squares = torch.ones(rows, columns, dtype=dtype), torch.zeros(rows, columns, dtype=dtype)
    places = array("q", range(0, positions * columns, columns))
    batch.add_products(left, right, places, array("q", [0]), columns, total, squares)
    terms = left.double() @ right.double()
    assert close(total, 1 + terms.sum(0), dtype)
    assert close(squares, terms.square().sum(0), dtype)


@compiled
@DTYPES
@pytest.mark.usefixtures("vector", "in_threads")
def test_pieces_and_groups_are_where_they_are_said_to_be(dtype):
    """Two groups of seven rows; a row of the right matrix is two pieces of five, ten elements apart."""
    torch.manual_seed(0)
    left = torch.randn(3, 14, 4, dtype=dtype)
    right = torch.randn(3, 200, dtype=dtype)
    total, squares = (torch.zeros(14, 2, 5, dtype=dtype) for _ in range(2))
    places, pieces = array("q", [0, 3, 40, 41]), array("q", [2, 12])
    batch.add_products(left, right, places, pieces, 5, total, squares, (2, 50))
    for group in range(2):
        rows = torch.stack([
            torch.stack([right[:, 50 * group + place + piece :][:, :5] for piece in pieces], 1) for place in places
        ], 1).double()  # fmt: skip
        terms = torch.einsum("nrt,ntpl->nrpl", left[:, 7 * group : 7 * group + 7].double(), rows)
        assert close(total[7 * group : 7 * group + 7], terms.sum(0), dtype)
        assert close(squares[7 * group : 7 * group + 7], terms.square().sum(0), dtype)


@DTYPES
@pytest.mark.parametrize("with_library", [True, False])
@pytest.mark.usefixtures("in_threads")
def test_spread_and_deviation_are_their_formulas(with_library, dtype, monkeypatch):
    if not with_library:
        monkeypatch.setattr(batch, "_library", lambda: None)
    torch.manual_seed(0)
    terms = torch.randn(6, 40, dtype=dtype)
    terms[:, 3], terms[:, 4] = 2.0, math.nan
    variance = batch.spread(terms.sum(0), terms.square().sum(0), 6)
    assert variance[4].isnan()
    assert 0 <= variance[3] <= 6e2 * torch.finfo(dtype).eps
    known = [index for index in range(40) if index not in (3, 4)]
    assert close(variance[known], 6 * terms.double().var(0)[known], dtype)
    first, second = torch.randn(2, 40, dtype=dtype)
    out = torch.empty_like(first)
    batch.deviate(first, second, 0.5, out)
    assert close(out, 0.5 * (first.double() - second.double()).square(), dtype)


def test_code_of_another_version_is_not_used(monkeypatch):
    if isinstance(library.kernels(), str):
        pytest.skip("needs the compiled kernels")
    assert isinstance(batch._library(), ctypes.CDLL)
    batch._current.cache_clear()
    monkeypatch.setattr(batch, "batch_fingerprint", lambda: "another")
    assert batch._library() is None
    assert batch.overhang(torch.float32) == 0
    batch._current.cache_clear()
