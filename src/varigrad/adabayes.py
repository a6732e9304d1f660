"""AdaBayes and AdaBayesFP: each weight's optimum followed by a Bayesian filter, of which SGD and Adam are two limits.

Both are from "Bayesian filtering unifies adaptive and non-adaptive neural network optimization methods" (Aitchison
2020). The paper ascends the summed log-likelihood; here the mean loss is descended, so that its g is batch_size times
ours.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# A rule has no types of its own: it is run on tensors, on numbers and on the symbols that trace it.

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine.belief import Belief
from .engine.hyperparameters import Accepts, Interval, OneOf, OrNone, Pair
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import hypotenuse, minimum, rule, sqrt, where
from .engine.storage import local, real, width
from .sign import debiasing_weight
from .svag import averaged

__all__ = ["AdaBayes", "AdaBayesFP"]

# A single gradient of 1e20 must not leave an infinite mean square behind, which no later gradient could change.
LARGEST_SQUARE = 1e37


@rule(state=("mean", "posterior_var"))
def adabayes(param, grad, mean, posterior_var, *, batch_size, weight, noise_var, kept, added, evidence):
    summed = batch_size * grad
    mean = mean + weight * (summed - mean)  # Eq. 2, debiased
    before = where(posterior_var < 0, noise_var, posterior_var)  # a negative one has not been set yet
    prior_var = kept * before + added  # Eq. 17b
    posterior_var = prior_var / (1 + evidence * (prior_var * summed * summed))  # Eq. 18a, without reciprocals
    return param - evidence * (posterior_var * mean), mean, posterior_var  # Eq. 19b


@rule(state=("mean", "mean_square"))
def adabayes_fp(param, grad, mean, mean_square, *, lr, weight, square_weight, half_ratio, eps):
    mean = mean + weight * (grad - mean)  # Eq. 2, debiased
    mean_square = mean_square + square_weight * (grad * grad - mean_square)  # Eq. 4, debiased
    mean_square = minimum(mean_square, LARGEST_SQUARE)
    root = hypotenuse(sqrt(mean_square + eps), half_ratio)
    return param - lr * (mean / (half_ratio + root)), mean, mean_square  # Eq. 21 and 19b, on mean gradients


class BayesianFilter(RuleOptimizer):
    """What AdaBayes and AdaBayesFP share: `sgd_lr` belongs to the learning rate that it was given with."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group and notes the learning rate that its `sgd_lr` belongs to."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["reference_lr"] is None:
            group["reference_lr"] = float(group["lr"]) or None

    def prepare(self, group: dict[str, Any]) -> None:
        """Takes the first learning rate above zero for the reference where there is no other."""
        if group["reference_lr"] is None and (lr := float(group["lr"])) > 0:
            warnings.warn(
                f"{type(self).__name__} was given lr=0: sgd_lr={group['sgd_lr']} is taken to belong to lr={lr:g}, the "
                "first one above 0, and will grow with it; say with reference_lr which lr it belongs to",
                stacklevel=2,
            )
            group["reference_lr"] = lr


