"""The battery's mathematics on a GPU: `pytest tests/battery/test_cuda.py` on a machine that has one."""

import numpy as np
import pytest
import torch

from .table import displacements, every_optimizer
from .test_mathematics import DIMENSION, TOLERANCE, assert_exact, every_dtype, stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

every_way = pytest.mark.parametrize(
    "way", [{}, {"foreach": False}, {"capturable": True}, {"capturable": True, "foreach": False}], ids=str
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


@every_optimizer
def test_a_captured_step_is_replayed(row):
    """A CUDA graph replays what was captured: the step count and the schedule must be read on the device."""
    gradients = torch.tensor(np.stack(stream(0.1, torch.float32, 30)), dtype=torch.float32, device="cuda")
    param = torch.zeros(DIMENSION, device="cuda", requires_grad=True)
    param.grad = torch.zeros_like(param)
    lr = torch.tensor(1e-2, device="cuda")
    optimizer = row.optimizer([param], lr=lr, capturable=True)
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
