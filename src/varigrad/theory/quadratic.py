"""Stochastic quadratic problems: the smallest problems with curvature, noise and axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import FINITE, NONNEGATIVE, POSITIVE, as_count, as_float64, as_number

__all__ = [
    "StochasticQuadratic",
    "ill_conditioned_spectrum",
    "mildly_conditioned_spectrum",
    "p_diag",
    "random_rotation",
]

ROUNDING = 1e-5  # what a matrix made in float32 may lack in symmetry or orthogonality


@dataclass(frozen=True, eq=False)
class StochasticQuadratic:
    """A quadratic loss whose minimizer is observed with noise.

        ℓ(θ; x) = ½ (θ-x)ᵀ Q (θ-x),   x ~ N(0, ν² I)
        L(θ) = E ℓ = ½ θᵀ Q θ + ½ ν² tr Q                Eq. 11
        g(θ) = Q (θ-x) ~ N(Q θ, ν² Q Q)

    The minimizer is the origin: where the paper's is x*, θ here is its θ - x*.

    Attributes:
        curvature: Q, symmetric positive definite, of shape (d, d); kept in float64.
        noise: ν, standard deviation of the data x in every coordinate, in [0, ∞).

    Raises:
        ValueError: If an argument is out of its range, or the curvature is not a symmetric positive definite matrix.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Section 2.

    Example:
        >>> import torch
        >>> from varigrad.theory import StochasticQuadratic
        >>> problem = StochasticQuadratic(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), noise=0.1)
        >>> problem.gradient(torch.tensor([1.0, 0.0]))
        tensor([2., 1.], dtype=torch.float64)
        >>> round(problem.loss(torch.tensor([1.0, 0.0])).item(), 6)
        1.02
    """

    curvature: Tensor
    noise: float

    def __post_init__(self) -> None:
        curvature = _square_matrix("curvature", self.curvature)
        if (curvature - curvature.T).abs().max() > ROUNDING * curvature.abs().max():
            raise ValueError("curvature is not symmetric, which is not accepted: it must be positive definite")
        curvature = (curvature + curvature.T) / 2
        smallest = torch.linalg.eigvalsh(curvature)[0].item()
        if smallest <= 0:
            raise ValueError(
                f"curvature has the eigenvalue {smallest!r}, which is not accepted: it must be positive definite"
            )
        object.__setattr__(self, "curvature", curvature)
        object.__setattr__(self, "noise", as_number("noise", self.noise, NONNEGATIVE))

    @classmethod
    def from_spectrum(cls, eigenvalues: Tensor, noise: float, rotation: Tensor | None = None) -> StochasticQuadratic:
        """Returns the problem with given eigenvalues and axes, Q = R Λ Rᵀ.

        Args:
            eigenvalues: λ, of shape (d,), each in (0, ∞).
            noise: ν, in [0, ∞).
            rotation: R, orthogonal, of shape (d, d), whose columns are the eigenvectors; None for axis-aligned ones.

        Raises:
            ValueError: If an argument is out of its range, or the rotation is not orthogonal.
        """
        spectrum = as_float64("eigenvalues", eigenvalues, POSITIVE)
        if spectrum.dim() != 1 or len(spectrum) == 0:
            raise ValueError(f"eigenvalues has shape {tuple(spectrum.shape)}, which is not accepted: it must be (d,)")
        if rotation is None:
            return cls(torch.diag(spectrum), noise)
        axes = _square_matrix("rotation", rotation)
        if len(axes) != len(spectrum):
            raise ValueError(
                f"rotation has shape {tuple(axes.shape)}, which is not accepted: it must be {(len(spectrum),) * 2}"
            )
        defect = (axes @ axes.T - torch.eye(len(axes), dtype=axes.dtype, device=axes.device)).abs().max().item()
        if defect > ROUNDING:
            raise ValueError(f"rotation misses R Rᵀ = I by {defect:.2g}, which is not accepted: it must be orthogonal")
        return cls((axes * spectrum) @ axes.T, noise)

    @property
    def dimension(self) -> int:
        """The number of coordinates, d."""
        return len(self.curvature)

    @property
    def gradient_covariance(self) -> Tensor:
        """Covariance of the stochastic gradient, ν² Q Q, the same everywhere; of shape (d, d)."""
        return self.noise**2 * (self.curvature @ self.curvature)

    @property
    def gradient_std(self) -> Tensor:
        """Standard deviation of every coordinate of the stochastic gradient; of shape (d,)."""
        row_norms: Tensor = torch.linalg.vector_norm(self.curvature, dim=1)
        return self.noise * row_norms

    def loss(self, theta: Tensor) -> Tensor:
        """Returns the expected loss L(θ) of Eq. 11, a 0-dim tensor; its smallest value is ½ ν² tr Q."""
        excess: Tensor = self._point(theta) @ self.gradient(theta)
        floor: Tensor = self.noise**2 * self.curvature.trace()
        return (excess + floor) / 2

    def gradient(self, theta: Tensor) -> Tensor:
        """Returns the gradient of the expected loss, Q θ, of shape (d,)."""
        return self.curvature @ self._point(theta)

    def sample_gradients(self, theta: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Returns independent stochastic gradients at θ, of shape (count, d).

        Args:
            theta: θ, of shape (d,).
            count: How many, a whole number ≥ 1.
            generator: Source of randomness; None for torch's own.
        """
        data_noise = torch.randn(
            as_count("count", count),
            self.dimension,
            dtype=torch.float64,
            device=self.curvature.device,
            generator=generator,
        )
        return self.gradient(theta) - self.noise * data_noise @ self.curvature

    def _point(self, theta: Tensor) -> Tensor:
        values = as_float64("theta", theta, FINITE)
        if values.shape != (self.dimension,):
            raise ValueError(
                f"theta has shape {tuple(values.shape)}, which is not accepted: it must be {(self.dimension,)}"
            )
        return values


