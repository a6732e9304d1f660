"""The matrices inside a network, whose steps may be orthogonalised: told by the modules that hold them."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["inner_matrices"]

Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def inner_matrices(model: nn.Module) -> list[Tensor]:
    """The weights of all `nn.Linear` of a network but the output layer, the kernels of its convolutions but the first.

    The output layer is the last `nn.Linear`, unless the network has `ties_output = True`: its embedding is it then.
    """
    linear: list[Tensor] = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    convolutions = [module for module in model.modules() if isinstance(module, Convolution)]
    inner = linear if getattr(model, "ties_output", False) else linear[:-1]
    return inner + [module.weight for module in convolutions[1:] if module.groups == 1]
