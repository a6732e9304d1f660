"""The variance over the samples of a batch from what passes through the layers, in one ordinary backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from ..engine.taps import Call, Taps
from .arithmetic import Moments, join, working_dtype
from .operations import samples_first, terms_of
from .passes import BackwardVariance
from .terms import Outer, Terms, Together

__all__ = ["LayerVariance", "unserved"]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far the samples' terms may miss the gradient they should add up to, against the root of their sum of squares."""
COARSE_TOLERANCE = 0.1
"""The same where products are rounded to half precision, or to TF32."""


def unserved(model: nn.Module) -> str | None:
    """What in the model `method="layers"` cannot serve; None if it serves all."""
    if isinstance(model, DistributedDataParallel):
        return "DistributedDataParallel averages the gradients over its workers afterwards"
    probe = Taps(model, _ignore, substitute=False, biases=True)
    probe.remove()
    tapped = {id(holder._parameters[name]) for _, own in probe.modules.values() for _, holder, name in own}
    for path, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if param.requires_grad and id(param) not in tapped:
                where = f"{path} ({type(module).__name__})" if path else f"the {type(module).__name__} itself"
                return f"the parameter {name} of {where} belongs to no layer that is known"
    return None


class LayerVariance(BackwardVariance):
    """With the terms c_n of M samples, which add up to `p.grad`, its variance is M/(M-1) Σ (c_n - p.grad/M)².

    Every layer's input and the gradient at its output give the terms; `terms` and `convolution` say how. Passes that
    add to the same `p.grad` are one batch.

    Args:
        model: The model.
        reason: Why this method.
        batch_dim: The dimension of the samples in layers that work position by position.
        penalty: Whether the loss has terms that belong to no sample.
    """

    method = "layers"

    def __init__(self, model: nn.Module, reason: str, batch_dim: int = 0, penalty: bool = False) -> None:
        if problem := unserved(model):
            raise TypeError(f"gradient_variance(method='layers') cannot serve this model: {problem}")
        super().__init__(model, reason)
        self._batch_dim = batch_dim
        self._penalty = penalty
        self._earlier = 0  # samples of the passes before
        self._deviations: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}  # only where p.grad is not exactly that
        self._drop()
        self._undo.append(Taps(model, self._heard, substitute=False, biases=True).remove)

    def _drop(self) -> None:
        self._count = 0
        self._calls: set[Call] = set()
        self._parts: dict[str, dict[slice | None, list[Terms]]] = {}
        self._grads: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._done: set[str] = set()
        self._misses: dict[str, Tensor] = {}

    def _start(self) -> None:
        self._earlier = 0
        self._deviations.clear()
        self._totals.clear()

    def _heard(self, call: Call, inputs: Tensor, grad: Tensor) -> None:
        """Takes a layer's input and the gradient at its output."""
        self._enter()
        if call in self._calls:
            raise RuntimeError(
                f"a second backward pass goes through one call of {_where(call)}: its samples would count twice; add "
                "up the losses and go backward once"
            )
        self._calls.add(call)
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            inputs, grad = samples_first(call, inputs.detach(), grad.detach(), self._batch_dim)
            self._check_count(call, len(grad))
            found = terms_of(call, inputs, grad)
        for which, terms in found.items():
            param: Tensor = call.arguments[which]
            rows = None
            if param._base is not None:  # one of the projections that an attention keeps in one parameter
                first = param.storage_offset() // max(1, param._base.stride(0))
                rows = slice(first, first + len(param))
                param = param._base
            if name := self._names.get(id(param)):
                self._parts.setdefault(name, {}).setdefault(rows, []).append(terms)

    def _check_count(self, call: Call, count: int) -> None:
        self._count = self._count or count
        if count != self._count:
            raise RuntimeError(
                f"{_where(call)} had {count} samples, but other layers in the same pass had {self._count}: the samples "
                "must stand in one dimension of every layer's input, the first, or batch_dim"
            )
        if count < 2:
            raise ValueError(
                f"{_where(call)} had a batch of {count}, and a variance needs at least 2 samples: drop the last, "
                "incomplete batch, or use method='microbatch', where every backward pass is a sample"
            )

    def _keeps_totals(self, param: Parameter) -> bool:
        """Whether `p.grad` is not, or not exactly enough, the sum of the terms."""
        return self._penalty or param.dtype != working_dtype(param)

    def _arrives(self, name: str, param: Parameter, grad: Tensor) -> None:
        if param.grad is None:
            return  # it will be this gradient
        self._grads[name] = grad
        if self._adds_to is True and name in self._deviations and name not in self._totals:
            self._before[name] = param.grad.clone()

    def _added(self, name: str, param: Parameter) -> None:
        grad, parts = self._grads.pop(name, param.grad), self._parts.pop(name, None)
        assert grad is not None
        if parts is None:
            if self._penalty:
                return
            raise RuntimeError(_other_path(name))
        with torch.autocast(param.device.type, enabled=False):
            self._take(name, param, self._moments(name, param, grad, parts))

    def _take(self, name: str, param: Parameter, moments: Moments) -> None:
        """Joins the terms of this pass to those before."""
        if self._earlier:
            before = self._totals.get(name, self._before.pop(name, None))
            if before is None:  # no gradient until now
                before = torch.zeros_like(moments.total)
            deviations = self._deviations.get(name)
            if deviations is None:
                deviations = torch.zeros_like(moments.deviations)
            moments = join(Moments(self._earlier, before, deviations), moments)
        self._deviations[name] = moments.deviations
        if self._keeps_totals(param):
            self._totals[name] = moments.total
        self._done.add(name)

    def _moments(
        self, name: str, param: Parameter, grad: Tensor, parts: dict[slice | None, list[Terms]]
    ) -> Moments:
        """The moments of the terms of this pass, rows by rows if the uses were of different rows."""
        if set(parts) == {None}:
            return self._checked(name, param, grad, Together.of(parts[None]))
        spans = sorted(((rows or slice(0, len(param))), list_) for rows, list_ in parts.items())
        total = torch.zeros_like(param, dtype=working_dtype(param))
        deviations = torch.zeros_like(total)
        end = 0
        for rows, terms in spans:
            if rows.start < end:
                raise RuntimeError(
                    f"{name} was used as a whole and in parts in one pass: use two modules for self-attention and "
                    "cross-attention"
                )
            end = rows.stop
            part = self._checked(name, param, grad[rows], Together.of(terms))
            total[rows], deviations[rows] = part.total, part.deviations
        return Moments(self._count, total, deviations)

    def _checked(self, name: str, param: Parameter, grad: Tensor, terms: Terms) -> Moments:
        """The moments of some terms, and a note on how far these are from adding up to the gradient."""
        if self._penalty:
            return terms.moments(None)
        if isinstance(terms, Outer) and not self._keeps_totals(param):
            # One more product of matrices would give their sum; one random direction tells as well.
            moments = terms.moments(grad)
            direction = torch.arange(1, grad.shape[1] + 1, device=grad.device, dtype=grad.dtype).mul_(1.618).cos_()
            each = terms.times(direction)
            miss, squares = each.sum(0).sub_(grad @ direction), each.square_().sum()
        else:
            moments = terms.moments(None)
            miss = moments.total - grad
            squares = moments.deviations.sum() + moments.total.square().sum() / moments.count
        coarse = terms.coarse or param.is_cuda or param.dtype not in TOLERANCE
        tolerance = COARSE_TOLERANCE if coarse else TOLERANCE[param.dtype]
        excess = miss.square_().sum() - tolerance**2 * squares
        earlier = self._misses.get(name)
        self._misses[name] = excess if earlier is None else torch.maximum(earlier, excess)
        return moments

    def _end(self) -> None:
        """Publishes the variances of all gradients, those included that this pass has not added to."""
        if self._misses:
            first = next(iter(self._misses.values()))
            for name, excess in zip(
                self._misses, torch.stack([excess.to(first) for excess in self._misses.values()]).tolist(), strict=True
            ):
                if excess > 0:
                    raise RuntimeError(_other_path(name))
        if self._count:
            for name, param in self.params.items():
                if name not in self._done and param.grad is not None:
                    zero = torch.zeros_like(param.grad, dtype=working_dtype(param))
                    if name in self._deviations and name not in self._totals:
                        self._before[name] = param.grad
                    self._take(name, param, Moments(self._count, zero, zero.clone()))
            self._earlier += self._count
        for name, deviations in self._deviations.items():
            variance = deviations * (self._earlier / (self._earlier - 1))
            param = self.params[name]
            if variance.stride() != param.stride():
                variance = torch.empty_like(param, dtype=variance.dtype).copy_(variance)
            self._publish(name, variance, self._earlier)
        self._drop()
        self._remember()


def _where(call: Call) -> str:
    return f"{call.site.rpartition('.')[0] or 'the model'} ({type(call.module).__name__})"


def _other_path(name: str) -> str:
    return (
        f"the gradient of {name} is not the sum over its layer's calls: it is used elsewhere too, or the loss has a "
        "term without samples, such as a penalty on the weights; for the latter say penalty=True"
    )


def _ignore(call: Call, inputs: Tensor, grad: Tensor) -> None:
    """Listens to nothing."""
