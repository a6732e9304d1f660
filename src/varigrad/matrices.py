"""The matrices inside a network, whose steps may be orthogonalised: told by the modules that hold them."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["inner_matrices"]

Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Recurrent = (nn.RNNBase, nn.RNNCellBase)
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def inner_matrices(model: nn.Module) -> list[Tensor]:
    """Returns the weights of all `nn.Linear` but the output layer, kernels of convolutions but the first, and more.

    The output layer is the last `nn.Linear`, unless the network has `ties_output = True`: its embedding is it then.
    Kernels in groups are no matrices. Besides, there are the projections of `nn.MultiheadAttention` and the weights of
    recurrent layers and cells, those of all gates being one matrix.
    """
    linear: list[Tensor] = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    convolutions = [module for module in model.modules() if isinstance(module, Convolution)]
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    inner = linear if getattr(model, "ties_output", False) else linear[:-1]
    inner += [module.weight for module in convolutions[1:] if module.groups == 1]
    projections = [getattr(module, name) for module in attentions for name in PROJECTIONS]
    inner += [projection for projection in projections if projection is not None]
    recurrent = [module for module in model.modules() if isinstance(module, Recurrent)]
    named = [pair for module in recurrent for pair in module.named_parameters(recurse=False)]
    # Not the length and the direction that weight normalisation has instead.
    return inner + [param for name, param in named if name.startswith("weight_") and not name.endswith(("_g", "_v"))]
