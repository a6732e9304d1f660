"""Seeing the parametrised operations while a layer's forward pass runs, and standing in their backward pass."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .calls import Calls
from .parametrised import OPERATIONS, Operation, explicit_padding, folded_linear

__all__ = ["Call", "Interception", "Listener", "Parameter", "refuse_graph"]

Parameter = tuple[str, nn.Module, str]
"""The path of a parameter, the module that holds it, and its name there."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a parametrised operation, at its place in the forward pass.

    Attributes:
        site: The path of its weight in the model (of its bias, if it has no weight), such as `"encoder.0.weight"`.
        number: How many calls of the same site came before it in this forward pass.
        operation: What kind of operation it is; `operation.channel` is the dimension of `grad`'s channels.
        module: The module whose forward pass it belongs to.
        arguments: The operation's arguments by name. Of `weight` and `bias` they hold the parameters themselves, or
            views of them: the projections of an attention are slices of one parameter.
        batch: Where the samples are not the first dimension: how many there are, in the last but one (sequences in
            front, as inside an attention).
        unbatched: Whether input and gradient are those of one sample, without a dimension of samples.
    """

    site: str
    number: int
    operation: Operation
    module: nn.Module
    arguments: Mapping[str, Any]
    batch: int | None = None
    unbatched: bool = False

    def samples_first(self, tensor: Tensor) -> Tensor:
        """Returns a view whose first dimension is that of the samples; of an input or of a gradient."""
        if self.batch is not None:
            return tensor.reshape(-1, self.batch, tensor.shape[-1]).transpose(0, 1)
        return tensor.unsqueeze(0) if self.unbatched else tensor

    def as_it_was(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """Undoes `samples_first`."""
        if self.batch is not None:
            tensor = tensor.transpose(0, 1)
        return tensor.reshape(shape)


Answer = Tensor | tuple[Tensor | None, Tensor | None] | None
"""What a listener may answer."""


class Listener(Protocol):
    """Whoever a tap reports to, once for every call in every backward pass, in the order of the backward pass."""

    def __call__(self, call: Call, inputs: Tensor, grad: Tensor) -> Answer:
        """Hears of one call.

        Args:
            call: Which one.
            inputs: The operation's input, with the samples in its first dimension: (N, ..., features) for `linear`,
                (N, channels, *space) for the convolutions (padded already where the module pads by itself), indices
                (N, ...) for `embedding`.
            grad: The gradient of the loss by the operation's output, with the samples in its first dimension:
                (N, ..., features) for `linear` and `embedding`, (N, channels, *space) for the convolutions. For a loss
                that is a mean over N samples it holds each sample's own gradient divided by N. Not to be written to.

        Returns:
            What the gradients of the operation's parameters are to be computed from, shaped like `grad`; None for
            `grad` itself. Or those gradients themselves, of weight and bias, each None where the call has none. A tap
            that does not substitute ignores the answer.
        """


class Interception(TorchFunctionMode):
    """Sees every function that is called while a tapped layer's `forward` runs."""

    def __init__(
        self, module: nn.Module, parameters: list[Parameter], calls: Calls, listener: Listener, substitute: bool
    ) -> None:
        super().__init__()
        self._module = module
        self._parameters = parameters
        self._calls = calls
        self._listener = listener
        self._substitute = substitute
        self._batch: int | None = None  # inside an attention
        self.missing = {path for path, *_ in parameters}
        """The parameters that no operation has been seen to take."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = OPERATIONS.get(func)
        if operation is not None:
            return self._operate(func, operation, operation.bind(args, kwargs))
        if func is functional.multi_head_attention_forward:
            return self._attend(args, kwargs)
        return func(*args, **kwargs)

    def _attend(self, args: Any, kwargs: Any) -> Any:
        query = kwargs.get("query", args[0] if args else None)
        self._batch = query.shape[1] if query.dim() == 3 else 1
        try:
            with self:
                return _attention(*args, **kwargs)
        finally:
            self._batch = None

    def _path(self, tensor: Tensor | None) -> str | None:
        """The path of the tapped parameter that this is, or is a view of."""
        if tensor is None:
            return None
        for path, holder, name in self._parameters:
            parameter = holder._parameters.get(name)
            if parameter is not None and (tensor is parameter or tensor._base is parameter):
                self.missing.discard(path)
                return path
        return None

    def _operate(self, function: Callable[..., Tensor], operation: Operation, arguments: dict[str, Any]) -> Tensor:
        weight: Any = arguments.get("weight")
        bias: Any = arguments.get("bias")
        weight_path, bias_path = self._path(weight), self._path(bias)
        tapped_weight = weight if weight_path is not None and weight.requires_grad else None
        tapped_bias = bias if bias_path is not None and bias.requires_grad else None
        if tapped_weight is None and tapped_bias is None:
            return function(**arguments)
        site = cast("str", weight_path or bias_path)
        number = self._calls.number(site)
        if not torch.is_grad_enabled():
            return function(**arguments)

        x: Tensor = arguments.pop("input")
        unbatched = x.dim() == operation.sample_dims(arguments)
        convolution = operation.name.startswith("conv")
        if convolution:
            x = explicit_padding(arguments, x.unsqueeze(0) if unbatched else x)
        if operation.name not in ("norm", "embedding"):
            x = _autocast(x)
        call = Call(site, number, operation, self._module, arguments, self._batch, unbatched and not convolution)
        # Left to autograd, the bias of a convolution alone has it compute the weight's gradient as well, once more.
        aside = convolution and tapped_bias is None and bias is not None
        given = dict(arguments)
        if self._substitute:
            given |= {"weight": weight if tapped_weight is None else tapped_weight.detach()}
            if aside and tapped_weight is not None and bias.requires_grad:
                tapped_bias = bias
            given |= {"bias": tapped_bias.detach()} if tapped_bias is not None else {}
            function = folded_linear if operation.name == "linear" else function
        else:
            tapped_weight = tapped_bias = None
        output = function(input=x, **given)
        tap: Callable[..., Tensor] = _Tap.apply
        output = tap(output, x.detach(), tapped_weight, tapped_bias, call, self._listener, aside)
        return output.squeeze(0) if unbatched and convolution else output

    def report_missing(self, path: str) -> None:
        """Warns, once, of parameters that the layer does not use through the functions that are tapped."""
        warnings.warn(
            f"{path or 'the model'} ({type(self._module).__name__}) does not hand {', '.join(sorted(self.missing))} to "
            "a function that can be tapped: it keeps its true gradient",
            stacklevel=4,
        )
        self.missing.clear()


def _autocast(x: Tensor) -> Tensor:
    """The input as autocast would cast it for a matrix product: cast here, so that what is kept is what it uses."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype is not torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