def mildly_conditioned_spectrum(dimension: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws the eigenvalues of the paper's problem (a): all of them from U[0.1, 1.1].

    Args:
        dimension: How many, a whole number ≥ 1; 100 in the paper.
        generator: Source of randomness; None for torch's own.

    Returns:
        The eigenvalues, a float64 tensor of shape (dimension,).

    Raises:
        TypeError: If `dimension` is not an integer.
        ValueError: If `dimension` is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Section 2.2.

    Example:
        >>> import torch
        >>> from varigrad.theory import mildly_conditioned_spectrum
        >>> eigenvalues = mildly_conditioned_spectrum(100, torch.Generator().manual_seed(0))
        >>> bool(eigenvalues.min() >= 0.1 and eigenvalues.max() <= 1.1)
        True
    """
    return 0.1 + torch.rand(as_count("dimension", dimension), dtype=torch.float64, generator=generator)


def ill_conditioned_spectrum(dimension: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws the eigenvalues of the paper's problem (b): 90 % of them from U(0, 1], 10 % from U[30, 60].

    It imitates the spectrum of a trained network. The number of large eigenvalues is rounded up.

    Args:
        dimension: How many, a whole number ≥ 1; 100 in the paper.
        generator: Source of randomness; None for torch's own.

    Returns:
        The eigenvalues, a float64 tensor of shape (dimension,), the large ones last.

    Raises:
        TypeError: If `dimension` is not an integer.
        ValueError: If `dimension` is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Section 2.2.

    Example:
        >>> import torch
        >>> from varigrad.theory import ill_conditioned_spectrum
        >>> eigenvalues = ill_conditioned_spectrum(100, torch.Generator().manual_seed(0))
        >>> int((eigenvalues >= 30).sum())
        10
    """
    large = -(-as_count("dimension", dimension) // 10)
    uniform = torch.rand(dimension, dtype=torch.float64, generator=generator)
    return torch.cat([1 - uniform[large:], 30 + 30 * uniform[:large]])


def random_rotation(dimension: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws a rotation matrix, uniformly among all of them.

    Args:
        dimension: d, a whole number ≥ 1.
        generator: Source of randomness; None for torch's own.

    Returns:
        An orthogonal matrix with determinant 1, a float64 tensor of shape (d, d).

    Raises:
        TypeError: If `dimension` is not an integer.
        ValueError: If `dimension` is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Section 2.2.

    Example:
        >>> import torch
        >>> from varigrad.theory import random_rotation
        >>> rotation = random_rotation(5, torch.Generator().manual_seed(0))
        >>> torch.allclose(rotation @ rotation.T, torch.eye(5, dtype=torch.float64))
        True
    """
    size = as_count("dimension", dimension)
    axes, triangle = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    rotation: Tensor = (
        axes * triangle.diagonal().sign()
    )  # the factorisation with a positive diagonal is the uniform one
    rotation[:, 0] *= torch.linalg.det(rotation).sign()
    return rotation


def p_diag(matrix: Tensor) -> float:
    """Share of the diagonal in a matrix, which says how axis-aligned a curvature is.

        p_diag(Q) = Σ_i |q_ii| / Σ_ij |q_ij|

    It is 1 for a diagonal matrix, and at least 1/d for a positive semidefinite one, which 11ᵀ attains. The paper's
    average over random orientations, π/(2d) (Eq. 38), holds for a single dominant eigenvector only: for d = 100, where
    it is 0.0157, rotating spectrum (a) gives 0.210, spectrum (b) 0.045, and rank one 0.0157. Eq. 35, on which it
    rests, prints an equality that is a lower bound.

    Args:
        matrix: Q, of shape (d, d); finite and not all 0.

    Returns:
        The share, in [0, 1].

    Raises:
        ValueError: If it is not a finite square matrix, or all 0.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Section 2.1,
        Appendix B.2.2.

    Example:
        >>> import torch
        >>> from varigrad.theory import p_diag
        >>> p_diag(torch.tensor([[2.0, -1.0], [-1.0, 4.0]]))
        0.75
    """
    sizes = _square_matrix("matrix", matrix).abs()
    if not sizes.any():
        raise ValueError("matrix is all 0, which is not accepted: it must have an entry that is not")
    return (sizes.trace() / sizes.sum()).item()


def _square_matrix(name: str, matrix: Tensor) -> Tensor:
    values = as_float64(name, matrix, FINITE)
    if values.dim() != 2 or values.shape[0] != values.shape[1] or values.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, which is not accepted: it must be (d, d), d ≥ 1")
    return values
