"""Taps: who wants to know what arrives at a layer's output in the backward pass, or to change what its weight sees.

A tap hands every call of a parametrised operation to a listener during backward: its input, and the gradient that
arrives at its output. A listener that substitutes may return another gradient; the gradients of the operation's
parameters are then computed from that one, while the gradient passed on to the operation's input stays the true one.

    class Doubled:
        def __call__(self, call, inputs, grad):
            return 2 * grad

    taps = Taps(model, Doubled(), substitute=True)
    ...
    taps.remove()

**How.** While a tapped layer's `forward` runs, a `TorchFunctionMode` sees the functions it calls. The one that takes
the tapped parameter is called with the parameter detached, so that autograd prepares the gradient of the input alone,
and its output is led through an autograd function that does nothing on the way forward; on the way back it computes
the parameter's gradient, by the very kernels that autograd uses, from what the listener returns. Everything is computed
once, as in a plain backward pass; nothing is stored that a plain one would not store; the forward pass is torch's own.
A listener that only looks leaves the parameter where it is, and autograd computes its gradient as ever. For linear
layers on matrices, and for convolutions, there is a shorter way, where a listener can take it: `nodes`.

**Why not otherwise.** Hooks on autograd's nodes can only change both gradients, or compute one of them a second time;
hooks on modules do not see the projections inside an attention; a second class for every kind of layer copies torch's
forward passes and misses those of subclasses. The function mode sees the operation itself, whoever calls it, and adds
about a microsecond to a call.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .calls import Calls
from .interception import Call, Interception, Listener, Parameter
from .nodes import NodeListener, NodeTap

__all__ = ["Call", "Listener", "NodeListener", "Taps"]


class Taps:
    """Taps on the layers of a model.

    Tapped are Linear, Conv and ConvTranspose layers in one to three dimensions, Embedding and MultiheadAttention, and
    with `biases=True` their biases and the scale and shift of norm layers; subclasses of them too, if they use their
    parameters through the functions of `torch.nn.functional`. `modules` says which parameters that is. Others are left
    alone, complex ones among them, and those that require no gradient when the layer is called.

    A tap works in training and evaluation mode, with gradient accumulation, gradient checkpointing of either kind,
    autocast, shared parameters, a layer that is called several times, and DistributedDataParallel around the model.
    `torch.compile` runs the tapped layers uncompiled (a graph break at each). A copy of a tapped model, by `deepcopy`
    or `pickle`, has no taps. Twice differentiable it is only where nothing is substituted.

    Args:
        model: The model. Layers that are put into it later are not tapped.
        listener: Whom to report to.
        substitute: Whether the listener's answer replaces the gradient that parameters see.
        biases: Whether to tap biases and norm layers too.
        on_node: Whom to report to instead where torch's own passes can be left as they are (`nodes`); only with
            `substitute`.
        followed: Of which layers `on_node` is to hear: Linear on matrices, Conv1d to 3d.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If a layer's parameters do not exist yet (a lazy layer), or an embedding has sparse gradients.
        RuntimeError: If the model has taps that these would disturb: one that substitutes stands alone.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> def listener(call, inputs, grad):
        ...     print(call.site, call.number, tuple(inputs.shape), tuple(grad.shape))
        >>> taps = Taps(model, listener, substitute=False)
        >>> model(torch.ones(4, 2)).mean().backward()
        weight 0 (4, 2) (4, 1)
        >>> taps.remove()
    """

    def __init__(
        self,
        model: nn.Module,
        listener: Listener,
        *,
        substitute: bool,
        biases: bool = False,
        on_node: NodeListener | None = None,
        followed: tuple[type[nn.Module], ...] = (nn.Linear,),
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model = {model!r} is not accepted: it must be a torch.nn.Module")
        self.listener = listener
        self.substitute = substitute
        self.on_node = on_node
        self.followed = followed
        self._calls = Calls()
        self._undo: list[Callable[[], None]] = []
        found = {path: (module, _parameters(module, path, biases)) for path, module in model.named_modules()}
        self.modules = {path: (module, own) for path, (module, own) in found.items() if own}
        """The tapped modules by path, and their tapped parameters: (path, the module that holds it, its name)."""
        for path, (module, _) in self.modules.items():
            _check(path, module, self)
        for path, (module, own) in self.modules.items():
            self._tap(path, module, own)
        for path, (module, _) in found.items():
            prefix = path + "." if path else ""
            if path not in self.modules and any(other.startswith(prefix) for other in self.modules):
                self._watch(module)

    def _tap(self, path: str, module: nn.Module, parameters: list[Parameter]) -> None:
        forward = _Forward(self, path, module, parameters)
        vars(module)["forward"] = forward

        def undo() -> None:
            forward.removed = True
            # Taken off now, or, where another one has been put around it since, together with that one.
            top = vars(module).pop("forward", None)
            while isinstance(top, _Forward) and top.removed:
                top = top.before
            if top is not None:
                vars(module)["forward"] = top

        self._undo.append(undo)

    def _watch(self, module: nn.Module) -> None:
        enter = module.register_forward_pre_hook(_Hook(self._calls.enter, module), prepend=True)
        leave = module.register_forward_hook(_Hook(self._calls.leave, module), always_call=True)
        self._undo += [enter.remove, leave.remove]

    def remove(self) -> None:
        """Takes the taps off; the model is what it was before. A second call does nothing."""
        while self._undo:
            self._undo.pop()()


_WEIGHTED = (
    *(nn.Linear, nn.Embedding),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)


def _parameters(module: nn.Module, path: str, biases: bool) -> list[Parameter]:
    """The parameters of a module that are to be tapped."""
    names: list[str] = []
    if isinstance(module, nn.MultiheadAttention):
        names = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        names += ["in_proj_bias"] if biases else []
    elif isinstance(module, _WEIGHTED):
        names = ["weight", "bias"] if biases else ["weight"]
    elif isinstance(module, _NORMS) and biases:
        names = ["weight", "bias"]
    prefix = path + "." if path else ""
    present = {name: parameter for name in names if (parameter := module._parameters.get(name)) is not None}
    found = [(prefix + name, module, name) for name, parameter in present.items() if not parameter.dtype.is_complex]
    if isinstance(module, nn.MultiheadAttention):  # which uses the parameters of its output layer, not the layer
        found += _parameters(module.out_proj, prefix + "out_proj", biases)
    return found


def _check(path: str, module: nn.Module, taps: Taps) -> None:
    where = f"{path or 'the model'} ({type(module).__name__})"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(f"{where} has no parameters yet: run the model once on some input before")
    if getattr(module, "sparse", False):
        raise ValueError(f"{where} has sparse=True, and sparse gradients cannot be tapped: build it with sparse=False")
    other = vars(module).get("forward")
    if isinstance(other, _Forward) and (taps.substitute or other.taps.substitute):
        raise RuntimeError(
            f"{where} is tapped already, and taps that substitute gradients stand alone: remove() the others first"
        )


# ---------------------------------------------------------------- what is put on a model


class _Hook:
    """A hook on a module that knows its module, and that copies of the module do not inherit."""

    def __init__(self, function: Callable[[nn.Module], None], module: nn.Module) -> None:
        self._function = function
        self._module = weakref.ref(module)
        self._uncompiled = torch.compiler.disable(self._call)  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *_: Any) -> None:
        (self._uncompiled if torch.compiler.is_compiling() else self._call)(module)

    def _call(self, module: nn.Module) -> None:
        if module is not self._module():
            raise RuntimeError(
                f"a tapped {type(module).__name__} was replicated, as torch.nn.DataParallel does, which cannot be "
                "served: use torch.nn.parallel.DistributedDataParallel"
            )
        self._function(module)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> Any:
        return _no_hook, ()


def _nothing(*_: Any) -> None:
    """What is left of a hook in a copy."""


def _no_hook() -> Callable[..., None]:
    return _nothing


class _Forward:
    """Stands in for a tapped layer's `forward`, in that instance alone."""

    def __init__(self, taps: Taps, path: str, module: nn.Module, parameters: list[Parameter]) -> None:
        self.taps = taps
        self.removed = False
        self.before = vars(module).get("forward")
        self._path = path
        self._module = module
        self._original = module.forward
        self._uncompiled = torch.compiler.disable(self._tapped)  # type: ignore[no-untyped-call]
        self._interception = Interception(module, parameters, taps._calls, taps.listener, taps.substitute)
        plain = self.before is None or getattr(self.before, "__func__", None) is type(module).forward
        self._node = (
            NodeTap(module, parameters, taps._calls, taps.on_node)
            if plain and taps.on_node and isinstance(module, taps.followed)
            else None
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._uncompiled if torch.compiler.is_compiling() else self._tapped)(*args, **kwargs)

    def _tapped(self, *args: Any, **kwargs: Any) -> Any:
        if self.removed or self.taps._calls.idle():
            return self._original(*args, **kwargs)
        if self._node is not None and self._node.serves(args, kwargs):
            output = self._original(*args)
            if self._node.follow(output):
                return output
        with self._interception:
            output = self._original(*args, **kwargs)
        if self._interception.missing and torch.is_grad_enabled():
            self._interception.report_missing(self._path)
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _class_forward(memo[id(self._module)])

    def __reduce__(self) -> Any:
        return _class_forward, (self._module,)


def _class_forward(module: nn.Module) -> Any:
    """What is left of a tapped `forward` in a copy: the one that its class defines."""
    return types.MethodType(type(module).forward, module)
