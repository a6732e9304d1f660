"""What every way of finding the variance inside a mini-batch has in common: the handle that the user holds."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter, UninitializedParameter
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from varigrad.engine.storage import is_sharded

__all__ = ["GradientVariance"]


_HELD = "_gradient_variance"


class _Held:
    """What keeps the handle alive as long as the model, an attribute of the parameters; no copy inherits it."""

    def __init__(self, handle: GradientVariance) -> None:
        self.handle = handle

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class GradientVariance:
    """Keeps `p.grad_variance` and `p.grad_samples` beside `p.grad`; made by `varigrad.gradient_variance`.

    As a context manager it removes itself at the end.

    Attributes:
        method: How the variance is found: "layers", "vmap", "microbatch" or "ranks".
        reason: Why this method, in a few words.
        params: The parameters it serves, those that required a gradient when it was made, by their names.
    """

    method: str

    def __init__(self, model: nn.Module, reason: str) -> None:
        self.reason = reason
        self.params: dict[str, Parameter] = {
            name: param for name, param in model.named_parameters() if param.requires_grad
        }
        if not self.params:
            raise ValueError("gradient_variance needs a model with parameters that require a gradient; this has none")
        for name, param in self.params.items():
            if isinstance(param, UninitializedParameter):
                raise ValueError(
                    f"gradient_variance cannot serve {name}, which has no shape yet: run the model once on some input "
                    "before"
                )
            if is_sharded(param):
                raise TypeError(
                    f"gradient_variance cannot serve {name}, a {type(param).__name__} of which this process has only "
                    "a part: use an unsharded model, or DistributedDataParallel with method='ranks'"
                )
            if param.is_complex():
                raise TypeError(
                    f"gradient_variance cannot serve {name}, which is {param.dtype}: the variance of a complex "
                    "gradient is not one number; keep real and imaginary part in two real parameters"
                )
            if isinstance(held := param.__dict__.get(_HELD), _Held):
                raise ValueError(
                    f"{name} is served by gradient_variance(method={held.handle.method!r}) already: call remove() on "
                    "that handle first"
                )
        self._names = {id(param): name for name, param in self.params.items()}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._probe: tuple[str, Tensor] | None = None
        # Torch keeps this hook for ever: it must not keep the handle, and with it the model.
        guard = register_optimizer_step_pre_hook(functools.partial(_guard, weakref.ref(self)))
        weakref.finalize(self, guard.remove)
        self._undo: list[Callable[[], Any]] = [guard.remove]
        for param in self.params.values():
            param.__dict__[_HELD] = _Held(self)

    def __enter__(self) -> GradientVariance:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"gradient_variance(method={self.method!r}, {len(self.params)} parameters): {self.reason}"

    def compute(
        self,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Does what forward and `loss.backward()` do, sample by sample; only with method="vmap".

        Raises:
            RuntimeError: If the method is another one, which goes with the usual `loss.backward()`.
        """
        raise RuntimeError(
            f"compute belongs to method='vmap'; with method={self.method!r} call loss.backward() as usual"
        )

    def rescale(self, factor: float | Tensor) -> None:
        """Tells that every `p.grad` has been multiplied by `factor`: the variances are multiplied by its square.

        To be called after whatever scales the gradients between `backward()` and the step: gradient clipping
        (`factor = min(1, max_norm / (norm + 1e-6))`), `GradScaler.unscale_` (`factor = 1 / scaler.get_scale()`), a
        division by the number of accumulated passes. An optimizer with `variance="batch"` refuses to step if it was
        forgotten.

        Args:
            factor: What the gradients were multiplied by; a number or a tensor of one element.
        """
        for name, param in self.params.items():
            if name in self._seen:
                variance = getattr(param, "grad_variance", None)
                if variance is not None:
                    square = factor * factor
                    variance.mul_(square.to(variance) if isinstance(square, Tensor) else square)
        self._remember()

    def remove(self) -> None:
        """Takes everything off the model again: hooks, `p.grad_variance` and `p.grad_samples`. May be called twice."""
        while self._undo:
            self._undo.pop()()
        for param in self.params.values():
            _forget(param)
            param.__dict__.pop(_HELD, None)
        self._seen.clear()
        self._probe = None

    def _publish(self, name: str, variance: Tensor, samples: int) -> None:
        """Sets what the optimizers read."""
        param: Any = self.params[name]
        param.grad_variance = variance
        param.grad_samples = samples

    def _withdraw(self) -> None:
        """Takes away what belonged to an older gradient."""
        for param in self.params.values():
            _forget(param)

    def _remember(self) -> None:
        """Notes what the gradients look like, to find out later whether somebody else has changed them."""
        self._seen = {
            name: (param.grad.data_ptr(), param.grad._version, param._version)
            for name, param in self.params.items()
            if param.grad is not None
        }
        # GradScaler divides gradients without counting a version. It divides all of them: the smallest one tells.
        self._probe = None
        if self._seen:
            name = min(self._seen, key=lambda name: self.params[name].numel())
            self._probe = name, _magnitude(self.params[name])

    def _foundation(self) -> bool | str:
        """Whether a pass that begins now adds to the gradients of the last one (True) or to nothing (False).

        Otherwise it adds to something that this handle knows nothing of: what is wrong then.
        """
        if self._seen and all(
            (param := self.params[name]).grad is not None
            and (param.grad.data_ptr(), param.grad._version, param._version) == seen
            for name, seen in self._seen.items()
        ):
            return True
        for name, param in self.params.items():
            if param.grad is not None and bool(param.grad.any()):
                return (
                    f"{name} had an older gradient, or one that was changed, to which this one has been added: its "
                    "variance is not known; call zero_grad() before"
                )
        return False

    def _guard(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuses a step on a variance that is not, or no longer, that of the gradient."""
        if any(callable(argument) for argument in (*args, *kwargs.values())):
            return  # a closure will compute the gradient anew
        for group in optimizer.param_groups:
            if group.get("variance") != "batch":
                continue
            for param in group["params"]:
                name = self._names.get(id(param))
                if name is None or param.grad is None:
                    continue
                if problem := self._problem(name, param):
                    raise RuntimeError(f"{type(optimizer).__name__}(variance='batch') cannot step {name}: {problem}")

    def is_current(self) -> bool:
        """Returns whether every variance is that of its gradient as it is: not clipped or unscaled since."""
        return all(self._problem(name, param) is None for name, param in self.params.items() if param.grad is not None)

    def _problem(self, name: str, param: Parameter) -> str | None:
        """What keeps the optimizer from using the variance of a parameter that has a gradient."""
        assert param.grad is not None
        seen = self._seen.get(name)
        if seen is None:
            return f"gradient_variance(method={self.method!r}) has not seen its gradient"
        changed = (param.grad.data_ptr(), param.grad._version) != seen[:2]
        if not changed and self._probe is not None and self._probe[0] == name:
            changed = not torch.equal(self._probe[1], _magnitude(param))
        if changed:
            return (
                "its gradient has been changed since backward(), by clipping or a GradScaler perhaps: tell its "
                "variance with handle.rescale(factor)"
            )
        return None


def _guard(
    handle: weakref.ref[GradientVariance], optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Before the step of any optimizer."""
    owner = handle()
    if owner is not None:
        owner._guard(optimizer, args, kwargs)


def _magnitude(param: Parameter) -> Tensor:
    assert param.grad is not None
    return param.grad.detach().abs().sum()


def _forget(param: Parameter) -> None:
    for attribute in ("grad_variance", "grad_samples"):
        param.__dict__.pop(attribute, None)
