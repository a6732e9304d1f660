"""The battery's mathematics on a GPU: `pytest tests/battery/test_cuda.py` on a machine that has one."""

import numpy as np
import pytest
import torch

import varigrad

from .table import displacements, every_optimizer
from .test_mathematics import DIMENSION, TOLERANCE, assert_exact, every_dtype, stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WAYS = ({"fused": True}, {"foreach": True}, {"foreach": False})
every_way = pytest.mark.parametrize(
    "way", [{}, *WAYS, {"capturable": True}, *({"capturable": True, **way} for way in WAYS)], ids=str
)


@every_way
@every_optimizer
@every_dtype
def test_every_setting_on_a_gpu(row, way, dtype):
    steps = 60
    schedule = [1e-2 * min(1.0, (t + 1) / 20) for t in range(steps)]
    for number, settings in enumerate(row.settings):
        gradients = list(stream(0.1, dtype, steps, seed=number))
        gradients[:3] = [None] * 3
        ours = displacements(row, [gradients], schedule, dtype, device="cuda", weight_decay=0.1, **settings, **way)[0]
        assert_exact(row, ours, gradients, schedule, dtype, (4, 5, 10, steps), None, number, decay=0.1)


@pytest.mark.parametrize("way", WAYS, ids=str)
@every_optimizer
def test_a_captured_step_is_replayed(row, way):
    """A CUDA graph replays what was captured: the step count and the schedule must be read on the device."""
    gradients = torch.tensor(np.stack(stream(0.1, torch.float32, 30)), dtype=torch.float32, device="cuda")
    param = torch.zeros(DIMENSION, device="cuda", requires_grad=True)
    param.grad = torch.zeros_like(param)
    lr = torch.tensor(1e-2, device="cuda")
    optimizer = row.optimizer([param], lr=lr, capturable=True, **way)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for gradient in gradients[:3]:
            param.grad.copy_(gradient)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for index, gradient in enumerate(gradients[3:]):
        param.grad.copy_(gradient)
        lr.fill_(1e-2 if index < 10 else 1e-3)
        graph.replay()
    rates = [1e-2] * 13 + [1e-3] * 17
    recorded = [g.astype(np.float64) for g in gradients.cpu().numpy()]
    exact = row.transcription(np.zeros(DIMENSION), recorded, rates, weight_decay=0.0)
    error = np.abs(param.detach().double().cpu().numpy() - exact[-1]).max() / np.abs(exact[-1]).max()
    assert error <= 10 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "nearest"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", [*WAYS, {"capturable": True}], ids=str)
def test_low_precision_is_rounded_as_on_the_host(way, dtype, rounding):
    """By the same random numbers: sign descent computes the same bits in float32 wherever it runs."""
    ends = []
    for device in ("cuda", "cpu"):
        generator = torch.Generator().manual_seed(0)
        param = torch.randn(3000, generator=generator).to(device, dtype).requires_grad_()
        optimizer = varigrad.SSD([param], lr=1e-4, weight_decay=0.1, rounding=rounding, **way)
        for _ in range(10):
            param.grad = torch.randn(3000, generator=generator).to(device, dtype)
            optimizer.step()
        ends.append(param.detach().cpu())
    assert torch.equal(*ends)


@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("settings", [{}, {"rounding": "kahan"}, {"state_dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_optimizer
def test_a_captured_step_rounds_anew_at_every_replay(row, dtype, settings, way):
    """Also in low precision a replayed graph does what single steps do, random numbers included."""
    ends = []
    for replayed in (True, False):
        generator = torch.Generator().manual_seed(0)
        param = torch.ones(500, device="cuda", dtype=dtype, requires_grad=True)
        param.grad = torch.zeros_like(param)
        optimizer = row.optimizer([param], lr=1e-4, capturable=True, **settings, **way)
        graph = torch.cuda.CUDAGraph()
        for step in range(20):
            param.grad.copy_(torch.randn(500, generator=generator))
            if not replayed or step < 3:
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    optimizer.step()
                torch.cuda.current_stream().wait_stream(side)
                continue
            if step == 3:
                with torch.cuda.graph(graph):
                    optimizer.step()
            graph.replay()
        ends.append(param.detach().cpu())
    assert torch.equal(*ends)


@pytest.mark.parametrize("flags", [{}, {"fused": True, "capturable": True}], ids=str)
@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
@every_optimizer
def test_a_step_that_overflows_is_skipped_wholly_on_a_gpu(row, poison, flags):
    param = torch.ones(50, device="cuda", requires_grad=True)
    optimizer, scaler = row.optimizer([param], lr=1e-2, **flags), torch.amp.GradScaler("cuda", init_scale=128.0)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(param.square().sum()).backward()
        before = param.detach().clone(), {name: value.clone() for name, value in optimizer.state[param].items()}
        if step == 1:
            param.grad[7] = poison
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(param, before[0]) == (step == 1)
        if step == 1:
            assert all(torch.equal(optimizer.state[param][name], value) for name, value in before[1].items())
