"""The variance over the samples of a batch from what passes through the layers, in one ordinary backward pass."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from varigrad.engine.taps import Call, Taps

from .arithmetic import Moments, is_unseen, join, working_dtype
from .operations import samples_first, terms_of
from .passes import BackwardVariance
from .terms import FEW, Memory, Outer, Rows, Terms, Together

__all__ = ["LayerVariance", "unserved"]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far a parameter's gradient may be from the sum of the terms of several uses, against its size."""
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


@dataclass
class _Use:
    """One use of a parameter in a pass."""

    terms: Terms
    rows: tuple[int, int] | None
    """The rows of the parameter that were used, if not all."""
    total: Tensor | None
    variance: Tensor | None
    given: int
    """Where the gradient is that autograd was given for this use."""


class LayerVariance(BackwardVariance):
    """With the terms c_n of M samples, which add up to `p.grad`, its variance is M/(M-1) Σ (c_n - p.grad/M)².

    Every layer's input and the gradient at its output give the terms; `terms` and `convolution` say how. Their sum is
    handed to autograd as the parameter's gradient, so that it is not computed twice. Passes that add to the same
    `p.grad` are one batch.

    Args:
        model: The model.
        reason: Why this method.
        batch_dim: The dimension of the samples in layers that work position by position.
        penalty: Whether the loss has terms that belong to no sample.
    """

    method = "layers"

    def __init__(self, model: nn.Module, reason: str, batch_dim: int = 0, penalty: bool = False) -> None:
        super().__init__(model, reason)
        try:
            problem = unserved(model)
            if problem is not None:
                raise TypeError(f"gradient_variance(method='layers') cannot serve this model: {problem}")
            taps = Taps(model, self._heard, substitute=True, biases=True, on_node=self._heard_matrix)
        except Exception:
            self.remove()
            raise
        self._undo.append(taps.remove)
        self._batch_dim = batch_dim
        self._penalty = penalty
        self._memory = Memory()
        self._earlier = 0  # samples of the passes before
        self._variances: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}  # only where p.grad is not exactly that
        self._served: WeakSet[Call] = WeakSet()
        self._spare: dict[str, Tensor] = {}
        self._drop()

    def _drop(self) -> None:
        self._count = 0
        self._calls: list[Call] = []
        self._uses: dict[str, list[_Use]] = {}
        self._grads: dict[str, Tensor] = {}
        self._carried: dict[str, Tensor] = {}
        self._done: set[str] = set()

    def _start(self) -> None:
        self._earlier = 0
        self._spare = self._variances.copy()  # their memory, where nobody has kept them
        self._served.clear()
        self._variances.clear()
        self._totals.clear()

    def _heard(self, call: Call, inputs: Tensor, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Takes a layer's input and the gradient at its output, returns the gradients of its weight and its bias."""
        self._begin(call)
        with _plain(grad):
            inputs, grad = samples_first(call, inputs.detach(), grad.detach(), self._batch_dim)
            self._check_count(call, len(grad))
            found = terms_of(call, inputs, grad)
            answers = {which: self._use(call, call.arguments[which], terms) for which, terms in found.items()}
        return answers.get("weight"), answers.get("bias")

    def _heard_matrix(
        self, call: Call, inputs: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same for a linear layer on a matrix, of which autograd has computed the gradients already."""
        self._begin(call)
        with _plain(grad):
            self._check_count(call, len(grad))
            if weight is not None:
                self._use(call, call.arguments["weight"], Outer(grad[:, None], inputs[:, None]), weight)
            if bias is not None:
                self._use(call, call.arguments["bias"], Rows(grad), bias)
        return weight, bias

    def _begin(self, call: Call) -> None:
        self._enter()
        if self._adds_to is True and call in self._served:
            raise RuntimeError(
                f"a second backward pass goes through one call of {_where(call)}: its samples would count twice; add "
                "up the losses and go backward once"
            )
        self._calls.append(call)

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

    def _use(self, call: Call, param: Tensor, terms: Terms, known: Tensor | None = None) -> Tensor:
        """Notes one use of a parameter, and returns the gradient that it gives; `known`, if it is."""
        dtype, rows = param.dtype, None
        if param._base is not None:  # one of the projections that an attention keeps in one parameter
            first = param.storage_offset() // max(1, param._base.stride(0))
            rows = first, first + len(param)
            param = param._base
        name = self._names.get(id(param))
        # The variance of several uses is found when all are known.
        single = rows is None and call.number == 0 and name is not None and name not in self._uses
        total, variance = known, None
        if single:
            spare = self._spare.pop(name or "", None) if terms.shape.numel() >= FEW else None
            out = spare if spare is not None and spare.shape == terms.shape and is_unseen(spare) else None
            _, total, variance = terms.moments(self._memory, known, out)
        elif total is None:
            total = terms.total(self._memory)
        given = total.to(dtype)
        if name is not None:
            kept = None
            if self._keeps_totals(param):  # what is kept, autograd must copy; to what it knows, it may add
                kept = total if known is None else total.clone()
            self._uses.setdefault(name, []).append(_Use(terms, rows, kept, variance, given.data_ptr()))
        return given

    def _keeps_totals(self, param: Tensor) -> bool:
        """Whether `p.grad` is not, or not exactly enough, the sum of the terms."""
        return self._penalty or param.dtype != working_dtype(param)

    def _arrives(self, name: str, param: Parameter, grad: Tensor) -> None:
        if param.grad is None:
            return  # it will be this gradient
        self._grads[name] = grad
        if self._adds_to is True and name in self._variances and name not in self._totals:
            self._carried[name] = param.grad.clone()

    def _added(self, name: str, param: Parameter) -> None:
        grad, uses = self._grads.pop(name, param.grad), self._uses.pop(name, [])
        assert grad is not None
        if not uses and not self._penalty:
            raise RuntimeError(_other_path(name))
        with _plain(param):
            if len(uses) == 1 and uses[0].rows is None and (self._penalty or uses[0].given == grad.data_ptr()):
                use = uses[0]
                if use.variance is None:
                    self._take(name, param, use.terms.moments(self._memory))
                else:
                    total = grad if use.total is None else use.total
                    self._take(name, param, Moments(use.terms.count, total, use.variance))
            elif uses:
                moments = self._together(name, param, uses)
                if not self._penalty:
                    self._compare(name, param, grad, moments, any(use.terms.coarse for use in uses))
                self._take(name, param, moments)

    def _together(self, name: str, param: Parameter, uses: list[_Use]) -> Moments:
        """The moments of the terms of several uses, rows by rows if those were of different rows."""
        by_rows: dict[tuple[int, int], list[Terms]] = {}
        for use in uses:
            by_rows.setdefault(use.rows or (0, len(param)), []).append(use.terms)
        total = torch.zeros_like(param, dtype=working_dtype(param))
        variance = torch.zeros_like(total)
        end = 0
        for (first, last), terms in sorted(by_rows.items(), key=lambda item: item[0]):
            if first < end:
                raise RuntimeError(
                    f"{name} was used as a whole and in parts in one pass: use two modules for self-attention and "
                    "cross-attention"
                )
            end = last
            part = Together.of(terms).moments(self._memory)
            total[first:last], variance[first:last] = part.total, part.variance
        return Moments(self._count, total, variance)

    def _compare(self, name: str, param: Parameter, grad: Tensor, moments: Moments, coarse: bool) -> None:
        """Refuses a gradient that is not the sum of the samples' terms."""
        coarse = coarse or param.is_cuda or param.dtype not in TOLERANCE
        tolerance = COARSE_TOLERANCE if coarse else TOLERANCE[param.dtype]
        size = (moments.variance.sum() + moments.total.square().sum() / moments.size).sqrt()
        if bool((grad - moments.total).norm() > tolerance * size):
            raise RuntimeError(_other_path(name))

    def _take(self, name: str, param: Parameter, moments: Moments) -> None:
        """Joins the terms of this pass to those before."""
        if self._earlier:
            before, variance = self._totals.get(name, self._carried.pop(name, None)), self._variances.get(name)
            if before is None or variance is None:  # no gradient until now
                before, variance = torch.zeros_like(moments.total), torch.zeros_like(moments.variance)
            moments = join(Moments(self._earlier, before, variance), moments)
        self._variances[name] = moments.variance
        if self._keeps_totals(param):
            self._totals[name] = moments.total
        self._done.add(name)

    def _end(self) -> None:
        """Publishes the variances of all gradients, those included that this pass has not added to."""
        self._spare.clear()
        self._served.update(self._calls)
        if self._count:
            for name, param in self.params.items():
                if name not in self._done and param.grad is not None:
                    zero = torch.zeros_like(param.grad, dtype=working_dtype(param))
                    if name in self._variances and name not in self._totals:
                        self._carried[name] = param.grad
                    self._take(name, param, Moments(self._count, zero, zero.clone()))
            self._earlier += self._count
        for name in self._done:
            variance, param = self._variances[name], self.params[name]
            if variance.stride() != param.stride():
                variance = torch.empty_like(param, dtype=variance.dtype).copy_(variance)
                self._variances[name] = variance
            self._publish(name, variance.detach(), self._earlier)  # its own tensor, so that it is known who keeps it
        self._drop()
        self._remember()


def _plain(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """No autocast, which may be on around `backward()`."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _where(call: Call) -> str:
    return f"{call.site.rpartition('.')[0] or 'the model'} ({type(call.module).__name__})"


def _other_path(name: str) -> str:
    return (
        f"the gradient of {name} is not the sum over its layer's calls: it is used elsewhere too, or the loss has a "
        "term without samples, such as a penalty on the weights; for the latter say penalty=True"
    )


def _ignore(call: Call, inputs: Tensor, grad: Tensor) -> None:
    """Listens without an answer."""
