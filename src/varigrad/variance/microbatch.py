"""The variance over accumulated backward passes: every pass between two steps is one sample."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import Parameter

from .arithmetic import working_dtype
from .passes import BackwardVariance

__all__ = ["MicrobatchVariance"]


class MicrobatchVariance(BackwardVariance):
    """With K passes whose gradients g_k add up to `p.grad`, its variance is K/(K-1) Σ (g_k - p.grad/K)².

    The sum of squared deviations is updated pass by pass: with the gradients of n - 1 passes in `p.grad`, the n-th
    adds (g_n - p.grad/(n-1))² (n-1)/n.
    """

    method = "microbatch"

    def __init__(self, model: nn.Module, reason: str) -> None:
        super().__init__(model, reason)
        self._passes = 0
        self._deviations: dict[str, Tensor] = {}
        self._arrived: dict[str, Tensor | None] = {}
        self._waiting: dict[str, Tensor | None] = {}

    def _arrives(self, name: str, param: Parameter, grad: Tensor) -> None:
        self._waiting[name] = self._addition(param, grad, self._passes if self._adds_to else 0)

    def _start(self) -> None:
        self._passes = 0
        self._deviations.clear()

    def _added(self, name: str, param: Parameter) -> None:
        self._arrived[name] = self._waiting.pop(name)

    def _drop(self) -> None:
        self._arrived, self._waiting = {}, {}

    def _addition(self, param: Parameter, grad: Tensor | None, earlier: int) -> Tensor | None:
        """What one more gradient, None for zero, adds to the squared deviations; None for the first."""
        if earlier == 0:
            return None
        dtype = working_dtype(param)
        mean = None if param.grad is None else param.grad.to(dtype) / earlier
        if grad is None:
            assert mean is not None
            deviation = mean
        else:
            deviation = grad.to(dtype) if mean is None else mean.sub_(grad)
        return deviation.square().mul_(earlier / (earlier + 1))

    def _end(self) -> None:
        for name, param in self.params.items():
            if name not in self._arrived and param.grad is not None:
                self._arrived[name] = self._addition(param, None, self._passes)
        self._passes += 1
        for name, addition in self._arrived.items():
            if addition is not None:
                deviations = self._deviations.get(name)
                self._deviations[name] = addition if deviations is None else deviations.add_(addition)
        self._drop()
        if self._passes > 1:
            for name, deviations in self._deviations.items():
                self._publish(name, deviations * (self._passes / (self._passes - 1)), self._passes)
        self._remember()

    def _problem(self, name: str, param: Parameter) -> str | None:
        if self._passes == 1 and name in self._seen:
            return (
                "gradient_variance(method='microbatch') has seen one backward pass since the last step, and a "
                "variance needs two: call backward() on the parts of the batch"
            )
        return super()._problem(name, param)