class AdaBayes(BayesianFilter):
    r"""Bayesian filtering of each weight's optimum: Adam-like where data abound, SGD-like where they do not.

    The optimum of a weight, given all others, drifts as they move. A Kalman filter with prior variance σ² follows it:
    its posterior variance is the step size, large for weights that the gradients say little about (at most σ², the
    limit of SGD with rate `sgd_lr`), small for the others. With g the gradient of the summed loss (`batch_size` times
    that of the mean loss), k counting the parameter's own steps from 1, η = lr, σ² = η_SGD / batch_size, x = η²/σ², and
    from m = 0, v = σ²:

        m ← m + (g - m) (1-β) / (1-β^k)                              Eq. 2, debiased
        p = e^-x v + (1 - e^-x) σ²          transition="exact"       the drift over one step
        p = (1 - x/2)² v + η²               transition="euler"       Eq. 17b as printed, for small x
        v ← p / (1 + p g²)                                           Eq. 18a
        θ ← θ (1 - lr weight_decay) - v m                            Eq. 19

    η_SGD follows the schedule: it is `sgd_lr` times lr over `reference_lr`. At lr = 0 the moments
    advance and nothing else does.

    **When it goes wrong.** A single huge gradient shrinks its own step only: v regrows by η² a step while m still
    remembers it, and the weight runs away by about 9 η² g. Clip gradients where that can happen, or use `AdaBayesFP`.
    After a drop of the learning rate v follows on the time scale of σ²/η² steps only; `AdaBayesFP` follows at once. The
    limit of Adam holds while lr |g| is far below 1; beyond that the step is that of a mean square.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate η of the Adam limit; a number or 0-dim tensor in [0, ∞).
        sgd_lr: Learning rate of the SGD limit, that is, the step along the mean gradient of a weight about which
            nothing is known; in (0, ∞).
        batch_size: What turns the gradient of the mean loss into that of the summed loss; in [1, ∞). Where your loss is
            a sum over the batch already, leave it at 1.
        beta: Decay of the moving average of the gradient, in [0, 1).
        transition: "exact", the Ornstein-Uhlenbeck process that Eq. 17 approximates, or "euler", Eq. 17b as printed.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞). The paper's λ is lr * weight_decay: its 5e-5 at
            lr = 1e-3 is a weight_decay of 0.05.
        reference_lr: The lr that `sgd_lr` belongs to, in (0, ∞); None for the group's own lr at the start. Say it where
            a run begins with lr = 0: otherwise the first rate above zero is taken, with a warning.
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, there are no parameters, or `transition="euler"` would diverge,
            which it does from x = 4 on.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Aitchison 2020, Algorithm 1, Eq. 2 and 17 to 19; Algorithm 1 itself prints Eq. 18a without a reciprocal.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = varigrad.AdaBayes(model.parameters(), lr=1e-3, sgd_lr=0.1, batch_size=8)
        >>> model(torch.ones(8, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> bool((optimizer.state[model.weight]["posterior_var"] <= 0.1 / 8).all())
        True
    """

    rule = adabayes
    accepts: ClassVar[dict[str, Accepts]] = {
        "sgd_lr": Interval(open_low=True),
        "batch_size": Interval(1.0),
        "beta": Interval(0.0, 1.0, open_high=True),
        "transition": OneOf(("exact", "euler")),
        "reference_lr": OrNone(Interval(open_low=True)),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        sgd_lr: float = 0.1,
        batch_size: float = 1,
        beta: float = 0.9,
        transition: str = "exact",
        weight_decay: float = 0.0,
        *,
        reference_lr: float | None = None,
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def _check(self, group: Mapping[str, Any], index: int | None = None) -> None:
        super()._check(group, index)
        lr = group["lr"]
        if group["transition"] == "exact" or (isinstance(lr, Tensor) and lr.device.type != "cpu"):
            return
        reference = group.get("reference_lr") or float(lr)
        drift = float(lr) * group["batch_size"] * reference / group["sgd_lr"]
        if drift >= 4.0:
            where_ = "" if index is None else f" (parameter group {index})"
            raise ValueError(
                f"AdaBayes's lr{where_} = {float(lr)} is not accepted: with transition='euler', lr² / σ² must be < 4, "
                f"where lr={float(lr)}, sgd_lr={group['sgd_lr']} and batch_size={group['batch_size']} make it "
                f"{drift:.4g}; lower lr, raise sgd_lr, or use transition='exact'"
            )

    def start(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the mark of a variance that the first step with a learning rate above zero sets to σ²."""
        return {"posterior_var": -1.0}

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns σ², and what the filter keeps of its variance and adds to it between two steps."""
        lr, batch_size = group["lr"], group["batch_size"]
        # The rate of the SGD limit per unit of lr; any will do as long as lr is zero.
        ratio = group["sgd_lr"] / (group["reference_lr"] or 1.0)
        noise_var = lr * ratio / batch_size
        x = lr * batch_size / ratio
        if group["transition"] == "euler":
            kept, added = (1.0 - x / 2.0) ** 2, lr * lr
        elif isinstance(x, Tensor):
            kept, added = torch.exp(-x), noise_var * -torch.expm1(-x)
        else:
            kept, added = math.exp(-x), noise_var * -math.expm1(-x)
        return {
            "batch_size": batch_size,
            "weight": debiasing_weight(group["beta"], step),
            "noise_var": where(lr > 0, noise_var, -1.0),
            "kept": kept,
            "added": added,
            "evidence": where(lr > 0, 1.0, 0.0),
        }

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns the moving average, of the gradient of the mean loss; the filter's variance is that of the weight."""
        return Belief(state["mean"] / group["batch_size"])

    @contextlib.contextmanager
    def sampled_params(self, generator: torch.Generator | None = None) -> Iterator[None]:
        r"""A context in which the weights are drawn from the filter's posterior, N(θ, σ_post²) of Eq. 16 and 18.

        Predictions averaged over several draws say how uncertain the filter is of the weights. At the end of the
        context the weights are again what they were, to the bit, also after an exception; what was changed inside is
        lost. The posterior is that of a weight given all others, after the few batches that the filter remembers: its
        draws are wider than those of a posterior given all data. `docs/adabayes.md` has what they did to calibration.
        Parameters that have not been stepped at a learning rate above zero are left as they are.

        Args:
            generator: Where the draws come from, on the weights' device; None for torch's own. Where processes keep
                copies of the same weights, each needs one with the same seed.

        Raises:
            RuntimeError: If nothing has been stepped at a learning rate above zero yet.

        Example:
            >>> import torch, varigrad
            >>> model = torch.nn.Linear(3, 1)
            >>> optimizer = varigrad.AdaBayes(model.parameters(), lr=1e-3, batch_size=8)
            >>> model(torch.ones(8, 3)).square().mean().backward()
            >>> optimizer.step()
            >>> outputs = []
            >>> for draw in range(10):
            ...     with optimizer.sampled_params(), torch.no_grad():
            ...         outputs.append(model(torch.ones(1, 3)))
            >>> bool(torch.stack(outputs).std() > 0)
            True
        """
        kept: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    if "posterior_var" not in self.state.get(param, ()):
                        continue
                    value = real(local(param, param))
                    variance = real(local(self.state[param]["posterior_var"], param)).to(width(param.dtype))
                    kept.append((value, value.clone()))
                    noise = torch.randn(value.shape, generator=generator, dtype=variance.dtype, device=value.device)
                    # A negative variance has not been set yet.
                    value.copy_(value + variance.clamp(min=0.0).sqrt() * noise)
        if not kept or all(torch.equal(value, before) for value, before in kept):
            raise RuntimeError(
                "AdaBayes has no posterior to draw weights from: take a step with a learning rate above zero first"
            )
        try:
            yield
        finally:
            with torch.no_grad():
                for value, before in kept:
                    value.copy_(before)


class AdaBayesFP(BayesianFilter):
    r"""AdaBayes at its fixed point: the posterior variance that a steady gradient would lead to, at every step.

    With k counting the parameter's own steps from 1, g the gradient of the mean loss, e = lr / (2 η_SGD), and from
    m = v = 0:

        m ← m + (g - m) (1-β₁) / (1-β₁^k)                            Eq. 2, debiased
        v ← v + (g² - v) (1-β₂) / (1-β₂^k)                           Eq. 4, debiased
        θ ← θ (1 - lr weight_decay) - lr m / (e + √(e² + v + eps/batch_size²))        Eq. 21 and 19

    Where √v is far above e this is AdamW with an eps of e, where it is far below, `MSGD` with the rate η_SGD. It is
    immune to the two troubles of `AdaBayes`. On mean gradients the batch size cancels unless eps is set. η_SGD follows
    the schedule: it is `sgd_lr` times lr over `reference_lr`.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate η of the Adam limit; a number or 0-dim tensor in [0, ∞).
        sgd_lr: Learning rate of the SGD limit; in (0, ∞).
        batch_size: What turns the gradient of the mean loss into that of the summed loss; in [1, ∞). Matters for eps
            alone.
        betas: Decays (β₁, β₂) of the moving averages of the gradient and of its square, each in [0, 1).
        eps: Added to the mean square of the summed gradient, as in the authors' program; in [0, ∞). The paper has none.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞). The paper's λ is lr * weight_decay.
        reference_lr: The lr that `sgd_lr` belongs to, in (0, ∞); None for the group's own lr at the start. Say it where
            a run begins with lr = 0: otherwise the first rate above zero is taken, with a warning.
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Aitchison 2020, Algorithm 2, Eq. 2, 4, 19 and 21; the paper's Table 1 calls it AdaBayes-SS.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = varigrad.AdaBayesFP(model.parameters(), lr=1e-3, sgd_lr=0.1, weight_decay=0.05)
        >>> model(torch.ones(8, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[model.weight])
        ['mean', 'mean_square', 'step']
    """

    rule = adabayes_fp
    accepts: ClassVar[dict[str, Accepts]] = {
        "sgd_lr": Interval(open_low=True),
        "batch_size": Interval(1.0),
        "betas": Pair(Interval(0.0, 1.0, open_high=True)),
        "eps": Interval(),
        "reference_lr": OrNone(Interval(open_low=True)),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        sgd_lr: float = 0.1,
        batch_size: float = 1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.0,
        weight_decay: float = 0.0,
        *,
        reference_lr: float | None = None,
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the weights of the newest gradient and square, and lr / (2 η_SGD), which a schedule leaves alone."""
        beta1, beta2 = group["betas"]
        return {
            "lr": group["lr"],
            "weight": debiasing_weight(beta1, step),
            "square_weight": debiasing_weight(beta2, step),
            # Any number above zero will do as long as lr is zero.
            "half_ratio": (group["reference_lr"] or 1.0) / (2.0 * group["sgd_lr"]),
            "eps": group["eps"] / group["batch_size"] ** 2,
        }

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns m, and the variances that v - m² amounts to: Balles and Hennig's Eq. 22 with β₁ in ρ."""
        moving_variance = (state["mean_square"] - state["mean"].square()).clamp(min=0.0)
        return averaged(state["mean"], moving_variance, group["betas"][0], step)
