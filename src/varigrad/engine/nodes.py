"""Taps on layers that a hook can follow on the node that autograd itself has made.

These are linear layers whose input is a matrix, samples by features, where a sample's output is one vector: a factor
for each of its elements can be multiplied into the rows of the weight's gradient as well as into the gradient at the
output. The same is true of a convolution with a factor for each channel. So the forward pass and the backward pass are
left to torch; the hook hears afterwards of the gradient at the output and of those of the parameters. It costs a fifth
of what standing in the operation's place costs, for a small layer as much as the layer itself.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .calls import Calls
from .interception import Call, Parameter, refuse_graph
from .parametrised import OPERATIONS

__all__ = ["NodeListener", "NodeTap"]


class NodeListener(Protocol):
    """Whoever a tap on a node reports to, once for every call in every backward pass."""

    def __call__(
        self, call: Call, inputs: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Hears of one call.

        Args:
            call: Which one.
            inputs: The layer's input, (M, features), or (M, channels, *space) padded already.
            grad: The gradient of the loss by its output, (M, features) or (M, channels, *space). Not to be written to.
            weight: The weight's gradient, which may be written over; None where it is not wanted.
            bias: The bias's gradient, not to be written to; None where it is not wanted or not tapped.

        Returns:
            What is to take the place of `weight` and `bias`.
        """


class _Node(NamedTuple):
    """Where a node of autograd has what it was made of."""

    inputs: str
    weight: int
    bias: int | None
    transposed: bool


_NODES = {
    "AddmmBackward0": _Node("_saved_mat1", 2, 0, True),
    "MmBackward0": _Node("_saved_self", 1, None, True),
    "ConvolutionBackward0": _Node("_saved_input", 1, 2, False),
}
_OPERATIONS = {
    nn.Linear: OPERATIONS[functional.linear],
    nn.Conv1d: OPERATIONS[functional.conv1d],
    nn.Conv2d: OPERATIONS[functional.conv2d],
    nn.Conv3d: OPERATIONS[functional.conv3d],
}
_DTYPES = (torch.float32, torch.float64)


class NodeTap:
    """The tap on one layer, for those of its inputs that are matrices, or batches of samples with channels.

    Args:
        module: The layer, Linear or Conv1d to 3d; it serves no other.
        parameters: Its tapped parameters.
        calls: Who numbers the calls.
        listener: Whom to report to.
    """

    def __init__(self, module: nn.Module, parameters: list[Parameter], calls: Calls, listener: NodeListener) -> None:
        paths = {name: path for path, _, name in parameters}
        self._module = module
        self._calls = calls
        self._listener = listener
        self._site = paths.get("weight")
        self._bias = "bias" in paths
        # Subclasses and parametrised layers have forward passes of their own.
        self._operation = _OPERATIONS.get(type(module))
        self._serves = self._operation is not None and self._site is not None and _nodes_are_seen()

    def serves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call is one that the hook can follow."""
        if not self._serves or len(args) != 1 or kwargs or not torch.is_grad_enabled():
            return False
        x, weight, bias = args[0], self._module._parameters.get("weight"), self._module._parameters.get("bias")
        return (
            type(x) is Tensor
            and type(weight) is nn.Parameter
            and (bias is None or type(bias) is nn.Parameter)
            and x.dim() == weight.dim()
            and x.dtype is weight.dtype
            and x.dtype in _DTYPES
            and weight.requires_grad
            and not torch.is_autocast_enabled(x.device.type)
            # Where somebody packs what is saved, as checkpointing does, it may be unpacked but once.
            and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        )

    def follow(self, output: Tensor) -> bool:
        """Hangs the hook on the node that made the output; False, from then on, where that is none it knows."""
        maker: Any = output.grad_fn
        node = _NODES.get(maker.name())
        if node is None or self._site is None or self._operation is None:
            self._serves = False
            return False
        number, arguments = self._calls.number(self._site), self._module._parameters.copy()
        call = Call(self._site, number, self._operation, self._module, arguments)
        maker.register_hook(functools.partial(self._arrived, call, node))
        return True

    def _arrived(self, call: Call, node: _Node, found: tuple[Any, ...], grads: tuple[Any, ...]) -> Any:
        (grad,) = grads
        if grad is None:
            return None
        refuse_graph(call)
        inputs = getattr(torch._C._current_autograd_node(), node.inputs).detach()
        weight = found[node.weight]
        if weight is not None and node.transposed:
            weight = weight.t()
        bias = found[node.bias] if node.bias is not None and self._bias else None
        answers = self._listener(call, inputs, grad, weight, bias)
        new = list(found)
        if weight is not None and answers[0] is not None:
            new[node.weight] = answers[0].t() if node.transposed else answers[0]
        if bias is not None and node.bias is not None:
            new[node.bias] = answers[1]
        return tuple(new)


@functools.cache
def _nodes_are_seen() -> bool:
    """Whether this version of torch lets a hook see the node that it hangs on, and says who packs saved tensors."""
    if not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
        return False
    seen = []
    with torch.enable_grad(), torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        weight = torch.ones(1, 1, requires_grad=True)
        output = torch.addmm(torch.zeros(1), torch.ones(1, 1), weight)
        maker: Any = output.grad_fn
        maker.register_hook(lambda *_: seen.append(getattr(torch._C._current_autograd_node(), "_saved_mat1", None)))
        torch.autograd.grad(output, weight)
    return bool(seen) and seen[0] is not None
