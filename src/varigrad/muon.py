"""AdaptiveMuon: Muon whose momentum is learned, one for each matrix, from how successive innovations are correlated.

AdaptiveVSGD asks how often they agree in sign, which takes gradients that are rare and large for drift. A step that is
orthogonalised is long whatever the momentum, so that here their size counts: the page "AdaptiveMuon" of the
documentation has how this is done with one bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from .adaptive import LARGEST_SURPRISE, AdaptiveVSGD, adaptive_muon, adaptive_muon_nesterov
from .descent import descend
from .engine.bucket import Bucket
from .engine.hyperparameters import Accepts, Switch
from .engine.keywords import keyword_arguments
from .engine.loss_scale import UNSCALED, LossScale
from .engine.operations import Scalar
from .engine.per_tensor import Numbers
from .engine.rule import Rule
from .engine.storage import COMPENSATION, is_sharded
from .matrices import inner_matrices

__all__ = ["AdaptiveMuon"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that takes singular values from 0 to 1 into the neighbourhood of 1 (Jordan et al. 2024)."""

ITERATIONS = 5
"""How often it is applied."""

LEVELS = 16
"""How many thresholds there are."""

STRIDE = 7
"""How many of them lie between those of two steps; it has no factor in common with their number."""


class AdaptiveMuon(AdaptiveVSGD):
    r"""Muon with a learned momentum, whose every weight is weighed by its noise before it is orthogonalised.

    Muon steps a matrix along its momentum with all singular values made equal. Its momentum of 0.95 is the same for
    every matrix at every time, and a weight whose gradient is mostly noise has as much of a say as any other. Here it
    is 1 - w, with a gain w that is learned for each matrix from how successive innovations are correlated, and the mean
    is divided by what a gradient is expected to be. With m, v, the innovation e and w_t as AdaptiveVSGD has them, from
    w = ½, and with sums over the weights of a tensor whose last gradient was not zero:

        x = e / √v, in [-4, 4];   b = 1 where e > τ √v, else -1
        c = (4 Σ x_{t-1} b_{t-2} + 0.05 Σ x_{t-1}²) / (Σ x_{t-1}² + 160), in [-1, 1]
        w ← logit⁻¹(logit w + 0.1 c), in [0.005, 0.9]                     one per tensor
        τ = 4 (2k + 1)/16 - 4,   k = 7 t mod 16                           of the threshold all levels in turn
        u = m + w_t (g - m) for a matrix with `nesterov`, else m
        z = u / √(u² + v)                                                 between -1 and 1
        θ ← θ (1 - lr weight_decay) - lr 0.2 √max(p, q) O(z)              a matrix of p rows and q columns
        θ ← θ (1 - lr weight_decay) - lr z                                everything else

    O(z) is about U Vᵀ of the singular value decomposition z = U S Vᵀ, by five Newton-Schulz iterations, in bfloat16 as
    Muon's, for float64 parameters in float64. A kernel has a row for each output channel. The factor gives the step of
    a matrix the root mean square that AdamW's has, 0.2 lr (Liu et al. 2025, Eq. 4), so that one learning rate serves
    all. Over the levels b is on average x/4, so that c is the correlation less that aimed at, -0.05. Nothing has the
    unit of a gradient: the loss may be multiplied by a power of two, and no bit changes. The state is two tensors:
    `mean`, and `deviation`, which is √v with the sign b. `gain` is w.

    Matrices are the parameters of two dimensions or more in groups with `matrices=True`. That should be those inside a
    network only: given the model itself, this class tells them by the types of the modules, and steps the output layer,
    embeddings, the first convolution, kernels in groups, biases and normalisations as all else.

    Args:
        params: The model; or its parameters, named parameters, or dictionaries that define parameter groups. Every
            argument below may be set per group.
        lr: Learning rate η; a number or 0-dim tensor in [0, ∞). The default is near the best of short runs of small
            networks.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        nesterov: Step matrices along the mean as it would be if the same gradient came again.
        matrices: Whether parameters of two dimensions or more are stepped as matrices.
        rounding: How parameters of 16 bits are written; as AdaptiveVSGD has it.
        state_dtype: `torch.bfloat16` keeps the state in half the memory, rounded stochastically; None in float32, or in
            float64 for float64 parameters.
        maximize: Climb instead of descend.
        foreach: Run on lists of tensors; None where nothing fused serves, False for one tensor after the other.
        fused: Run compiled code, one pass over memory; None where it is available.
        capturable: Keep the step count on the device, so that a CUDA graph can capture the step.
        differentiable: Let autograd follow the step; slow. The bits that are kept are constants to it.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Jordan et al. 2024: Muon: An optimizer for hidden layers in neural networks. Liu et al. 2025: Muon is scalable
        for LLM training, Eq. 4. The gain: Mehra 1970, as in `AdaptiveVSGD`.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = varigrad.AdaptiveMuon(model, lr=1e-2)
        >>> [(group["matrices"], len(group["params"])) for group in optimizer.param_groups]
        [(True, 1), (False, 3)]
        >>> model(torch.randn(16, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    rule = adaptive_muon
    accepts: ClassVar[dict[str, Accepts]] = {"nesterov": Switch(), "matrices": Switch()}

    matrix_step: ClassVar[float] = 0.2
    """The root mean square of a matrix's step, in that of the learning rate: AdamW's."""

    gain_rate: ClassVar[float] = 0.1
    """How far the logit of the gain moves in one step if all innovations are in proportion to those before."""

    target: ClassVar[float] = -0.05
    """The correlation of successive innovations that is aimed at: a memory a little shorter than the best filter's."""

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 1e-2,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        matrices: bool = True,
        *,
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        arguments = locals()
        super(AdaptiveVSGD, self).__init__(_groups(params) if isinstance(params, nn.Module) else params, arguments)

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns, besides AdaptiveVSGD's, the threshold that this step's innovations are compared with."""
        level = (STRIDE * step) % LEVELS  # all of them in turn, one after the other far apart
        threshold = LARGEST_SURPRISE * ((2 * level + 1) / LEVELS - 1)
        return {**super().scalars(step, group, memory), "threshold": threshold}

    def evidence(self, memory: Mapping[str, Tensor]) -> Tensor:
        """Returns how much more the innovations are correlated with those before than they should be, within ±1.

        Args:
            memory: The statistics of each tensor.
        """
        # A bit is on average 1/4 of the number that it stands for, within ±4.
        excess = LARGEST_SURPRISE * memory["agreement"] - self.target * memory["energy"]
        undecided = self.prior_pairs * LARGEST_SURPRISE**2
        return torch.clamp(excess / (memory["energy"] + undecided), -1.0, 1.0)

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule of everything that is no matrix."""
        return adaptive_muon

    def _step_group(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        inputs: list[dict[str, Tensor]],
        scale: LossScale = UNSCALED,
        rule: Rule | None = None,
    ) -> None:
        """Steps the matrices of a group, and then all else."""
        ahead = adaptive_muon_nesterov if group["nesterov"] else adaptive_muon
        for rule, matrices in ((ahead, True), (adaptive_muon, False)):
            chosen = [i for i, param in enumerate(params) if _is_matrix(group, param) is matrices]
            super()._step_group(group, [params[i] for i in chosen], [grads[i] for i in chosen], inputs, scale, rule)

    def _run(
        self,
        rule: Rule,
        bucket: Bucket,
        scalars: Mapping[str, float | list[Any]],
        group: Mapping[str, Any],
        numbers: Numbers | None,
        count: float | None,
        scale: LossScale = UNSCALED,
    ) -> None:
        """Runs the rule; for matrices from zero, which leaves z, along which they then go, orthogonalised."""
        if not _is_matrix(group, bucket.params[0]):
            super()._run(rule, bucket, scalars, group, numbers, count, scale)
            return
        directions = [
            torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32), requires_grad=False)
            for param in bucket.params
        ]
        # What a parameter of 16 bits cannot hold is no part of its direction.
        states = [{name: state[name] for name in state if name != COMPENSATION} for state in bucket.states]
        wanted = {**{name: scalars[name] for name in rule.keywords}, "lr": -1.0}
        super()._run(rule, Bucket(directions, bucket.grads, states, []), wanted, group, numbers, count, scale)
        for state, new in zip(bucket.states, states, strict=True):
            state.update(new)  # differentiable steps make new tensors
        steps = [self._step_along(direction) for direction in directions]
        bucket = Bucket(bucket.params, steps, bucket.states, [])
        wanted = keyword_arguments(_rate, descend, group, bucket.states, None, count)
        super()._run(descend, bucket, wanted, {**group, "maximize": False}, None, count)

    def _step_along(self, direction: Tensor) -> Tensor:
        """Returns a matrix's step at a learning rate of one: along its direction, with all singular values alike."""
        if not direction.numel():
            return direction
        whole: Any = direction.full_tensor() if is_sharded(direction) else direction  # type: ignore[attr-defined]
        matrix = whole.flatten(1)
        step = orthogonalised(matrix).mul_(self.matrix_step * math.sqrt(max(matrix.shape)))
        return _cut_like(direction, step.view(whole.shape)) if is_sharded(direction) else step.view(whole.shape)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Returns about U Vᵀ of a matrix U S Vᵀ: every singular value becomes one near 1, zero stays zero.

    Args:
        matrix: Of one row and one column or more; complex ones are made nearly unitary.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mH if tall else matrix
    # By the largest element first, so that no square is beyond what a number can hold.
    x = x / x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
    x = x / torch.linalg.matrix_norm(x).clamp(min=1.0)
    if x.dtype is torch.float32:  # several times faster, and what the polynomial makes of it is as near to 1
        x = x.bfloat16()
    for _ in range(ITERATIONS):
        square = x @ x.mH
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mH if tall else x).to(matrix.dtype)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """The named parameters of a model, its inner matrices in a group of their own."""
    inner = {id(matrix) for matrix in inner_matrices(model)}
    named = list(model.named_parameters())
    return [
        {"params": chosen, "matrices": matrices}
        for matrices in (True, False)
        if (chosen := [(name, param) for name, param in named if (id(param) in inner) is matrices])
    ]


def _is_matrix(group: Mapping[str, Any], param: Tensor) -> bool:
    return bool(group["matrices"]) and param.dim() > 1


def _rate(step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"lr": group["lr"]}


def _cut_like(shard: Any, whole: Tensor) -> Tensor:
    """Returns a tensor that every process has, cut as another one is; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = shard.device_mesh
    return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(
        mesh, shard.placements
    )
