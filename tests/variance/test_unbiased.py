"""Unbiased by Monte Carlo: over many batches the average of the estimates is the variance of the gradient."""

import pytest
import torch
from torch import nn

import varigrad

MEAN, DEVIATION, WEIGHTS, REPEATS = 0.7, 2.0, 500, 40


def estimates(method: str, samples: int, each: int) -> torch.Tensor:
    """Estimates of the variance of the mean of `samples` draws, of `each` numbers with the variance DEVIATION²."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(WEIGHTS, 1, bias=False, dtype=torch.float64)
    found = []
    with varigrad.gradient_variance(model, method=method) as handle:
        for _ in range(REPEATS):
            model.zero_grad()
            x = MEAN + DEVIATION * torch.randn(samples * each, WEIGHTS, dtype=torch.float64, generator=generator)
            if method == "vmap":
                handle.compute(lambda output, target: output.sum(), x, None)
            else:
                for part in x.split(each) if method == "microbatch" else [x]:
                    (model(part).sum() / len(x)).backward()
            found.append(model.weight.grad_variance.flatten())
    return torch.cat(found)


@pytest.mark.parametrize("samples", [2, 4, 16])
@pytest.mark.parametrize(("method", "each"), [("layers", 1), ("vmap", 1), ("microbatch", 1), ("microbatch", 3)])
def test_the_average_estimate_is_the_variance_of_the_gradient(method, each, samples):
    found = estimates(method, samples, each)
    truth = DEVIATION**2 / (samples * each)
    # The variance of a sample variance of M normal numbers is 2 σ⁴/(M-1); four standard errors.
    tolerance = 4 * (2 / (samples - 1) / found.numel()) ** 0.5
    assert abs(found.mean().item() / truth - 1) <= tolerance
    # Eq. 64 as printed subtracts the squared mean once: too much by E[g²]/(M(M-1)), which this would notice.
    printed = (MEAN**2 + truth) / (samples - 1) / samples * samples / truth
    assert printed > tolerance
