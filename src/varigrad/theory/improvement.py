"""What one step along a stochastic gradient, or along its sign, is expected to gain on a quadratic problem."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .adaptation import sign_success_probability
from .arguments import FINITE, as_number
from .normal import expected_sign_product
from .quadratic import StochasticQuadratic

__all__ = ["ExpectedImprovement", "sgd_improvement", "ssd_improvement", "ssd_improvement_bound"]


@dataclass(frozen=True)
class ExpectedImprovement:
    """Expected decrease of the loss along a random direction z, as a function of the step size α.

        L(θ) - E L(θ + α z) = α slope - ½ α² curvature

    Attributes:
        slope: -∇L(θ)ᵀ E[z], the decrease per step size of an infinitesimal step.
        curvature: E[zᵀ Q z], ≥ 0.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Section 2.1, Eq. 12.

    Example:
        >>> from varigrad.theory import ExpectedImprovement
        >>> improvement = ExpectedImprovement(slope=2.0, curvature=4.0)
        >>> improvement.step_size, improvement.best, improvement.at(1.0)
        (0.5, 0.5, 0.0)
    """

    slope: float
    curvature: float

    @property
    def step_size(self) -> float:
        """The best step size, slope / curvature; 0 where there is nothing to gain."""
        return self.slope / self.curvature if self.slope else 0.0

    @property
    def best(self) -> float:
        """The decrease at the best step size, slope² / (2 curvature) (Eq. 12)."""
        return self.slope * self.step_size / 2

    def at(self, step_size: float) -> float:
        """Returns the decrease at a step size in (-∞, ∞); negative where the loss is expected to rise."""
        alpha = as_number("step_size", step_size, FINITE)
        return alpha * (self.slope - alpha * self.curvature / 2)


def sgd_improvement(problem: StochasticQuadratic, theta: Tensor) -> ExpectedImprovement:
    """Expected improvement of one SGD step, z = -g(θ).

        slope = ∇Lᵀ∇L,   curvature = ∇LᵀQ∇L + ν² Σ_i λ_i³
        I_SGD = ½ (∇Lᵀ∇L)² / (∇LᵀQ∇L + ν² Σ_i λ_i³)

    λ are the eigenvalues of Q. Eq. 31 in the appendix lacks the ½ of Eq. 13.

    Args:
        problem: The stochastic quadratic problem.
        theta: θ, of shape (d,).

    Returns:
        The decrease of the expected loss by step size; `.best` is I_SGD.

    Raises:
        ValueError: If `theta` is not a finite point of the problem.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 13.

    Example:
        >>> import torch
        >>> from varigrad.theory import StochasticQuadratic, sgd_improvement
        >>> problem = StochasticQuadratic(torch.diag(torch.tensor([1.0, 2.0])), noise=1.0)
        >>> sgd_improvement(problem, torch.tensor([1.0, 1.0]))
        ExpectedImprovement(slope=5.0, curvature=18.0)
    """
    gradient, Q = problem.gradient(theta), problem.curvature
    noise = problem.noise**2 * (Q * (Q @ Q)).sum()  # the trace of Q³
    return ExpectedImprovement(slope=(gradient @ gradient).item(), curvature=(gradient @ Q @ gradient + noise).item())


def ssd_improvement(problem: StochasticQuadratic, theta: Tensor) -> ExpectedImprovement:
    """Expected improvement of one step of stochastic sign descent, z = -sign(g(θ)), exactly.

        slope = Σ_i (2ρ_i - 1) |∇L_i|,   curvature = Σ_ij q_ij E[sign(g_i) sign(g_j)]

    with the success probabilities ρ_i of Eq. 10; the expectations are `expected_sign_product` at the means ∇L_i over
    their standard deviations and the correlations of ν² Q Q. The paper only has the bound `ssd_improvement_bound`.
    Without noise, a coordinate whose gradient is 0 does not move (the paper sets sign(0) = 1).

    Time and memory grow with d².

    Args:
        problem: The stochastic quadratic problem.
        theta: θ, of shape (d,).

    Returns:
        The decrease of the expected loss by step size; `.best` is I_SSD.

    Raises:
        ValueError: If `theta` is not a finite point of the problem.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 12 with
        Appendix B.2.1.

    Example:
        >>> import torch
        >>> from varigrad.theory import StochasticQuadratic, ssd_improvement
        >>> problem = StochasticQuadratic(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), noise=1.0)
        >>> round(ssd_improvement(problem, torch.tensor([1.0, 0.0])).best, 4)
        0.247
    """
    gradient, Q = problem.gradient(theta), problem.curvature
    if problem.noise == 0:
        signs = gradient.sign()
        return ExpectedImprovement(slope=gradient.abs().sum().item(), curvature=(signs @ Q @ signs).item())
    row_norms = torch.linalg.vector_norm(Q, dim=1)
    relative_gradient = gradient / row_norms / problem.noise
    rows = Q / row_norms[:, None]
    correlation = (rows @ rows.T).clamp(-1.0, 1.0)
    product = expected_sign_product(relative_gradient[:, None], relative_gradient[None, :], correlation)
    product.fill_diagonal_(1.0)
    return ExpectedImprovement(slope=_sign_slope(problem, gradient), curvature=(Q * product).sum().item())


def ssd_improvement_bound(problem: StochasticQuadratic, theta: Tensor) -> ExpectedImprovement:
    """Lower bound on the expected improvement of stochastic sign descent that needs no correlations.

        slope = Σ_i (2ρ_i - 1) |∇L_i|,   curvature = Σ_ij |q_ij| = Σ_i λ_i / p_diag(Q)
        I_SSD ≥ ½ (Σ_i (2ρ_i - 1) |∇L_i|)² p_diag(Q) / Σ_i λ_i

    It is at most `ssd_improvement` at every step size ≥ 0, and equal to it if Q is diagonal and the problem noisy.
    Eq. 32 prints the sums over i that run over i and j.

    Args:
        problem: The stochastic quadratic problem.
        theta: θ, of shape (d,).

    Returns:
        A lower bound on the decrease of the expected loss by step size ≥ 0; `.best` is the right side of Eq. 14.

    Raises:
        ValueError: If `theta` is not a finite point of the problem.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 14.

    Example:
        >>> import torch
        >>> from varigrad.theory import StochasticQuadratic, ssd_improvement_bound
        >>> problem = StochasticQuadratic(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), noise=1.0)
        >>> round(ssd_improvement_bound(problem, torch.tensor([1.0, 0.0])).best, 4)
        0.2142
    """
    gradient = problem.gradient(theta)
    return ExpectedImprovement(slope=_sign_slope(problem, gradient), curvature=problem.curvature.abs().sum().item())


def _sign_slope(problem: StochasticQuadratic, gradient: Tensor) -> float:
    certainty = 2 * sign_success_probability(gradient, problem.gradient_std) - 1
    return (certainty * gradient.abs()).sum().item()
