"""virtual_gradients and SVGD: the gradient by a weight, computed from normalised gradients by its layer's output.

A layer's output z is linear in its weight. The gradient by z is normalised first, as RMSProp normalises a gradient,
and only then led to the weight; what is led on to the layer's input is the true gradient ("SVGD: A Virtual Gradients
Descent Method for Stochastic Optimization", Li and Shu 2019).
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# A rule has no types of its own: it is run on tensors, on numbers and on the symbols that trace it.

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from .descent import descend
from .engine.hyperparameters import Accepts, Interval, OneOf, Switch
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .normalisation import Scaler, VirtualGradients

__all__ = ["SVGD", "virtual_gradients"]

SETTINGS: dict[str, Accepts] = {"scale": Interval(), "rho": Interval(0.0, 1.0, open_high=True), "eps": Interval()}
"""What the hyperparameters of the normalisation accept."""

CHOICES: dict[str, Accepts] = {
    "biases": Switch(),
    "per": OneOf(("position", "channel")),
    "loss_reduction": OneOf(("mean", "sum")),
}
"""What the arguments accept that hold for the whole model."""


def _check(owner: str, arguments: Mapping[str, Any], accepts: Mapping[str, Accepts]) -> None:
    for name, accepted in accepts.items():
        accepted.check(f"{owner}'s {name}", arguments[name])


def virtual_gradients(
    model: nn.Module,
    scale: float = 0.1,
    rho: float = 0.9,
    eps: float = 1e-6,
    biases: bool = False,
    per: str = "position",
    loss_reduction: str = "mean",
    *,
    grad_scaler: Scaler | None = None,
) -> VirtualGradients:
    r"""Makes `p.grad` of a model's weights the virtual gradient, for any optimizer to use.

    With z the output of a layer, G the gradient of the loss by it, m the samples in the mini-batch, per element of z
    and from r = 0, in every backward pass:

        r ← ρ r + (1-ρ) mean over the samples of (m G)²
        gradient by the weight: what G scale / √(r + eps) gives
        gradient by the layer's input: what G gives

    Served are Linear, Conv1d to 3d, ConvTranspose1d to 3d, Embedding and MultiheadAttention; with `biases=True` also
    biases and the scale and shift of norm layers, which otherwise keep their true gradients, as do all other layers
    (with a warning that names them). The first dimension of a layer's input is that of the samples. A layer that is
    called several times in a forward pass has an r for each call.

    Args:
        model: The model. It stays what it is but for hooks, which `remove()` takes off.
        scale: What the normalised gradient is multiplied by, s in the paper; in [0, ∞).
        rho: Decay of the running mean, in [0, 1).
        eps: Added to r; in [0, ∞), in units of a squared gradient of one sample by z. With 0 the virtual gradients do
            not depend on the scale of the loss.
        biases: Whether biases and norm layers get virtual gradients too.
        per: `"position"` for an r of each element of z, as in the paper, which needs z to have the same shape in every
            step, but for the number of samples; `"channel"` for an r of each channel (the mean over samples and
            positions).
        loss_reduction: Whether the loss is the `"mean"` or the `"sum"` over the samples.
        grad_scaler: The `torch.amp.GradScaler` that the loss is scaled by, if there is one: r is of the unscaled loss.

    Returns:
        A handle with `remove()`, `state_dict()` and `load_state_dict()`: r belongs into a checkpoint.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, the model has nothing to serve, a layer has no parameters yet
            or sparse gradients; in a backward pass, if the shape of z has changed.
        RuntimeError: If the model has virtual gradients, or other taps, already; in a backward pass with
            `create_graph=True`.

    Reference:
        Li and Shu 2019: SVGD, Algorithm 1 and Eq. 10.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> handle = varigrad.virtual_gradients(model, scale=1.0, rho=0.0, eps=0.0)
        >>> (100 * model(torch.ones(4, 2))).mean().backward()
        >>> model.weight.grad  # the gradient by z is 1 after the normalisation: the scale of the loss does not matter
        tensor([[1., 1.]])
        >>> handle.remove()
    """
    settings = {"scale": scale, "rho": rho, "eps": eps}
    arguments = {**settings, "biases": biases, "per": per, "loss_reduction": loss_reduction}
    _check("virtual_gradients", arguments, {**SETTINGS, **CHOICES})
    return VirtualGradients(model, lambda site: settings, biases, per, loss_reduction, grad_scaler)


class SVGD(RuleOptimizer):
    r"""Stochastic virtual gradient descent: SGD along virtual gradients (not Stein variational gradient descent).

    With z the output of a layer, G the gradient of the loss by it, m the samples in the mini-batch, per element of z
    and from r = 0:

        r ← ρ r + (1-ρ) mean over the samples of (m G)²
        g = what G scale / √(r + eps) gives for the layer's weight
        θ ← θ (1 - lr weight_decay) - lr g                      Algorithm 1

    Parameters without such a layer (biases and norm layers among them, unless `biases=True`) get g from the true
    gradient. See `virtual_gradients`, which this is together with plain gradient descent, for what is served. The
    optimizer puts hooks on the model; `optimizer.virtual_gradients.remove()` takes them off, and so does its end.
    Its `state_dict()` has r under `"virtual_gradients"`.

    `SVGD.authors` has the scale of the authors' program, in which the settings of the paper's experiments are given.

    Args:
        model: The model.
        lr: Learning rate; a number or 0-dim tensor in [0, ∞). The default is the best of 0.03, 0.1, 0.3, 1 and 3 with
            the default scale in one run of 1,200 steps each on MNIST (validation loss 0.0924).
        scale: What the normalised gradient is multiplied by, s in the paper; in [0, ∞). For the weights only lr · scale
            matters; biases and norm layers see lr alone.
        rho: Decay of the running mean, in [0, 1).
        eps: Added to r; in [0, ∞), in units of a squared gradient of one sample by z.
        biases, per, loss_reduction, grad_scaler: As in `virtual_gradients`, for the whole model.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        param_groups: What to step: dictionaries that define parameter groups, in which `lr`, `scale`, `rho`, `eps`,
            `weight_decay` and the flags may be set, such as `varigrad.param_groups` makes them, or parameters; None
            for all of the model's.
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`; r is float32 or more
            whatever `state_dtype` is.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or the model has nothing to serve.
        RuntimeError: If the model has virtual gradients already, a gradient is sparse, or flags exclude each other.

    Reference:
        Li and Shu 2019: SVGD: A Virtual Gradients Descent Method for Stochastic Optimization, Algorithm 1.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = varigrad.SVGD(model, lr=0.5, scale=1.0, rho=0.0, eps=0.0)
        >>> before = model.weight.detach().clone()
        >>> (100 * model(torch.ones(4, 2))).mean().backward()
        >>> optimizer.step()
        >>> before - model.weight.detach()
        tensor([[0.5000, 0.5000]])
    """

    rule = descend  # Algorithm 1, "apply update": the gradient is the virtual one already
    accepts: ClassVar[dict[str, Accepts]] = SETTINGS

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor = 0.1,
        scale: float = 0.1,
        rho: float = 0.9,
        eps: float = 1e-6,
        biases: bool = False,
        weight_decay: float = 0.0,
        *,
        per: str = "position",
        loss_reduction: str = "mean",
        grad_scaler: Scaler | None = None,
        param_groups: ParamsT | None = None,
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        arguments = locals()
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"SVGD's model = {model!r} is not accepted: it must be a torch.nn.Module, not its parameters"
            )
        _check("SVGD", arguments, CHOICES)
        # By path and not by parameter: what shards a model gives it other parameters while it runs.
        self._group_of: dict[str, int] = {}
        self._paths: dict[int, list[str]] = defaultdict(list)
        for path, param in model.named_parameters(remove_duplicate=False):
            self._paths[id(param)].append(path)
        super().__init__(model.named_parameters() if param_groups is None else param_groups, arguments)
        optimizer, defaults = weakref.ref(self), self.defaults

        def settings(site: str) -> Mapping[str, Any]:
            itself = optimizer()
            return defaults if itself is None else itself._settings(site)

        self.virtual_gradients = VirtualGradients(model, settings, biases, per, loss_reduction, grad_scaler)
        # A step that the scaler skips must not have changed r.
        self.virtual_gradients.provisional = grad_scaler is not None
        self.register_step_post_hook(_commit)
        weakref.finalize(self, self.virtual_gradients.remove).atexit = False

    @classmethod
    def authors(
        cls,
        model: nn.Module,
        batch_size: int,
        lr: float | Tensor = 1e-2,
        scale: float = 0.1,
        rho: float = 0.9,
        eps: float = 1e-6,
        **others: Any,
    ) -> SVGD:
        """Returns the optimizer with `scale` and `eps` in the units of the authors' program.

        The program takes the gradients of the mean loss for those of the samples, which are m = batch_size times as
        large: its `scale` is m, its `eps` m² times as much in ours. The settings in the tables of the paper are the
        program's.

        Args:
            model: The model.
            batch_size: Samples in a mini-batch, at least 1.
            lr: Learning rate, the same in both.
            scale: The program's s.
            rho: Decay of the running mean, the same in both.
            eps: The program's epsilon.
            **others: Further arguments of the class.

        Raises:
            TypeError: If `batch_size` is no integer, and as the class does.
            ValueError: If `batch_size` is not positive, and as the class does.

        Example:
            >>> import torch, varigrad
            >>> optimizer = varigrad.SVGD.authors(torch.nn.Linear(2, 1), batch_size=32, scale=0.1)
            >>> optimizer.param_groups[0]["scale"]
            3.2
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(f"SVGD's batch_size = {batch_size!r} is not accepted: it must be a positive integer")
        if batch_size < 1:
            raise ValueError(f"SVGD's batch_size = {batch_size!r} is not accepted: it must be a positive integer")
        _check("SVGD", {"scale": scale, "rho": rho, "eps": eps}, SETTINGS)
        return cls(model, lr, batch_size * scale, rho, batch_size**2 * eps, **others)

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the learning rate."""
        return {"lr": group["lr"]}

    def _settings(self, site: str) -> Mapping[str, Any]:
        """The hyperparameters of a site: those of the group that its parameter is in."""
        return self.param_groups[self._group_of[site]] if site in self._group_of else self.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; what it does not set is taken from the constructor.

        Args:
            param_group: `params` and any hyperparameters and flags.

        Raises:
            TypeError: If a value has the wrong type or a key is unknown.
            ValueError: If a value is out of range.
        """
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            self._group_of.update(dict.fromkeys(self._paths.get(id(param), ()), len(self.param_groups) - 1))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients; with a `grad_scaler` also r, to what it was after the last step.

        Args:
            set_to_none: Whether to remove the gradients rather than to make them zero.
        """
        super().zero_grad(set_to_none)
        self.virtual_gradients.discard()

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state, r under `"virtual_gradients"`."""
        return {**super().state_dict(), "virtual_gradients": self.virtual_gradients.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned.

        Args:
            state_dict: The saved state.

        Raises:
            ValueError: If the state is not this optimizer's, or another model's. Nothing has been changed then.
        """
        if "virtual_gradients" not in state_dict:
            raise ValueError(
                "the state dict is not SVGD's: it has no virtual_gradients, which hold r; what gathers the state of "
                "several processes leaves them out: save what SVGD.state_dict() returns, in each process"
            )
        self.virtual_gradients.check_state_dict(state_dict["virtual_gradients"])
        super().load_state_dict(state_dict)
        self.virtual_gradients.load_state_dict(state_dict["virtual_gradients"])

    def __getstate__(self) -> dict[str, Any]:
        """Refuses to be copied: a copy would have no model."""
        raise TypeError("an SVGD cannot be pickled or copied, because it is tied to its model: save its state_dict()")


def _commit(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Has r count after a step."""
    if isinstance(optimizer, SVGD):
        optimizer.virtual_gradients.commit()