# What `functional.multi_head_attention_forward` does, without handing itself to the function mode once more.
_attention = types.FunctionType(
    functional.multi_head_attention_forward.__code__,
    {**vars(functional), "has_torch_function": lambda tensors: False},
    argdefs=functional.multi_head_attention_forward.__defaults__,
)


def _same(seen: Tensor, grad: Tensor) -> bool:
    """Whether nothing was substituted after all, so that the two gradients can come from one call, as autograd's do."""
    # A host does not wait for a device to compare; the first element that differs ends it.
    return seen is grad or (grad.is_cpu and torch.equal(seen, grad))


def refuse_graph(call: Call) -> None:
    """Raises an error in a backward pass that makes a graph of its own."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{call.site}: a gradient that something is substituted for cannot be differentiated again; call "
            "backward without create_graph=True, or remove() the taps before"
        )


class _Tap(torch.autograd.Function):
    """Hands the output through, and computes the parameters' gradients from what the listener makes of the output's."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, x: Tensor, weight: Any, bias: Any, call: Call, listener: Listener, aside: bool
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.call, ctx.listener, ctx.aside = call, listener, aside
        ctx.autocast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
        # Another tensor on the same memory, to autograd no view: it may be overwritten, as by an in-place ReLU.
        return output.data

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,), (x,) = grads, ctx.saved_tensors
        call: Call = ctx.call
        wanted: tuple[bool, bool] = (ctx.needs_input_grad[2], ctx.needs_input_grad[3])
        if any(wanted):
            refuse_graph(call)
        with torch.no_grad():
            answer = ctx.listener(call, call.samples_first(x), call.samples_first(grad))
            if not any(wanted):
                return grad, *[None] * 6
            if isinstance(answer, tuple):
                found = tuple(one if want else None for one, want in zip(answer, wanted, strict=True))
                return grad, None, *found, None, None, None
            seen = grad if answer is None else call.as_it_was(answer, grad.shape)
            if ctx.autocast is not None and call.operation.name == "norm":
                with torch.autocast(x.device.type, ctx.autocast):
                    found = call.operation.gradients(call.arguments, x, seen, wanted)
            elif ctx.aside and wanted[1] and not _same(seen, grad):
                found = (
                    call.operation.gradients(call.arguments, x, seen, (wanted[0], False))[0],
                    grad.sum([dimension for dimension in range(grad.dim()) if dimension != 1]),
                )
            else:
                found = call.operation.gradients(call.arguments, x, seen, wanted)
        return grad, None, *found, None, None, None
